internal import ByteStore
internal import Catalog
internal import Glibc
package import Hydration
internal import Locks
internal import Synchronization
package import VolumeModel

/// A volume's head as a POSIX file system: names and attributes from the catalog, bytes from the byte
/// store, and what is missing through the hydrator.
///
/// A file handle is its inode's number: what another process must know to go on with open files is `OpenFiles`.
package final class VolumeFileSystem: MountableFileSystem {
    /// ext4's own limit with blocks of 4 KiB, which our data files share.
    static let maximumFileSize: UInt64 = (1 << 44) - 4096
    static let maximumLinkCount: UInt32 = 65_000

    /// Whether changes are accepted.
    package enum Access: Hashable, Sendable {
        case readWrite
        /// EROFS: somebody mounted it so.
        case readOnly
        /// ESTALE, whatever is asked: the head was sealed or fenced, another site owns the volume.
        case fenced
    }

    package let storage: HeadStorage
    let hydrator: Hydrator?
    /// Notes what is read; nil: nobody wants to know.
    let recorder: StartRecorder?
    let log: @Sendable (String) -> Void
    let isReadOnly: Bool
    /// For good. Set under the lock of `changeCount`, and looked at by every operation.
    private let isFenced: Atomic<Bool>
    /// Who changes something is counted, so that a fence can wait until the last of them is done.
    private let changeCount = Lock(0)
    private let paths = Mutex<[InodeNumber: String]>([:])
    let opens: Lock<OpenFiles>
    /// Of those in `opens.rewritten`, the ones whose new bytes are waited for as they come, and until when.
    let rewriting: Mutex<[InodeNumber: ContinuousClock.Instant]>
    /// Default access control lists of directories, as far as they were asked for; nil: there is none.
    let defaultLists = Mutex<[InodeNumber: AccessControlList?]>([:])

    /// - Parameters:
    ///   - hydrator: where missing bytes come from; nil for a head without an origin.
    ///   - recorder: takes note of what is read.
    ///   - opens: what `leave` of the file system before has given; nil: nothing is open.
    ///   - log: takes a line for a person when something failed that the application sees only as EIO.
    package init(
        storage: HeadStorage, hydrator: Hydrator?, access: Access = .readWrite,
        recorder: StartRecorder? = nil, resuming opens: OpenFiles? = nil,
        log: @escaping @Sendable (String) -> Void
    ) {
        self.storage = storage
        self.hydrator = hydrator
        isReadOnly = access == .readOnly
        isFenced = Atomic(access == .fenced)
        self.recorder = recorder
        let opens = opens ?? OpenFiles()
        self.opens = Lock(opens)
        let end = ContinuousClock.now + Self.rewritingTime
        rewriting = Mutex(Dictionary(uniqueKeysWithValues: opens.rewritten.map { ($0, end) }))
        self.log = log
    }

    package var mayFault: Bool {
        guard hydrator != nil else { return false }
        return (try? storage.catalog.perform { $0.missingByteCount > 0 || $0.isArriving }) ?? true
    }

    package func mayFault(reading inode: InodeNumber) -> Bool {
        guard mayFault else { return false }
        return (try? storage.catalog.perform { try $0.firstMissingRange(of: inode, from: 0) != nil }) ?? true
    }

    /// What is open, for the file system of another process that goes on with the same head. To be called when no
    /// operation is under way or follows.
    package func leave() -> OpenFiles { opens.withLock { $0 } }

    /// From the return of this on, no application's change is made by this file system, and what is asked of
    /// it fails: ESTALE. Waits for changes that are being made. What is open can be closed, and statfs is answered. Files that
    /// were unlinked while open are removed all the same, when the kernel lets go of them: no name leads there.
    ///
    /// - Returns: whether it was not fenced before.
    @discardableResult
    package func fence() -> Bool {
        let isFirst = changeCount.withLock { _ in !isFenced.exchange(true, ordering: .acquiringAndReleasing) }
        while changeCount.withLock({ $0 > 0 }) { usleep(100) }
        return isFirst
    }

    /// Removes what was unlinked while open, when the kernel has let go of everything.
    package func finish() throws(FileSystemError) {
        let orphans = opens.withLock { opens in
            defer {
                opens.orphans.removeAll()
                opens.forgottenOrphans.removeAll()
            }
            return opens.orphans
        }
        try perform { state in
            for orphan in orphans { try state.removeInode(orphan) }
        }
    }

    // MARK: one operation

    /// Runs an operation that changes nothing, unless the file system is fenced.
    func run<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws(FileSystemError) -> Result {
        try checkServed()
        return try perform(body)
    }

    private func perform<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws(FileSystemError) -> Result {
        do {
            return try storage.catalog.perform(body)
        } catch {
            throw translate(error)
        }
    }

    /// Runs an operation that changes names or attributes: all of it becomes durable, or nothing.
    ///
    /// - Parameter frees: whether it is one that must work on a full disk, so that somebody can make room.
    func change<Result: Sendable>(
        frees: Bool = false, _ body: (inout CatalogState) throws -> Result
    ) throws(FileSystemError) -> Result {
        try changing(frees: frees) { try self.storage.catalog.perform(body) }
    }

    /// Runs anything that changes the volume, unless it is fenced; a fence waits for the end of it.
    func changing<Result>(frees: Bool = false, _ body: () throws -> Result) throws(FileSystemError) -> Result
    {
        if let refused = beginChange() { throw .errno(refused) }
        defer { endChange() }
        guard frees || storage.hasRoom() else { throw .errno(.noSpace) }
        do {
            return try body()
        } catch {
            throw translate(error)
        }
    }

    /// - Returns: why nothing may be changed; nil: it may, until `endChange`, which a fence waits for.
    func beginChange() -> Errno? {
        changeCount.withLock { count in
            if let refusal { return refusal }
            count += 1
            return nil
        }
    }

    func endChange() { changeCount.withLock { $0 -= 1 } }

    /// Why a change is refused at the moment; nil: it is not.
    var refusal: Errno? {
        if isFenced.load(ordering: .acquiring) { return .stale }
        return isReadOnly ? .readOnly : nil
    }

    /// - Throws: ESTALE once the head was fenced: who only reads would not learn otherwise that what it sees is over.
    func checkServed() throws(FileSystemError) {
        if isFenced.load(ordering: .acquiring) { throw .errno(.stale) }
    }

    /// The one table from what went wrong below to what the application sees.
    func translate(_ error: any Error) -> FileSystemError {
        switch error {
        case let error as FileSystemError: return error
        case let error as Errno: return .errno(error)
        case let error as ByteStoreError:
            if [.noSpace, .fileTooBig, .quotaExceeded, .notSupported].contains(error.errno) {
                return .errno(error.errno)
            }
            log("\(error)")
            return .errno(.inputOutput)
        // Its finding was told, with the file's name, when it became known.
        case is DamagedBytes: return .errno(.inputOutput)
        case CatalogError.missingDirectory(let directory, let name):
            return .fault(.entries(directory, name: name))
        case let error as CatalogError:
            log("\(error)")
            switch error {
            case .database(let cause) where cause.isDiskFull: return .errno(.noSpace)
            case .system(_, _, .noSpace), .system(_, _, .quotaExceeded): return .errno(.noSpace)
            default: return .errno(.inputOutput)
            }
        default:
            log("\(error)")
            return .errno(.inputOutput)
        }
    }

    package func resolve(_ fault: Fault) async throws(FileSystemError) {
        let inode =
            switch fault {
            case .bytes(let inode, _), .entries(let inode, _): inode
            }
        do throws(HydrationError) {
            switch (hydrator, fault) {
            case (let hydrator?, .bytes(let inode, let range)): try await hydrator.fetch(range, of: inode)
            case (let hydrator?, .entries(let directory, let name)):
                try await hydrator.fetchEntries(of: directory, name: name)
            case (nil, .bytes(let inode, let range)): throw .noSource(inode: inode, range: range)
            case (nil, .entries(let directory, _)): throw .noDirectorySource(directory)
            }
        } catch {
            // The volume's name comes with the log, what and from where with the error.
            log("a use of \(name(of: inode)) fails with EIO: \(error)")
            throw .errno(.inputOutput)
        }
    }

    /// A name for people: a path if there is one, found once for each inode, for finding it is slow.
    private func name(of inode: InodeNumber) -> String {
        if let path = paths.withLock({ $0[inode] }) { return path }
        let path = storage.catalog.path(of: inode) ?? "a file without a name"
        paths.withLock { paths in
            if paths.count >= 256 { paths.removeAll() }
            paths[inode] = path
        }
        return path
    }

    /// The wall clock, as files' times take it.
    package static func now() -> FileTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return FileTime(seconds: Int64(time.tv_sec), nanoseconds: UInt32(clamping: time.tv_nsec)).held
    }
}

extension CatalogState {
    /// An inode that an operation names.
    ///
    /// - Throws: ESTALE when it is gone: the kernel knows it, the volume no longer does.
    mutating func existing(_ number: InodeNumber) throws -> InodeRecord {
        guard let record = try inode(number) else { throw Errno.stale }
        return record
    }

    mutating func directory(_ number: InodeNumber) throws -> InodeRecord {
        let record = try existing(number)
        guard record.attributes.kind == .directory else { throw Errno.notDirectory }
        return record
    }

    /// A directory whose names are to be changed: all of them are here.
    mutating func wholeDirectory(_ number: InodeNumber) throws -> InodeRecord {
        let record = try directory(number)
        try checkListed(number)
        return record
    }

    mutating func regularFile(_ number: InodeNumber) throws -> InodeRecord {
        let record = try existing(number)
        switch record.attributes.kind {
        case .regular: return record
        case .directory: throw Errno.isDirectory
        case .fifo, .socket, .characterDevice, .blockDevice, .symbolicLink: throw Errno.invalidArgument
        }
    }
}
