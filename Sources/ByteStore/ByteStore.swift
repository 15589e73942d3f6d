internal import CLinux
internal import Glibc
internal import Locks
internal import Synchronization
package import VolumeModel

/// The bytes of one head: a directory of data files, with a bounded number of them open at a time.
///
/// Invariant: while anybody uses a data file there is one `DataFile` for it. Two would not know of each
/// other's changes, and a sync through one could skip what was written through the other.
package final class ByteStore: Sendable {
    /// Open data files that are kept for the next use. The hard limit of a process may be 20,000
    /// descriptors and a site serves many volumes, so that each takes only a share.
    package static let defaultOpenFileLimit = 512
    /// From this many changed files on, one syncfs costs less than a sync of each.
    private static let fewFiles = 16
    /// The same where somebody waits who has written none of them.
    private static let manyFiles = 256

    package let directory: String
    private let root: DataDirectory
    private let refuseSync: (@Sendable () -> ByteStoreError?)?
    private let spares: SpareFiles
    private let openFiles: Lock<OpenFiles>
    /// Held during a sync of everything: who comes second must not return before the first one's sync has.
    private let syncingAll = Mutex(())

    private struct OpenFiles {
        var files: [DataFileNumber: (file: DataFile, lastUse: UInt64)] = [:]
        var clock: UInt64 = 0
        /// The table is searched for files to let go when it has grown to this.
        var evictionCount: Int
        let limit: Int
        /// Files that were let go with changes that are not synced.
        var unsyncedBeyond: Set<DataFileNumber> = []
        /// Those of them that are being synced just now.
        var beingSynced: Set<DataFileNumber> = []
        /// Files that were let go of which a power loss may bring back what was cut away: whoever opens one must know. And
        /// those that are being synced just now.
        var cutBeyond: Set<DataFileNumber> = []
        var cutBeingSynced: Set<DataFileNumber> = []
        /// Files that were let go and whose changes may be gone: each says so when it is opened.
        var failedBeyond: [DataFileNumber: ByteStoreError] = [:]

        /// What must not be forgotten of a file that is let go.
        mutating func noteLetGo(_ file: DataFile) {
            if file.isChanged { unsyncedBeyond.insert(file.number) }
            if file.hasUnsyncedCut { cutBeyond.insert(file.number) }
        }
    }

    /// Opens the store, making its directory if it is missing.
    ///
    /// - Parameter refuseSync: says before each sync of the whole disk whether it is refused, and why: for tests.
    package init(
        directory: String, openFileLimit: Int = ByteStore.defaultOpenFileLimit,
        refuseSync: (@Sendable () -> ByteStoreError?)? = nil
    ) throws(ByteStoreError) {
        self.directory = directory
        self.refuseSync = refuseSync
        root = try DataDirectory(path: directory)
        spares = SpareFiles(in: root)
        let limit = max(16, openFileLimit)
        openFiles = Lock(OpenFiles(evictionCount: limit, limit: limit))
    }

    /// Makes a new, empty data file. What an earlier life may have left under its number is gone.
    ///
    /// - Parameter isNext: whether the catalog numbers files one after the other, and this is the next: the ones after it
    ///   may be made ahead then.
    package func create(
        _ number: DataFileNumber, isNext: Bool = false
    ) throws(ByteStoreError) -> DataFile {
        let name = Self.name(of: number)
        let descriptor =
            if isNext, let spare = spares.take(number) {
                spare
            } else {
                try root.make(name, replaces: true)
            }
        return keep(DataFile(number: number, descriptor: descriptor, name: name, in: root, isNew: true))
    }

    /// A data file that exists.
    ///
    /// - Throws: ENOENT when it is gone: its bytes are lost here, which the caller must not take for zeros. EIO when something
    ///   else is in its place, or the file has another name besides.
    package func open(_ number: DataFileNumber) throws(ByteStoreError) -> DataFile {
        if let file = kept(number) { return file }
        let name = Self.name(of: number)
        let descriptor = try root.open(name)
        return keep(DataFile(number: number, descriptor: descriptor, name: name, in: root, isNew: false))
    }

    /// A data file if it is open already.
    package func kept(_ number: DataFileNumber) -> DataFile? {
        openFiles.withLock { open in
            guard let index = open.files.index(forKey: number) else { return nil }
            open.clock += 1
            open.files.values[index].lastUse = open.clock
            return open.files.values[index].file
        }
    }

    /// Deletes a data file. May be repeated.
    package func delete(_ number: DataFileNumber) throws(ByteStoreError) {
        openFiles.withLock { open in
            open.files[number] = nil
            open.unsyncedBeyond.remove(number)
            open.cutBeyond.remove(number)
            open.failedBeyond[number] = nil
        }
        try root.delete(Self.name(of: number))
    }

    /// Whether a data file has bytes that may not be durable. Waits for no disk.
    package func isChanged(_ number: DataFileNumber) -> Bool {
        openFiles.withLock { open in
            open.files[number]?.file.isChanged ?? false || open.unsyncedBeyond.contains(number)
                || open.beingSynced.contains(number)
        }
    }

    /// Makes some data files durable, as `DataFile.synchronize` does. One that is gone needs no sync.
    ///
    /// - Returns: those of which that cannot be said, each with the reason.
    package func synchronize(_ numbers: [DataFileNumber]) -> [DataFileNumber: ByteStoreError] {
        // Not the whole disk, as long as it can be helped: others write there as well.
        guard numbers.count <= Self.manyFiles else {
            return synchronizeAll().filter { numbers.contains($0.key) }
        }
        var failures: [DataFileNumber: ByteStoreError] = [:]
        for number in numbers {
            let file: DataFile
            do {
                file = try open(number)
            } catch {
                guard error.errno != .noSuchEntry else { continue }
                // Nobody knows whether it is: its own sync must not say so.
                noteFailedBeyond([number], error)
                failures[number] = error
                continue
            }
            do {
                try file.synchronize()
            } catch {
                failures[number] = error
            }
        }
        return failures
    }

    /// Makes everything durable that was written to any data file, and the names of new ones.
    ///
    /// - Returns: the files of which that cannot be said, each with the reason: like `DataFile.synchronize`, for
    ///   good once it has failed. All others are durable.
    package func synchronizeAll() -> [DataFileNumber: ByteStoreError] {
        syncingAll.withLock { _ in synchronizeAllAlone() }
    }

    private func synchronizeAllAlone() -> [DataFileNumber: ByteStoreError] {
        var failure: ByteStoreError?
        var isAllSynced = false
        defer {
            openFiles.withLock { open in
                open.beingSynced = []
                // Nothing else covers them.
                if !isAllSynced { open.cutBeyond.formUnion(open.cutBeingSynced) }
                open.cutBeingSynced = []
            }
        }
        let (changed, beyond) = openFiles.withLock { open in
            defer {
                (open.unsyncedBeyond, open.beingSynced) = ([], open.unsyncedBeyond)
                (open.cutBeyond, open.cutBeingSynced) = ([], open.cutBeyond)
            }
            return (
                open.files.values.map(\.file).filter { $0.isChanged || $0.hasFailed }, open.unsyncedBeyond
            )
        }
        var failures: [DataFileNumber: ByteStoreError] = [:]
        let covered = changed.map { ($0, $0.currentChange) }
        if !beyond.isEmpty || changed.count > Self.fewFiles {
            do {
                try synchronizeFileSystem()
                isAllSynced = true
            } catch {
                failure = error
                noteFailedBeyond(beyond, error)
            }
        }
        for (file, change) in covered {
            do {
                // The disk does not say which file's bytes it has lost; each file's own sync does.
                if failure == nil, changed.count > Self.fewFiles || !beyond.isEmpty {
                    try file.noteSynchronized(upTo: change)
                } else {
                    try file.synchronize()
                }
            } catch {
                failures[file.number] = error
            }
        }
        let failedBeyond = openFiles.withLock { $0.failedBeyond }
        return failures.merging(failedBeyond) { first, _ in first }
    }

    /// Makes everything on the disk durable, also what another process has written: that nobody here knows of.
    package func synchronizeFileSystem() throws(ByteStoreError) {
        if let refusal = refuseSync?() { throw refusal }
        try root.synchronizeFileSystem()
    }

    private func noteFailedBeyond(_ beyond: Set<DataFileNumber>, _ failure: ByteStoreError) {
        openFiles.withLock { open in
            for number in beyond {
                if let file = open.files[number]?.file {
                    file.fail(failure)
                } else {
                    open.failedBeyond[number] = failure
                }
            }
        }
    }

    /// Bytes free on the disk for us, and its size.
    package func diskSpace() throws(ByteStoreError) -> (free: UInt64, total: UInt64) { try root.space() }

    /// Whether the disk can hold another data file.
    package func diskHasInodes() throws(ByteStoreError) -> Bool { try root.hasInodes() }

    /// Deletes what a crash has left of files that were made ahead. Called before any is made.
    ///
    /// - Parameter next: the number that the next data file gets.
    package func deleteSpares(from next: DataFileNumber) { spares.deleteLeftovers(from: next) }

    /// Deletes the files that were made ahead, and makes no more: before anybody else may use the directory.
    package func endSpares() { spares.end() }

    /// Lets go of every open file: for the end, and for tests.
    package func closeAll() {
        openFiles.withLock { open in
            for (file, _) in open.files.values { open.noteLetGo(file) }
            open.files.removeAll()
        }
    }

    /// Data files that are open now.
    package var openFileCount: Int { openFiles.withLock { $0.files.count } }

    /// Calls with the number of each data file that is there; for anything else that is there, with its name.
    package func forEach(
        _ visit: (DataFileNumber, DataFileExtent) -> Void, other: (String) -> Void
    ) throws(ByteStoreError) {
        try root.forEach { name, extent in
            guard let extent, let number = UInt64(name.dropFirst(3), radix: 16),
                Self.name(of: DataFileNumber(number)) == name
            else { return other(name) }
            visit(DataFileNumber(number), extent)
        }
    }

    /// Moves a data file that nothing names out of the way, into `lost` beside the store. Nothing is deleted.
    package func setAside(_ number: DataFileNumber) throws(ByteStoreError) {
        try root.setAside(Self.name(of: number))
    }

    /// `xx/xxxxxxxxxxxxxxxx`: 256 directories, so that none grows beyond what ext4 handles quickly.
    package static func name(of number: DataFileNumber) -> String {
        let digits = String(number.number, radix: 16)
        let padded = String(repeating: "0", count: 16 - digits.count) + digits
        return padded.suffix(2) + "/" + padded
    }

    private func keep(_ file: DataFile) -> DataFile {
        openFiles.withLock { open in
            // Another thread may have opened it meanwhile.
            if let other = open.files[file.number] { return other.file }
            open.clock += 1
            open.files[file.number] = (file, open.clock)
            if let failure = open.failedBeyond.removeValue(forKey: file.number) { file.fail(failure) }
            if open.cutBeyond.remove(file.number) != nil || open.cutBeingSynced.contains(file.number) {
                file.noteEarlierCut()
            }
            if open.files.count > open.evictionCount { Self.evict(&open) }
            return file
        }
    }

    /// Drops the least recently used eighth, but for files that somebody uses just now: every reference is
    /// given out under this lock, so what is referenced from here alone stays so. Nor those of which a sync has failed:
    /// that must not be forgotten.
    private static func evict(_ open: inout OpenFiles) {
        let uses = open.files.values.map(\.lastUse).sorted()
        let oldest = uses[max(0, open.files.count - open.limit + open.limit / 8 - 1)]
        var index = open.files.startIndex
        var gone: [DataFileNumber] = []
        while index != open.files.endIndex {
            if open.files.values[index].lastUse <= oldest,
                isKnownUniquelyReferenced(&open.files.values[index].file),
                !open.files.values[index].file.hasFailed
            {
                open.noteLetGo(open.files.values[index].file)
                gone.append(open.files.keys[index])
            }
            open.files.formIndex(after: &index)
        }
        for number in gone { open.files[number] = nil }
        // If most are in use: not again for each file that is opened.
        open.evictionCount = max(open.limit, open.files.count + open.limit / 8)
    }
}
