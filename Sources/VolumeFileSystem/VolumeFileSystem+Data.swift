internal import ByteStore
internal import Catalog
internal import Glibc
internal import Hydration
package import VolumeModel

/// Bytes: reading, writing, resizing, allocating, syncing.
extension VolumeFileSystem {
    package func open(_ inode: InodeNumber, openFlags: Int32) throws(FileSystemError) -> FileHandle {
        try run { _ = try $0.existing(inode) }
        if openFlags & O_ACCMODE != O_RDONLY, let refusal { throw .errno(refusal) }
        opens.withLock { $0.counts[inode, default: 0] += 1 }
        return FileHandle(inode.number)
    }

    package func release(_ inode: InodeNumber, handle: FileHandle) {
        let (isOver, hadFailed, wasRewritten) = opens.withLock { opens in
            let count = (opens.counts[inode] ?? 1) - 1
            opens.counts[inode] = count > 0 ? count : nil
            guard count <= 0 else { return (false, false, false) }
            let isOver = opens.forgottenOrphans.remove(inode) != nil
            if isOver { opens.orphans.remove(inode) }
            let wasRewritten = opens.rewritten.remove(inode) != nil
            if wasRewritten { rewriting.withLock { $0[inode] = nil } }
            return (isOver, opens.failedSyncs.remove(inode) != nil, wasRewritten)
        }
        if wasRewritten { endRewriting(inode) }
        if isOver {
            removeOrphan(inode)
        } else if hadFailed {
            storage.forgetSyncFailure(of: inode)
        }
    }

    // MARK: reading

    package func read(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, keepsAccessTime: Bool,
        into buffer: UnsafeMutableRawBufferPointer
    ) throws(FileSystemError) -> Int {
        var patience = Self.readPatience
        while true {
            let (record, count) = try run { state in
                try self.prepareRead(
                    inode, offset, buffer.count, keepsAccessTime: keepsAccessTime, in: &state)
            }
            guard count > 0 else { return 0 }
            recorder?.note(inode, offset: offset, byteCount: count)
            hydrator?.prefetched.noteRead(ByteRange(offset, offset + UInt64(count)), of: inode)
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[0..<count])
            guard record.data != .none else {
                part.initializeMemory(as: UInt8.self, repeating: 0)
                return count
            }
            do {
                let file = try storage.dataFile(of: record)
                try storage.checkSound(ByteRange(offset, offset + UInt64(count)), of: record)
                try file.read(into: part, at: offset)
                return count
            } catch {
                patience -= 1
                if patience > 0, isOfEarlierRead(error, record) { continue }
                throw translate(error)
            }
        }
    }

    /// How often a file may be cut while one read of it is under way. A disk that gives less than it says does so always.
    private static let readPatience = 100

    /// Whether bytes could not be read because the file was cut between the look-up and now: then there is something
    /// else to read.
    private func isOfEarlierRead(_ error: any Error, _ record: InodeRecord) -> Bool {
        switch (error as? ByteStoreError)?.errno {
        case .noSuchEntry: (try? storage.isCurrent(record)) == false
        // If not, that is found now.
        case .noData: true
        default: false
        }
    }

    /// - Returns: the inode, and how many bytes there are to read.
    private func prepareRead(
        _ inode: InodeNumber, _ offset: UInt64, _ limit: Int, keepsAccessTime: Bool,
        in state: inout CatalogState
    ) throws -> (InodeRecord, Int) {
        let record = try state.regularFile(inode)
        guard offset < record.attributes.size else { return (record, 0) }
        let count = Int(min(UInt64(limit), record.attributes.size - offset))
        if record.backedByteCount > offset {
            let missing = try state.missingRanges(of: inode, in: ByteRange(offset, offset + UInt64(count)))
            if let first = missing.first, let last = missing.last {
                throw FileSystemError.fault(.bytes(inode, ByteRange(first.start, last.end)))
            }
        }
        if !keepsAccessTime { noteAccess(to: record, in: &state) }
        return (record, count)
    }

    // MARK: size

    /// Cuts or extends a file. One that is cut where it ends gives back what was allocated beyond that, as on ext4.
    ///
    /// Bytes that are cut away stay in the data file until the catalog no longer shows them durably: a
    /// crash in between must not leave a hole where data was. When the disk refuses that now, the file is shorter even so,
    /// as any change is made that a later sync makes durable, or fails to: what failed would leave the kernel with the
    /// old size.
    ///
    /// - Parameter besides: what else is to be changed with it, all or nothing.
    /// - Returns: the attributes afterwards.
    func resize(
        _ inode: InodeNumber, to size: UInt64, besides: (inout CatalogState) throws -> Void
    ) throws(FileSystemError) -> FileAttributes {
        guard size <= Self.maximumFileSize else { throw .errno(.fileTooBig) }
        return try changing(frees: true) {
            try storage.withDataLock(of: inode) {
                let before = try storage.catalog.perform { try $0.regularFile(inode) }
                var givesRoomBack = false
                if size > before.attributes.size, before.data != .none {
                    let file = try storage.dataFile(of: before)
                    try storage.prepareGrowth(of: before, in: file)
                    try file.grow(to: size)
                } else if size > 0, before.data != .none {
                    // What a crash left beyond the old size goes before there is a new one.
                    let file = try storage.dataFile(of: before)
                    givesRoomBack = try size == before.attributes.size && file.hasRoomBeyondEnd(of: size)
                }
                let cutsData = try storage.catalog.perform { state in
                    let isCut = try Self.resize(inode, to: size, in: &state)
                    try besides(&state)
                    return isCut || givesRoomBack
                }
                if size < before.attributes.size {
                    hydrator?.prefetched.noteGone(ByteRange(size, ByteRange.maximumOffset), of: inode)
                }
                if size == 0, before.attributes.size > 0 { beginRewriting(inode) }
                if cutsData { storage.cutDataFile(of: inode) }
                return try storage.catalog.perform { try $0.existing(inode).attributes }
            }
        }
    }

    /// - Returns: whether its data file must be cut.
    private static func resize(
        _ inode: InodeNumber, to size: UInt64, in state: inout CatalogState
    ) throws -> Bool {
        var record = try state.regularFile(inode)
        let oldSize = record.attributes.size
        try state.cutBacking(of: &record, to: size)
        try state.noteChange(of: ByteRange(min(size, oldSize), ByteRange.maximumOffset), of: inode)
        if size == 0, record.data != .none {
            // A new data file, made when it is written to: the old one goes once that is durable.
            try state.discardData(record.data)
            record.data = .none
        }
        // Also where it had room beyond an end at 0.
        if size < oldSize || size == 0 {
            record.attributes.blockCount = min(record.attributes.blockCount, (size + 4095) / 4096 * 8)
        }
        record.attributes.size = size
        record.attributes.modificationTime = now()
        record.attributes.changeTime = record.attributes.modificationTime
        try state.update(record, kind: .structural)
        return size < oldSize && record.data != .none
    }

    package func allocate(
        _ inode: InodeNumber, handle: FileHandle, mode: AllocationMode, offset: UInt64, byteCount: UInt64
    ) throws(FileSystemError) {
        guard let range = ByteRange(checkedOffset: offset, byteCount: byteCount),
            range.end <= Self.maximumFileSize
        else { throw .errno(.fileTooBig) }
        guard !range.isEmpty else { throw .errno(.invalidArgument) }
        let takesRoom = mode != .punchHole
        try changing(frees: !takesRoom) {
            try storage.withDataLock(of: inode) {
                var room = try roomForWriting(inode, range)
                defer { giveBack(room) }
                let file = try storage.dataFile(of: room.record)
                if mode.mayExtend, range.end > room.record.attributes.size {
                    try storage.prepareGrowth(of: room.record, in: file)
                }
                if takesRoom {
                    let missing = try Self.missingByteCount(range, in: file)
                    guard try fits(range, &room, file) == range, storage.hasRoom(for: missing) else {
                        throw Errno.noSpace
                    }
                }
                switch mode {
                case .allocate, .allocateKeepingSize: try file.allocate(range)
                case .punchHole: try file.punchHole(range)
                case .zeroRange, .zeroRangeKeepingSize: try file.zero(range)
                }
                if mode.mayExtend { try file.grow(to: range.end) }
                if mode.makesZeros {
                    // Beyond the end nothing is shown, and the data file is to be no longer than its file.
                    let end = mode.mayExtend ? range.end : min(range.end, room.record.attributes.size)
                    if range.start < end {
                        try storage.noteWritten(ByteRange(range.start, end), to: file)
                    }
                }
                let blockCount = try file.takenBlockCount()
                try storage.catalog.perform { state in
                    try Self.noteAllocated(range, mode, inode, blockCount: blockCount, in: &state)
                }
            }
        }
    }

    private static func noteAllocated(
        _ range: ByteRange, _ mode: AllocationMode, _ inode: InodeNumber, blockCount: UInt64,
        in state: inout CatalogState
    ) throws {
        guard var record = try state.inode(inode) else { return }
        if mode.makesZeros { try state.markValid(range, of: inode) }
        noteTaken(blockCount, end: mode.mayExtend ? range.end : 0, of: &record)
        if mode.mayExtend { record.attributes.size = max(record.attributes.size, range.end) }
        // As ext4, also when bytes and size stay as they are.
        record.attributes.changeTime = now()
        record.attributes.modificationTime = record.attributes.changeTime
        try state.update(record, kind: .structural)
    }

    package func seek(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, toHole: Bool
    ) throws(FileSystemError) -> UInt64 {
        let (record, missing) = try run { state in
            let record = try state.regularFile(inode)
            guard offset < record.attributes.size else { throw Errno.noSuchDevice }
            return (record, try state.firstMissingRange(of: inode, from: offset))
        }
        let size = record.attributes.size
        do {
            // What has not arrived, or is damaged, may be data: it is called data, which lseek(2) allows.
            if record.data == .none {
                if toHole { return missing.map { $0.start > offset ? offset : $0.end } ?? offset }
                guard let missing else { throw Errno.noSuchDevice }
                return missing.start
            }
            let file = try storage.dataFile(of: record)
            if toHole {
                var position = offset
                while position < size {
                    position = try file.nextHole(from: position)
                    let gaps = [
                        try run { try $0.firstMissingRange(of: inode, from: position) },
                        storage.firstDamage(of: record.data, from: position),
                    ]
                    let ends = gaps.compactMap(\.self).filter { $0.start <= position }.map(\.end)
                    guard let end = ends.max() else { break }
                    position = end
                }
                return min(position, size)
            }
            let data = try file.nextData(from: offset)
            let damage = storage.firstDamage(of: record.data, from: offset)
            guard let found = [data, missing?.start, damage?.start].compactMap(\.self).min(), found < size
            else {
                throw Errno.noSuchDevice
            }
            return max(found, offset)
        } catch {
            throw translate(error)
        }
    }

    // MARK: durability

    package func synchronize(
        _ inode: InodeNumber, handle: FileHandle?, dataOnly: Bool
    ) throws(FileSystemError) {
        try checkServed()
        if opens.withLock({ $0.failedSyncs.contains(inode) }) { throw .errno(.inputOutput) }
        do {
            try storage.synchronize(inode, dataOnly: dataOnly)
        } catch {
            opens.withLock { opens in
                if opens.counts[inode] != nil { opens.failedSyncs.insert(inode) }
            }
            throw translate(error)
        }
        // Between commit and acknowledgement: what was fenced meanwhile may be in no later state, and is promised to nobody.
        try checkServed()
    }
}
