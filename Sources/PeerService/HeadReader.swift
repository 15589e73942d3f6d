internal import ByteStore
package import Catalog
package import Hydration
package import VolumeModel

/// Reads bytes of a head for the site that it was sealed for.
///
/// A sealed head does not change, so nothing is locked. After a takeover by force it may: then only files that are
/// as they were are given. What it lacks itself it fetches from its own
/// origin first: a chain of sites works.
package struct HeadReader: Sendable {
    /// Runs of zeros shorter than this are sent as bytes: naming them would cost as much.
    private static let shortestZeroRun = 4096

    private let storage: HeadStorage
    private let hydrator: Hydrator?
    private let basis: Basis
    /// Whether bytes are only named, for who can take them from the data file; what to do where it cannot.
    private var namesBytes: (@Sendable (InodeNumber) -> Void)?

    /// Of a head at this site that nobody changes: bytes are not read but named.
    init(naming storage: HeadStorage, noteFailure: @escaping @Sendable (InodeNumber) -> Void) {
        self.init(storage: storage, hydrator: nil)
        namesBytes = noteFailure
    }

    /// What the reader has seen of the head.
    package enum Basis: Sendable {
        /// All: the head does not change.
        case all
        /// Of a head that goes on, what is pinned there.
        case through(SequenceNumber)
        /// Of a head that went back in time and goes on, files that say the same.
        case files(SeenFiles)
        /// Of a head that is in use, bytes as they are at some moment.
        case passing
    }

    package init(
        storage: HeadStorage, hydrator: Hydrator?, seen basis: Basis = .all
    ) {
        self.storage = storage
        self.hydrator = hydrator
        self.basis = basis
    }

    private var goesOn: Bool { if case .all = basis { false } else { true } }
    private var isPassing: Bool { if case .passing = basis { true } else { false } }

    /// Reads a head that may begin to change meanwhile: by a takeover, or because who reads has lost its right to.
    ///
    /// - Parameter find: gives the reader as of now, or throws where there is none. What was read counts only if it is the same
    ///   afterwards: a head is said to go on before the first write.
    package static func read<Result>(
        of find: () async throws -> HeadReader, _ read: (HeadReader) async throws -> Result
    ) async throws -> Result {
        let reader = try await find()
        let result = try await read(reader)
        // Of one that goes on it was looked at file by file.
        guard !reader.goesOn else { return result }
        let after = try await find()
        return after.goesOn ? try await read(after) : result
    }

    /// - Returns: pieces that cover a prefix of the extents, in order, with at most `maximumByteCount` bytes
    ///   of data; a hole is named whole, also beyond what was asked.
    ///
    /// - Parameter hashes: of what the reader has itself, by the extents' places; one that is the same here is given
    ///   whole and marked as the reader's own.
    package func read(
        _ extents: [Extent], hashes: [Int: [UInt8]] = [:], maximumByteCount: Int
    ) async throws -> [Piece] {
        var room = UInt64(min(max(maximumByteCount, 4096), PeerLimits.readAnswerByteCount))
        var compared: UInt64 = 0
        var pieces: [Piece] = []
        for (index, extent) in extents.enumerated() {
            guard room > 0, compared < Self.comparisonLimit else { return pieces }
            if let hash = hashes[index], extent.range.byteCount <= UInt64(PeerLimits.readAnswerByteCount) {
                compared += extent.range.byteCount
                if let same = try await own(extent, hash) {
                    pieces.append(same)
                    continue
                }
            }
            var position = extent.range.start
            while position < extent.range.end {
                guard room > 0 else { return pieces }
                let wanted = ByteRange(position, min(extent.range.end, position + room))
                let found: Piece
                do {
                    found = try await piece(of: extent.inode, in: wanted)
                } catch PeerError.damaged(let inode, let range) {
                    // What comes before it is good.
                    if !pieces.isEmpty { return pieces }
                    throw PeerError.damaged(inode, range)
                } catch PeerError.gone(let inode) where isPassing {
                    if !pieces.isEmpty { return pieces }
                    throw PeerError.gone(inode)
                }
                try checkUnchanged(extent.inode)
                if found.content != .zeros { room -= min(room, found.range.byteCount) }
                position = found.range.end
                pieces.append(contentsOf: Self.split(found))
            }
        }
        return pieces
    }

    /// Bytes that are compared for one answer: more would take long.
    private static let comparisonLimit: UInt64 = 8 << 20

    /// An extent, if all of it is what the reader has. The piece holds no bytes: the reader has them.
    private func own(_ extent: Extent, _ hash: [UInt8]) async throws -> Piece? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Int(extent.range.byteCount))
        var position = extent.range.start
        while position < extent.range.end {
            let found: Piece
            do {
                found = try await piece(of: extent.inode, in: ByteRange(position, extent.range.end))
            } catch PeerError.damaged {
                return nil
            } catch PeerError.gone where isPassing {
                return nil
            }
            switch found.content {
            case .bytes(let part): bytes += part
            case .stored: throw PeerError.gone(extent.inode)
            case .zeros:
                let end = min(found.range.end, extent.range.end)
                bytes += repeatElement(0, count: Int(end - position))
            }
            position = min(found.range.end, extent.range.end)
        }
        try checkUnchanged(extent.inode)
        guard ReadCoding.hash(bytes[...]) == hash else { return nil }
        return Piece(inode: extent.inode, range: extent.range, content: .bytes([]), isOwn: true)
    }

    /// Which bytes have changed since the reign of `epoch` began, here or elsewhere before, the inodes above `after`, in
    /// parts.
    package func changes(since epoch: Epoch, after: InodeNumber) async throws -> ChangesSince {
        // Of a head that has gone on without its reader's knowledge nothing is told in this way.
        guard !goesOn else { return ChangesSince(kind: .unknown) }
        let catalog = storage.catalog
        return try await BlockingThreads.run {
            try catalog.performCommitting {
                try $0.changes(since: epoch, after: after, byteCount: PeerLimits.changesAnswerByteCount)
            }
        }
    }

    /// Which bytes changed in the reign that ended with what was granted to `heir`, the inodes above `after`, in parts.
    package func changes(inReignBefore heir: Epoch, after: InodeNumber) async throws -> ChangesSince {
        guard !goesOn else { return ChangesSince(kind: .unknown) }
        let catalog = storage.catalog
        return try await BlockingThreads.run {
            try catalog.performCommitting {
                try $0.changes(
                    inReignBefore: heir, after: after, byteCount: PeerLimits.changesAnswerByteCount)
            }
        }
    }

    /// What the reader has seen of a head that goes on is pinned: its names are as they were.
    package func list(_ request: ListingRequest) async throws -> Listing {
        let position: SequenceNumber? =
            switch basis {
            case .all: nil
            case .through(let position): position
            case .files, .passing: throw PeerError.refused("names of a head that may be another's by now")
            }
        let catalog = storage.catalog
        // What is not committed yet is, first.
        return try await BlockingThreads.run { try catalog.list(request, asOf: position) }
    }

    /// Where the head was sealed.
    package func position() throws -> CatalogPosition {
        guard !goesOn else {
            throw PeerError.refused("the end of a head that has gone on since it was handed over")
        }
        return try storage.catalog.position()
    }

    /// Which parts of some extents are not in this head's storage, extent by extent.
    ///
    /// - Returns: nil for a file that is gone, or was written to since the reader looked, or of which the disk has damaged
    ///   bytes: nobody is given these.
    package func missingParts(of extents: [Extent]) throws -> [[ByteRange]?] {
        try extents.map { extent in
            do {
                try checkUnchanged(extent.inode)
            } catch PeerError.changed {
                return nil
            } catch let error as ByteStoreError where error.errno == .noSuchEntry {
                // Its data file is lost: that is no other's loss.
                return nil
            }
            let (record, missing) = try storage.catalog.perform { state in
                (try state.inode(extent.inode), try state.missingRanges(of: extent.inode, in: extent.range))
            }
            guard let record else { return nil }
            if record.data != .none,
                let damage = storage.firstDamage(of: record.data, from: extent.range.start),
                damage.start < extent.range.end
            {
                return nil
            }
            return missing
        }
    }

    /// After the bytes were read, and with nobody amid a write: then they are what the reader saw.
    private func checkUnchanged(_ inode: InodeNumber) throws {
        guard goesOn, !isPassing else { return }
        let isUnchanged = try storage.withDataLock(of: inode) {
            let (record, mayHideWrites) = try storage.catalog.perform { state -> (InodeRecord?, Bool) in
                switch basis {
                case .all, .passing: return (try state.peekInode(inode), false)
                case .through(let position):
                    guard try state.isUnchanged(inode, since: position) else { return (nil, false) }
                    return (try state.peekInode(inode), try state.mayHideWrites(since: position))
                case .files(let seen):
                    guard let file = seen.files[inode], let record = try state.peekInode(inode),
                        record.attributes.linkCount > 0, SeenFiles.File(record.attributes) == file
                    else { return (nil, false) }
                    return (record, try state.mayHideWrites(since: nil))
                }
            }
            guard let record else { return false }
            guard mayHideWrites, record.data != .none else { return true }
            // What was written in the last moments before a crash is in the file, and the catalog does not know. No program
            // sets these two times: not of the data file, nor when an inode was last changed.
            return try storage.dataFile(of: record).modificationTime() <= record.attributes.changeTime
        }
        guard isUnchanged else { throw PeerError.changed(inode) }
    }

    /// One run of data or one hole, from the start of `range`.
    private func piece(of inode: InodeNumber, in range: ByteRange) async throws -> Piece {
        guard isPassing else { return try await storedPiece(of: inode, in: range) }
        do {
            return try await storedPiece(of: inode, in: range)
        } catch is ByteStoreError {
            // It was cut or removed in between, and nobody is to take that for a disk that has lost something.
            throw PeerError.gone(inode)
        }
    }

    private func storedPiece(of inode: InodeNumber, in range: ByteRange) async throws -> Piece {
        let (record, missing) = try storage.catalog.perform { state in
            (try state.inode(inode), try state.missingRanges(of: inode, in: range))
        }
        guard let record else { throw PeerError.gone(inode) }
        if !missing.isEmpty {
            guard let hydrator else { throw PeerError.gone(inode) }
            try await hydrator.fetch(range, of: inode)
            return try await storedPiece(of: inode, in: range)
        }
        let size = record.attributes.size
        guard record.data != .none, range.start < size else {
            // Beyond the end, or a file without data here: a hole up to what may still come from an origin.
            let end = try holeEnd(inode, from: range, limit: max(size, range.end))
            return Piece(inode: inode, range: ByteRange(range.start, end), content: .zeros)
        }
        // First: only then it is known whether all of it is there.
        let opened = Result {
            try isPassing ? storage.passingDataFile(of: record) : storage.dataFile(of: record)
        }
        let damage = storage.firstDamage(of: record.data, from: range.start)
        if let damage, damage.start <= range.start { throw PeerError.damaged(inode, damage) }
        let sound = damage?.start ?? .max
        let file = try opened.get()
        let data = try file.nextData(from: range.start) ?? size
        if data > range.start {
            let end = try holeEnd(inode, from: range, limit: max(min(data, size), range.start + 1))
            return Piece(inode: inode, range: ByteRange(range.start, min(end, sound)), content: .zeros)
        }
        let end = min(range.end, size, sound, max(try file.nextHole(from: range.start), range.start + 1))
        let part = ByteRange(range.start, end)
        if let namesBytes {
            let stored = StoredBytes(file) { namesBytes(inode) }
            return Piece(inode: inode, range: part, content: .stored(stored))
        }
        var failure: (any Error)?
        let bytes = [UInt8](unsafeUninitializedCapacity: Int(part.byteCount)) { buffer, count in
            do {
                try file.read(into: UnsafeMutableRawBufferPointer(buffer), at: part.start)
                count = Int(part.byteCount)
            } catch { failure = error }
        }
        if let failure { throw failure }
        return Piece(inode: inode, range: part, content: .bytes(bytes))
    }

    /// How far a hole reaches that begins at `range.start`, if nothing before is missing here.
    private func holeEnd(_ inode: InodeNumber, from range: ByteRange, limit: UInt64) throws -> UInt64 {
        let gap = try storage.catalog.perform { try $0.firstMissingRange(of: inode, from: range.start) }
        return min(limit, gap?.start ?? limit)
    }

    /// Names the runs of zeros in a piece of data.
    static func split(_ piece: Piece) -> [Piece] {
        guard case .bytes(let bytes) = piece.content else { return [piece] }
        var pieces: [Piece] = []
        var runStart = 0
        var position = 0
        func append(_ range: Range<Int>, _ isZero: Bool) {
            guard !range.isEmpty else { return }
            let start = piece.range.start + UInt64(range.lowerBound)
            pieces.append(
                Piece(
                    inode: piece.inode, range: ByteRange(start, start + UInt64(range.count)),
                    content: isZero ? .zeros : .bytes(Array(bytes[range]))))
        }
        var runIsZero = false
        while position < bytes.count {
            let end = min(bytes.count, position + shortestZeroRun)
            let isZero = end - position == shortestZeroRun && isAllZero(bytes, position..<end)
            if isZero != runIsZero {
                append(runStart..<position, runIsZero)
                runStart = position
                runIsZero = isZero
            }
            position = end
        }
        if runStart == 0, !runIsZero { return [piece] }
        append(runStart..<bytes.count, runIsZero)
        return pieces
    }

    private static func isAllZero(_ bytes: [UInt8], _ range: Range<Int>) -> Bool {
        bytes.withUnsafeBytes { buffer in
            let part = UnsafeRawBufferPointer(rebasing: buffer[range])
            // Most data is told apart by its first bytes; the rest is compared eight bytes at a time.
            var offset = 0
            while offset + 8 <= part.count {
                if part.loadUnaligned(fromByteOffset: offset, as: UInt64.self) != 0 { return false }
                offset += 8
            }
            return part[offset...].allSatisfy { $0 == 0 }
        }
    }
}
