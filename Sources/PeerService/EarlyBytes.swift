internal import ByteStore
internal import Glibc
internal import Hydration
internal import Synchronization
package import VolumeModel

/// Bytes of files that a prepared follower has taken ahead of a hand-over, file by file under the inode's number.
///
/// Nothing relies on them. The owner went on writing while they came, no sync waits for them, and a crash may have torn them:
/// once a head was granted, the hash of each block is sent with the question for it, and only what the source has alike is
/// taken from here. So a block that is wrong costs what it would have cost without, and none is ever shown.
///
/// A file here that was compared from end to end has the length and, as its modification time, the change time that the
/// follower's catalog told then: whatever is written to it afterwards sets another.
package final class EarlyBytes: Sendable {
    /// What is compared by one hash: what a change there costs.
    package static let blockByteCount: UInt64 = 64 << 10
    /// Bytes in memory that are compared for one question.
    private static let questionByteCount: UInt64 = 4 << 20

    private let store: ByteStore
    private let remove: @Sendable () -> Void
    private let state = Mutex(State())

    private struct State {
        var isGivenUp = false
        /// What the files take on the disk.
        var byteCount: UInt64 = 0
    }

    /// - Parameters:
    ///   - directory: of these bytes alone. It is made if it is missing.
    ///   - remove: deletes it, with all that is in it.
    package init(directory: String, remove: @escaping @Sendable () -> Void) throws {
        store = try ByteStore(directory: directory, openFileLimit: 32)
        self.remove = remove
    }

    package var isGivenUp: Bool { state.withLock { $0.isGivenUp } }

    /// What they take of the disk: as of the last `sweep`, and what came since. After a restart what came since.
    package var byteCount: UInt64 { state.withLock { $0.byteCount } }

    /// Deletes all of it. From now on nothing is found here, and nothing can be put.
    package func giveUp() {
        let isFirst = state.withLock { state in
            defer { (state.isGivenUp, state.byteCount) = (true, 0) }
            return !state.isGivenUp
        }
        guard isFirst else { return }
        store.closeAll()
        remove()
    }

    // MARK: what is asked with

    /// Takes apart what is to be asked for: blocks of which something is here, with the bytes, and runs of which nothing is.
    ///
    /// - Parameter others: bytes of a block that are here in another place.
    /// - Returns: a prefix of the extents, as much as one question should hold.
    package func question(
        _ extents: [Extent], others: (Extent) async -> [UInt8]? = { _ in nil }
    ) async -> (asked: [Extent], own: [Extent: [UInt8]]) {
        var asked: [Extent] = []
        var own: [Extent: [UInt8]] = [:]
        var room = Self.questionByteCount
        for extent in extents {
            var runStart = extent.range.start
            var position = runStart
            func endRun() {
                guard runStart < position else { return }
                asked.append(Extent(inode: extent.inode, range: ByteRange(runStart, position)))
            }
            while position < extent.range.end, room > 0, asked.count < PeerLimits.extentCount - 2 {
                let end = min(
                    extent.range.end, (position / Self.blockByteCount + 1) * Self.blockByteCount)
                let part = Extent(inode: extent.inode, range: ByteRange(position, end))
                var bytes = bytes(of: part)
                if bytes == nil { bytes = await others(part) }
                if let bytes {
                    endRun()
                    asked.append(part)
                    own[part] = bytes
                    room -= min(room, part.range.byteCount)
                    runStart = end
                }
                position = end
            }
            endRun()
            guard position == extent.range.end else { break }
        }
        return (asked, own)
    }

    /// - Returns: nil: nothing but a hole, or it is not here to its end.
    private func bytes(of extent: Extent) -> [UInt8]? {
        guard !isGivenUp, let file = try? store.open(DataFileNumber(extent.inode.number)),
            let data = try? file.nextData(from: extent.range.start), data < extent.range.end
        else { return nil }
        let count = Int(extent.range.byteCount)
        var isRead = false
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            isRead =
                (try? file.read(into: UnsafeMutableRawBufferPointer(buffer), at: extent.range.start)) != nil
            filled = isRead ? count : 0
        }
        return isRead ? bytes : nil
    }

    /// These bytes are in the head now, or about to be: their room is given back.
    func drop(_ extent: Extent) {
        guard !isGivenUp, let file = try? store.open(DataFileNumber(extent.inode.number)) else { return }
        try? file.punchHole(extent.range)
    }

    // MARK: what is taken

    /// Whether all of a file was compared when it was last changed, as far as the catalog here knows.
    func isCurrent(_ file: EarlyFile) -> Bool {
        guard let data = try? store.open(DataFileNumber(file.inode.number)),
            let size = try? data.extent().size, size == file.size,
            let time = try? data.modificationTime()
        else { return false }
        return time == file.changeTime
    }

    /// - Throws: what the disk says, as that it is full.
    func put(_ piece: Piece) throws {
        try checkIsKept()
        let number = DataFileNumber(piece.inode.number)
        switch piece.content {
        case .bytes(let bytes):
            let file = try open(number)
            try bytes.withUnsafeBytes { try file.write($0, at: piece.range.start) }
            state.withLock { $0.byteCount += UInt64(bytes.count) }
        case .zeros:
            // Nothing of it is here as a rule.
            guard let file = try? store.open(number),
                let data = try file.nextData(from: piece.range.start), data < piece.range.end
            else { return }
            try file.punchHole(piece.range)
        case .stored: break
        }
    }

    /// All of a file was compared.
    func finish(_ file: EarlyFile) throws {
        try checkIsKept()
        let data = try open(DataFileNumber(file.inode.number))
        if try data.extent().size != file.size { try data.truncate(to: file.size) }
        try data.setModificationTime(file.changeTime)
    }

    /// Deletes files of which it is not said that they are wanted, and counts what the others take.
    package func sweep(isWanted: (InodeNumber) throws -> Bool) throws {
        var unwanted: [DataFileNumber] = []
        var byteCount: UInt64 = 0
        var failure: (any Error)?
        try store.forEach { number, extent in
            do {
                if try isWanted(InodeNumber(number.number)) {
                    byteCount += extent.blockCount * 512
                } else {
                    unwanted.append(number)
                }
            } catch { failure = error }
        } other: { _ in
        }
        if let failure { throw failure }
        for number in unwanted { try store.delete(number) }
        state.withLock { if !$0.isGivenUp { $0.byteCount = byteCount } }
    }

    private func open(_ number: DataFileNumber) throws -> DataFile {
        do {
            return try store.open(number)
        } catch {
            guard error.errno == .noSuchEntry else { throw error }
            return try store.create(number)
        }
    }

    private func checkIsKept() throws { if isGivenUp { throw CancellationError() } }
}

/// A file as a follower's catalog has it.
package struct EarlyFile: Hashable, Sendable {
    package let inode: InodeNumber
    package let size: UInt64
    package let changeTime: FileTime

    package init(inode: InodeNumber, size: UInt64, changeTime: FileTime) {
        self.inode = inode
        self.size = size
        self.changeTime = changeTime
    }
}
