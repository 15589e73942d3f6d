package import Catalog
package import Hydration
import Synchronization
package import VolumeFileSystem
package import VolumeModel

/// A head with its file system in a directory, opened for a test.
package final class TestVolume: Sendable {
    package let directory: String
    package let storage: HeadStorage
    package let fileSystem: VolumeFileSystem
    package let hydrator: Hydrator?
    private let lines: Lines
    private let hydration: Mutex<Task<Void, any Error>?>

    private final class Lines: Sendable { let all = Mutex<[String]>([]) }

    /// What was logged for a person.
    package var log: [String] { lines.all.withLock { $0 } }

    /// - Parameters:
    ///   - freeSpace: what the disk is said to have; nil: what it has.
    ///   - opens: what `leave` of the one before gave; nil: nothing is open.
    package init(
        opening directory: String, source: FakeSource? = nil,
        configuration: Hydrator.Configuration = Hydrator.Configuration(), openFileLimit: Int = 512,
        freeSpace: (@Sendable () -> UInt64)? = nil, resuming opens: OpenFiles? = nil
    ) throws {
        self.directory = directory
        let lines = Lines()
        self.lines = lines
        let log: @Sendable (String) -> Void = { line in lines.all.withLock { $0.append(line) } }
        storage = try HeadStorage(
            opening: directory, openFileLimit: openFileLimit, keepsOrphans: opens != nil, freeSpace: freeSpace
        )
        let storage = self.storage
        hydrator = source.map {
            Hydrator(
                storage: storage, source: $0, directories: $0, configuration: configuration, log: log)
        }
        fileSystem = VolumeFileSystem(storage: storage, hydrator: hydrator, resuming: opens, log: log)
        hydration = Mutex(nil)
    }

    /// Makes an empty volume and opens it.
    package static func make(
        in directory: String, limits: VolumeLimits = VolumeLimits(byteCount: 1 << 40),
        openFileLimit: Int = 512
    ) throws -> TestVolume {
        try Catalog.create(
            in: directory, limits: limits, epoch: .first, now: VolumeFileSystem.now(), withRoot: true)
        return try TestVolume(opening: directory, openFileLimit: openFileLimit)
    }

    /// Makes a head that has an owner's names but none of its bytes, and is promoted.
    ///
    /// - Parameter countsBytes: false: the owner says that there are none.
    package static func makeHeir(
        of owner: Catalog, in directory: String, epoch: Epoch = Epoch(2), countsBytes: Bool = true
    ) async throws {
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 1 << 40), epoch: .first,
            now: VolumeFileSystem.now(), withRoot: false)
        let catalog = try Catalog(opening: directory)
        var position = try await owner.sendChanges(to: "heir", since: nil) { batch in
            try catalog.apply(try CatalogRowCoder.rows(of: batch))
        }
        if !countsBytes { position.counters.byteCount = 0 }
        try catalog.finishChanges(at: position)
        try catalog.perform { try $0.setEpoch(epoch) }
        try catalog.close()
    }

    /// The same for a head that has only the root's names, or the first of them: the others come when they are asked
    /// for.
    package static func makeArrivingHeir(
        of owner: Catalog, in directory: String, epoch: Epoch = Epoch(2), byteCount: Int
    ) throws {
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 1 << 40), epoch: .first,
            now: VolumeFileSystem.now(), withRoot: false)
        let catalog = try Catalog(opening: directory)
        let listing = try owner.list(
            ListingRequest(
                places: [ListingPlace(directory: .root, after: 0)], inodes: [.root], byteCount: byteCount))
        try catalog.beginArrival(with: listing.asSent(), at: try owner.position(), for: epoch)
        try catalog.perform { try $0.setEpoch(epoch) }
        try catalog.close()
    }

    /// Waits for the names of all directories.
    package func bringAllNames() async throws {
        while let place = try storage.catalog.perform({ try $0.missingPlaces(besides: [], limit: 1) }).first {
            try await fileSystem.resolve(.entries(place.directory, name: nil))
        }
    }

    package func startHydration() {
        guard let hydrator else { return }
        hydration.withLock { $0 = Task { try await hydrator.run() } }
    }

    /// Waits until every byte is here.
    package func waitForHydration() async throws { try await hydration.withLock { $0 }?.value }

    package func stopHydration() async {
        let task = hydration.withLock { $0 }
        task?.cancel()
        _ = await task?.result
    }

    package func close() async throws {
        await stopHydration()
        try fileSystem.finish()
        try storage.close()
    }

    /// Closes it for a process that goes on with what is open.
    package func leave() async throws -> OpenFiles {
        await stopHydration()
        let opens = fileSystem.leave()
        try storage.close()
        return opens
    }

    /// Runs an operation again until nothing it needs is missing.
    package func faulting<Result>(
        _ body: () throws(FileSystemError) -> Result
    ) async throws(FileSystemError) -> Result {
        while true {
            do {
                return try body()
            } catch .fault(let fault) {
                try await fileSystem.resolve(fault)
            }
        }
    }

    package func read(
        _ inode: InodeNumber, _ range: Range<Int>
    ) async throws(FileSystemError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xee, count: range.count)
        let count = try await faulting { () throws(FileSystemError) -> Int in
            var failure: FileSystemError?
            let count = bytes.withUnsafeMutableBytes { buffer -> Int in
                do throws(FileSystemError) {
                    return try fileSystem.read(
                        inode, handle: FileHandle(inode.number), offset: UInt64(range.lowerBound),
                        into: buffer)
                } catch {
                    failure = error
                    return 0
                }
            }
            if let failure { throw failure }
            return count
        }
        return Array(bytes.prefix(count))
    }

    @discardableResult
    package func write(
        _ inode: InodeNumber, at offset: Int, _ bytes: [UInt8]
    ) throws(FileSystemError) -> Int {
        var failure: FileSystemError?
        let count = bytes.withUnsafeBytes { buffer -> Int in
            do throws(FileSystemError) {
                return try fileSystem.write(
                    inode, handle: FileHandle(inode.number), offset: UInt64(offset), bytes: buffer)
            } catch {
                failure = error
                return 0
            }
        }
        if let failure { throw failure }
        return count
    }

    package func create(_ name: String, in parent: InodeNumber = .root) throws(FileSystemError) -> InodeNumber
    {
        let (attributes, handle) = try fileSystem.create(
            Array(name.utf8), in: parent, permissions: 0o644, openFlags: 2, caller: .root)
        fileSystem.release(attributes.inode, handle: handle)
        return attributes.inode
    }

    package func truncate(_ inode: InodeNumber, to size: Int) throws(FileSystemError) {
        var changes = AttributeChanges()
        changes.size = UInt64(size)
        _ = try fileSystem.setAttributes(changes, of: inode, caller: .root)
    }

    package func synchronize(_ inode: InodeNumber, dataOnly: Bool = false) throws(FileSystemError) {
        try fileSystem.synchronize(inode, handle: nil, dataOnly: dataOnly)
    }
}
