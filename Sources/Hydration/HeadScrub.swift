internal import BlockHashes
internal import ByteStore
internal import Catalog
internal import Glibc
package import VolumeModel

/// What a scrub looks at.
package struct ScrubTerms: Sendable {
    /// Files that were changed less than so long ago are left for later: they will probably change again. And what was
    /// written in the moment of the look must not go unnoticed: file systems tell times to a few milliseconds, some
    /// only to a second.
    package var quiet: Duration
    /// What was looked at less than so long ago, and has not been written since, is not read again.
    package var every: Duration

    package static let shortestQuiet: Duration = .seconds(2)

    package init(quiet: Duration = ScrubTerms.shortestQuiet, every: Duration = .zero) {
        self.quiet = quiet
        self.every = every
    }
}

/// How far a scrub has come.
package struct ScrubProgress: Hashable, Sendable {
    /// Bytes that were what their hashes say.
    package var verifiedByteCount: UInt64 = 0
    /// Bytes of which nothing was known before, or that were written since.
    package var hashedByteCount: UInt64 = 0
    /// Files that were being written to.
    package var busyFileCount = 0
    /// Blocks that were found damaged now and were not known to be.
    package var newDamageCount = 0

    package init() {}
}

/// Reads a head's data files, block by block, and holds them against what they were when nobody has written to them
/// since: then only the disk can have changed them.
///
/// Needs nobody's leave: it reads beside whoever uses the head, and holds no lock and no more than one file. Only blocks
/// of files that were left alone are told apart: a file that is written to now and then is hashed anew each time, with
/// whatever the disk may have done to the rest of it before.
///
/// Used by one thread at a time.
package final class HeadScrub {
    private static let stepByteCount: UInt64 = 1 << 20
    /// What it costs to look at a file that need not be read, in bytes read.
    private static let fileCost: UInt64 = 4096
    private static let batchCount = 256

    private let directory: String
    private let store: String
    private let terms: ScrubTerms
    private let noteFound: (DamagePlace?) throws -> Void
    private let hashes: HashDatabase
    private let buffer: UnsafeMutableRawBufferPointer
    private var files: [DataFileNumber] = []
    private var nextFile = 0
    private var scan: PartScan?
    private var fresh: [DataFileNumber] = []
    private var pending: [(part: PartID, record: PartRecord?, looked: Int64)] = []
    /// What is noted, by the blocks' first bytes.
    private var damaged: [DataFileNumber: [UInt64: DamagedBlock]] = [:]
    /// Whose data files are whose, once damage is found.
    private var owners: [DataFileNumber: InodeNumber]?
    private var found: [Extent] = []
    package private(set) var progress = ScrubProgress()

    /// - Parameters:
    ///   - directory: the head's.
    ///   - isInUse: whether this process has it open. Else nobody is to have it.
    ///   - noteFound: called when damage somewhere (nil: in several files) was noted or taken back: whoever has the head open
    ///     is to `learnDamage`.
    package init(
        _ directory: String, isInUse: Bool, terms: ScrubTerms,
        noteFound: @escaping (DamagePlace?) throws -> Void = { _ in }
    ) throws {
        self.directory = directory
        self.terms = terms
        self.noteFound = noteFound
        store = directory + "/data"
        let ending = try CatalogView(of: directory).ending()
        hashes = try HashDatabase(in: directory)
        buffer = .allocate(byteCount: Int(BlockHash.blockByteCount), alignment: 4096)
        // Whoever opened it has seen to what was before.
        try hashes.begin(
            life: MountLife.current(of: directory), isClean: isInUse || ending.isClean, isUse: isInUse,
            firstUncertain: ending.firstUncertain)
        for block in try hashes.damage().blocks {
            damaged[block.data, default: [:]][block.range.start] = block
        }
        guard access(store, F_OK) == 0 else { return }
        var sizes: [DataFileNumber: UInt64] = [:]
        try ByteStore(directory: store).forEach { number, extent in
            sizes[number] = extent.size
        } other: { _ in
        }
        files = sizes.keys.sorted()
        try findLosses(sizes)
    }

    /// Files that are gone or too short. What was known of files that nobody misses is forgotten.
    private func findLosses(_ sizes: [DataFileNumber: UInt64]) throws {
        let losses = try HeadLoss(directory, files: sizes)
        var missed: Set<DataFileNumber> = []
        for suspect in losses.suspects {
            missed.insert(suspect.data)
            let isNew = try hashes.addLoss(of: suspect.data, suspect.inode) { try losses.range(of: suspect) }
            if isNew { progress.newDamageCount += 1 }
        }
        try hashes.keep { sizes[$0] != nil || missed.contains($0) }
        if progress.newDamageCount > 0 { try noteFound(nil) }
    }

    deinit { buffer.deallocate() }

    /// The file that is being read, in the midst of it: to be left alone, for what is known of the rest of it holds only
    /// as long as nobody writes to it.
    package var current: DataFileNumber? { scan?.part.data }

    /// Where damage was found since this was last asked.
    package func takeFound() -> [Extent] {
        defer { found = [] }
        return found
    }

    /// Reads about a MiB.
    ///
    /// - Returns: about how many bytes; nil: all is done.
    package func step() throws -> UInt64? {
        guard access(directory + "/" + Catalog.fileName, F_OK) == 0 else {
            // The head is being deleted.
            scan = nil
            return nil
        }
        var cost: UInt64 = 0
        while cost < Self.stepByteCount {
            if scan == nil {
                guard nextFile < files.count else {
                    try flush()
                    return cost > 0 ? cost : nil
                }
                cost += Self.fileCost
                try open(PartID(files[nextFile], 0))
                if scan == nil { nextFile += 1 }
            } else {
                do {
                    cost += try readBlock()
                } catch let error as ByteStoreError where error.errno == .noSuchEntry {
                    // Deleted, and its place taken.
                    (scan, nextFile) = (nil, nextFile + 1)
                }
            }
        }
        return cost
    }

    /// The files that were being written to, once more.
    ///
    /// - Returns: whether there are any.
    package func turnToBusyFiles() -> Bool {
        (files, fresh, nextFile, scan) = (fresh, [], 0, nil)
        progress.busyFileCount = 0
        return !files.isEmpty
    }

    /// All of a head that no process has open, and once more what was changed a moment before.
    ///
    /// - Throws: when another process has it open.
    package static func run(closed directory: String, terms: ScrubTerms) throws -> ScrubProgress {
        let lock = try HeadLock(directory: directory)
        defer { lock.release() }
        let scrub = try HeadScrub(directory, isInUse: false, terms: terms)
        while try scrub.step() != nil {}
        if scrub.turnToBusyFiles() {
            usleep(useconds_t(clamping: terms.quiet.components.seconds * 1_000_000 + 100_000))
            while try scrub.step() != nil {}
        }
        return scrub.progress
    }

    // MARK: one part after another

    /// Begins with a part of a file, or the first one after it that is to be read.
    private func open(_ first: PartID) throws {
        var part = first
        let file: StillFile
        do {
            file = try scan?.file ?? StillFile(part.data, in: store)
        } catch let error as ByteStoreError where error.errno == .noSuchEntry {
            return
        }
        let state = try file.state()
        if part.index == 0 { try hashes.cut(part.data, to: state.size) }
        scan = nil
        let now = Self.now()
        while part.start < state.size {
            let known = try hashes.record(of: part)
            let count = part.blockCount(ofSize: state.size)
            let isKnown = known?.record.isOf(state, blockCount: count) ?? false
            if let known, isKnown, known.looked <= now,
                .seconds(now - known.looked) < terms.every
            {
                part = PartID(part.data, part.index + 1)
                continue
            }
            guard isKnown || state.age >= max(terms.quiet, .milliseconds(100)) else {
                return noteBusy(part.data)
            }
            scan = PartScan(
                file: file, part: part, state: state, known: isKnown ? known?.record : nil,
                blockCount: count)
            return
        }
    }

    private func noteBusy(_ number: DataFileNumber) {
        fresh.append(number)
        progress.busyFileCount += 1
    }

    private static func now() -> Int64 { Int64(time(nil)) }

    /// - Returns: what it cost.
    private func readBlock() throws -> UInt64 {
        guard let scan else { return 0 }
        guard scan.hashes.count < scan.blockCount else {
            try finish(scan)
            return 0
        }
        let block = scan.hashes.count
        let range = scan.part.range(ofBlock: block, size: scan.state.size)
        var found = try scan.look(at: range, buffer)
        let expected = scan.known?.hash(ofBlock: block)
        if let expected, found.hash != expected {
            // Once more: what went wrong on the way to memory is no damage.
            scan.forgetHoles()
            found = try scan.look(at: range, buffer)
        }
        if found.hash == nil || expected != nil && found.hash != expected {
            guard try scan.file.state() == scan.state,
                try noteMismatch(in: scan, range, found.hash, expected: expected)
            else {
                noteBusy(scan.part.data)
                (self.scan, nextFile) = (nil, nextFile + 1)
                return found.byteCount
            }
        } else {
            let hash = found.hash ?? BlockHash.ofZeros
            try noteSound(scan.part.data, range, hash)
            scan.hashes.append(hash)
        }
        if expected == nil {
            progress.hashedByteCount += range.byteCount
        } else if found.hash == expected {
            progress.verifiedByteCount += range.byteCount
        }
        return found.byteCount
    }

    private func finish(_ scan: PartScan) throws {
        guard try scan.file.state() == scan.state else {
            noteBusy(scan.part.data)
            (self.scan, nextFile) = (nil, nextFile + 1)
            return
        }
        if !scan.isUnreadable {
            let record = PartRecord(hashes: scan.hashes.flatMap(\.self), of: scan.state)
            pending.append((scan.part, record == scan.known ? nil : record, Self.now()))
            if pending.count >= Self.batchCount { try flush() }
        }
        try open(PartID(scan.part.data, scan.part.index + 1))
        if self.scan == nil { nextFile += 1 }
    }

    /// Writes what has been found. What is lost without it is only found again.
    package func flush() throws {
        guard !pending.isEmpty else { return }
        let rows = pending
        pending = []
        try hashes.write(rows)
    }

    // MARK: damage

    /// - Returns: false when the file was written to meanwhile: then nothing is known.
    private func noteMismatch(
        in scan: PartScan, _ range: ByteRange, _ found: [UInt8]?, expected: [UInt8]?
    ) throws -> Bool {
        let wasDamaged = damaged[scan.part.data]?[range.start]
        if let found, wasDamaged?.expected == found {
            // What was hashed since was the damage.
            try noteSound(scan.part.data, range, found)
            scan.hashes.append(found)
            return true
        }
        if found == nil { scan.isUnreadable = true }
        let owner = try self.owner(of: scan.part.data)
        let isUsed = owner.map { $0.resident?.contains { $0.overlaps(range) } ?? true } ?? false
        guard let owner, isUsed else {
            // Bytes that nobody will ever read here: what is there now is as good.
            scan.hashes.append(found ?? BlockHash.ofZeros)
            return true
        }
        scan.hashes.append(expected ?? BlockHash.ofZeros)
        let block = DamagedBlock(
            data: scan.part.data, range: range, inode: owner.inode, expected: expected ?? [])
        guard try hashes.add(block.unconfirmed) else { return true }
        try noteFound(DamagePlace(data: block.data, block: range))
        // From here on who writes there tells; who has written before must not find it called damaged.
        guard try scan.file.state() == scan.state else {
            try hashes.remove(block)
            try noteFound(DamagePlace(data: block.data, block: range))
            return false
        }
        try hashes.confirm(block)
        self.found.append(Extent(inode: block.inode, range: block.range))
        damaged[block.data, default: [:]][range.start] = block
        progress.newDamageCount += 1
        return true
    }

    private func owner(of data: DataFileNumber) throws -> DataOwner? {
        let view = try CatalogView(of: directory)
        if owners == nil {
            var all: [DataFileNumber: InodeNumber] = [:]
            try view.forEachClaim { all[$0.data] = $0.inode }
            owners = all
        }
        // Of files that are newer it is looked for.
        if let inode = owners?[data], let owner = try view.owner(of: data, inode: inode) { return owner }
        return try view.owner(of: data)
    }

    /// A block that was damaged and is again what it was: the disk has thought better of it.
    private func noteSound(_ data: DataFileNumber, _ range: ByteRange, _ hash: [UInt8]) throws {
        guard let block = damaged[data]?[range.start],
            block.expected.isEmpty || block.confirmed.expected == hash
        else { return }
        try hashes.remove(block)
        try noteFound(DamagePlace(data: data, block: block.range))
        damaged[data]?[range.start] = nil
    }
}

/// A part of a data file that is being read.
private final class PartScan {
    let file: StillFile
    let part: PartID
    let state: FileState
    /// What it was, if nobody has written to the file since.
    let known: PartRecord?
    let blockCount: Int
    /// What is to be kept of the blocks so far.
    var hashes: [[UInt8]] = []
    var isUnreadable = false
    private var data: (from: UInt64, next: UInt64?)?

    init(file: StillFile, part: PartID, state: FileState, known: PartRecord?, blockCount: Int) {
        self.file = file
        self.part = part
        self.state = state
        self.known = known
        self.blockCount = blockCount
    }

    func forgetHoles() { data = nil }

    /// - Returns: the hash of what is there now, nil when it cannot be read; and how many bytes were read.
    func look(
        at range: ByteRange, _ buffer: UnsafeMutableRawBufferPointer
    ) throws(ByteStoreError) -> (hash: [UInt8]?, byteCount: UInt64) {
        // Long holes are found once.
        if let data, data.from <= range.start, data.next.map({ $0 >= range.end }) ?? true {
            return (BlockHash.ofZeros, 0)
        }
        let next = try file.nextData(from: range.start)
        data = (range.start, next)
        if next.map({ $0 >= range.end }) ?? true { return (BlockHash.ofZeros, 0) }
        do {
            let count = min(try file.read(into: buffer, at: range.start), Int(range.byteCount))
            return (
                BlockHash.of(UnsafeRawBufferPointer(rebasing: buffer[..<count])), UInt64(count)
            )
        } catch {
            guard error.errno == .inputOutput else { throw error }
            return (nil, range.byteCount)
        }
    }
}
