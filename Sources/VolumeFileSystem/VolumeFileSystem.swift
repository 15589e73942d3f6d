internal import ByteStore
internal import Catalog
internal import Glibc
package import Hydration
internal import Synchronization
package import VolumeModel

/// A volume's head as a POSIX file system: names and attributes from the catalog, bytes from the byte
/// store, and what is missing through the hydrator.
///
/// A file handle is its inode's number: nothing of a handle lives only in this process.
package final class VolumeFileSystem: MountableFileSystem {
    /// ext4's own limit with blocks of 4 KiB, which our data files share.
    static let maximumFileSize: UInt64 = (1 << 44) - 4096
    static let maximumLinkCount: UInt32 = 65_000

    /// Whether changes are accepted.
    package enum Access: Hashable, Sendable {
        case readWrite
        /// EROFS: somebody mounted it so.
        case readOnly
        /// ESTALE: the head was sealed or fenced, another site owns the volume.
        case fenced
    }

    package let storage: HeadStorage
    let hydrator: Hydrator?
    let log: @Sendable (String) -> Void
    let access: Mutex<Access>
    let opens = Mutex(OpenFiles())

    struct OpenFiles {
        /// Handles open for each inode.
        var counts: [InodeNumber: Int] = [:]
        /// Inodes without a name that the kernel still knows.
        var orphans: Set<InodeNumber> = []
        /// Inodes whose fsync failed; until their last handle is closed every fsync of them fails.
        var failedSyncs: Set<InodeNumber> = []
    }

    /// - Parameters:
    ///   - hydrator: where missing bytes come from; nil for a head without an origin.
    ///   - log: takes a line for a person when something failed that the application sees only as EIO.
    package init(
        storage: HeadStorage, hydrator: Hydrator?, access: Access = .readWrite,
        log: @escaping @Sendable (String) -> Void
    ) {
        self.storage = storage
        self.hydrator = hydrator
        self.access = Mutex(access)
        self.log = log
    }

    /// From the return of this on, no change is accepted, under any circumstances, by this file system.
    package func fence() { access.withLock { $0 = .fenced } }

    /// Removes what was unlinked while open, when the kernel has let go of everything.
    package func finish() throws(FileSystemError) {
        let orphans = opens.withLock { opens in
            defer { opens.orphans.removeAll() }
            return opens.orphans
        }
        try run { state in
            for orphan in orphans { try state.removeInode(orphan) }
        }
    }

    // MARK: one operation

    /// Runs an operation that changes nothing.
    func run<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws(FileSystemError) -> Result {
        do {
            return try storage.catalog.perform(body)
        } catch {
            throw translate(error)
        }
    }

    /// Runs an operation that changes the volume: all of it becomes durable, or nothing.
    func change<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws(FileSystemError) -> Result {
        try checkWritable()
        return try run(body)
    }

    func checkWritable() throws(FileSystemError) {
        switch access.withLock({ $0 }) {
        case .readWrite: break
        case .readOnly: throw .errno(.readOnly)
        case .fenced: throw .errno(.stale)
        }
        guard storage.hasRoom() else { throw .errno(.noSpace) }
    }

    /// The one table from what went wrong below to what the application sees.
    func translate(_ error: any Error) -> FileSystemError {
        switch error {
        case let error as FileSystemError: return error
        case let error as Errno: return .errno(error)
        case let error as ByteStoreError:
            if error.errno == .noSpace || error.errno == .fileTooBig || error.errno == .quotaExceeded {
                return .errno(error.errno)
            }
            log("\(error)")
            return .errno(.inputOutput)
        case let error as CatalogError:
            log("\(error)")
            if case .database(let cause) = error, cause.isDiskFull { return .errno(.noSpace) }
            return .errno(.inputOutput)
        default:
            log("\(error)")
            return .errno(.inputOutput)
        }
    }

    package func resolve(_ fault: Fault) async throws(FileSystemError) {
        guard let hydrator else {
            log("\(HydrationError.noSource(inode: fault.inode, range: fault.range))")
            throw .errno(.inputOutput)
        }
        do {
            try await hydrator.fetch(fault.range, of: fault.inode)
        } catch {
            // The hydrator has logged volume, range and source; the file's name is known here.
            log("\(name(of: fault.inode)): \(error)")
            throw .errno(.inputOutput)
        }
    }

    /// A name for people: the inode's number, and one of its names if a look-up is cheap.
    func name(of inode: InodeNumber) -> String { "inode \(inode)" }

    /// The wall clock, as files' times take it.
    package static func now() -> FileTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return FileTime(seconds: Int64(time.tv_sec), nanoseconds: UInt32(clamping: time.tv_nsec))
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

    mutating func regularFile(_ number: InodeNumber) throws -> InodeRecord {
        let record = try existing(number)
        switch record.attributes.kind {
        case .regular: return record
        case .directory: throw Errno.isDirectory
        case .fifo, .socket, .characterDevice, .blockDevice, .symbolicLink: throw Errno.invalidArgument
        }
    }
}
