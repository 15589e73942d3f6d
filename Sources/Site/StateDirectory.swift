internal import Catalog
internal import Glibc
internal import VolumeModel

/// Where a site keeps everything, and the only place that makes paths in it.
///
/// ```
///   site.db                      the registry, unless a cluster's API has it
///   lock                         held by the process that uses the directory
///   pki/                         keys and trusted peers
///   control.sock                 for the command line on this host
///   publications.json            where volumes are shown to pods of this host
///   volumes/<id>/heads/<n>/      one head: catalog.db, data/
///   volumes/<id>/early/          bytes taken ahead of a hand-over
/// ```
/// Only checked identifiers and numbers become names: nothing from outside can leave the directory.
package struct StateDirectory: Sendable {
    package let path: String

    /// Uses a directory, making it (mode 0700) if it is missing.
    ///
    /// - Throws: when it is not a directory that is ours alone.
    package init(_ path: String) throws(SiteError) {
        self.path = path
        try Self.make(path)
        var status = stat()
        guard lstat(path, &status) == 0 else { throw .system(call: "lstat", path: path, Errno(errno)) }
        guard status.st_mode & S_IFMT == S_IFDIR, status.st_uid == geteuid() else {
            throw .unusable("\(path) must be a directory that belongs to the user who runs the site")
        }
        guard status.st_mode & 0o022 == 0 else {
            throw .unusable("\(path) can be written by others: chmod 0700 it")
        }
        try Self.make(path + "/volumes")
    }

    /// A state directory that a site has used, whoever asks.
    package init(existing path: String) throws(SiteError) {
        self.path = path
        guard access(path + "/site.db", R_OK) == 0 || (!hasRegistry && access(path + "/volumes", R_OK) == 0)
        else {
            throw .unusable(
                "\(path) is no state directory of a site: it has no site.db that can be read, nor volumes")
        }
    }

    package var registry: String { path + "/site.db" }
    /// Whether the registry is here; where it is not, a cluster's API has it.
    var hasRegistry: Bool { access(registry, F_OK) == 0 }
    package var keys: String { path + "/pki" }
    var lock: String { path + "/lock" }
    package var controlSocket: String { path + "/control.sock" }
    package var publications: String { path + "/publications.json" }

    func volume(_ id: VolumeID) -> String { "\(path)/volumes/\(id)" }
    func head(_ number: UInt64, of id: VolumeID) -> String { "\(volume(id))/heads/\(number)" }

    /// The numbers of all heads of a volume that have a directory.
    func heads(of id: VolumeID) -> [UInt64] {
        Self.names(in: volume(id) + "/heads").compactMap { UInt64($0) }.sorted()
    }

    /// All volumes that have a directory.
    func volumes() -> [VolumeID] { Self.names(in: path + "/volumes").sorted().compactMap { VolumeID($0) } }

    private static func names(in directory: String) -> [String] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            names.append(
                withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                })
        }
        return names
    }

    /// Bytes that the disk has room for.
    func freeBytes() throws(SiteError) -> UInt64 { try space().free }

    /// The same, and how large the disk is.
    func space() throws(SiteError) -> (free: UInt64, total: UInt64) {
        var status = statvfs()
        guard statvfs(path, &status) == 0 else { throw .system(call: "statvfs", path: path, Errno(errno)) }
        let unit = UInt64(status.f_frsize)
        return (UInt64(status.f_bavail) &* unit, UInt64(status.f_blocks) &* unit)
    }

    /// Makes a directory for a new head. The names above it are durable then.
    ///
    /// - Returns: its number, above the given one. What a crash has left under a number is not touched.
    func makeHead(above last: UInt64, of id: VolumeID) throws(SiteError) -> UInt64 {
        try Self.make(volume(id))
        try Self.make(volume(id) + "/heads")
        var number = last + 1
        while mkdir(head(number, of: id), 0o700) != 0 {
            guard errno == EEXIST else {
                throw .system(call: "mkdir", path: head(number, of: id), Errno(errno))
            }
            number += 1
        }
        // The catalog syncs the names in its own directory and that one's; these are ours.
        for path in [path, path + "/volumes", volume(id)] { try Self.synchronize(path) }
        return number
    }

    private static func synchronize(_ path: String) throws(SiteError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(call: "open", path: path, Errno(errno)) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .system(call: "fsync", path: path, Errno(errno)) }
    }

    /// Deletes a head's files: known names only, never through a symbolic link or into a mount.
    func deleteHead(_ number: UInt64, of id: VolumeID) throws(SiteError) {
        // The catalog first: what a crash leaves of the rest can then be taken for a head by nobody.
        let path = head(number, of: id)
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        if descriptor >= 0 {
            defer { close(descriptor) }
            guard unlinkat(descriptor, Catalog.fileName, 0) == 0 || errno == ENOENT else {
                throw .system(call: "unlinkat", path: path + "/" + Catalog.fileName, Errno(errno))
            }
        }
        try Self.deleteTree(path)
    }

    /// Of a volume that another site owns, what was taken ahead of a hand-over.
    func earlyBytes(of id: VolumeID) -> String { volume(id) + "/early" }

    func deleteEarlyBytes(of id: VolumeID) throws(SiteError) { try Self.deleteTree(earlyBytes(of: id)) }

    func deleteVolume(_ id: VolumeID) throws(SiteError) { try Self.deleteTree(volume(id)) }

    private static func make(_ path: String) throws(SiteError) {
        if mkdir(path, 0o700) != 0, errno != EEXIST { throw .system(call: "mkdir", path: path, Errno(errno)) }
    }

    /// Who looks at hashes may just make a file in what is being deleted: then once more.
    private static let attempts = 5

    private static func deleteTree(_ path: String) throws(SiteError) {
        for _ in 1..<attempts {
            do throws(SiteError) {
                return try deleteTreeOnce(path)
            } catch {
                guard case .system(_, _, Errno.notEmpty) = error else { throw error }
            }
        }
        try deleteTreeOnce(path)
    }

    private static func deleteTreeOnce(_ path: String) throws(SiteError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        if descriptor < 0 {
            if errno == ENOENT { return }
            throw .system(call: "open", path: path, Errno(errno))
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            close(descriptor)
            throw .system(call: "fstat", path: path, Errno(errno))
        }
        try empty(descriptor, path: path, device: status.st_dev)
        if rmdir(path) != 0, errno != ENOENT { throw .system(call: "rmdir", path: path, Errno(errno)) }
    }

    /// Deletes what a directory holds; takes over the descriptor. Refuses to cross into another file system.
    private static func empty(_ descriptor: Int32, path: String, device: dev_t) throws(SiteError) {
        guard let stream = fdopendir(descriptor) else {
            close(descriptor)
            throw .system(call: "fdopendir", path: path, Errno(errno))
        }
        defer { closedir(stream) }
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name == "." || name == ".." { continue }
            var status = stat()
            guard fstatat(descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0 else { continue }
            guard status.st_dev == device else {
                throw .unusable("\(path)/\(name) is a mount: unmount it first")
            }
            if status.st_mode & S_IFMT == S_IFDIR {
                let child = openat(descriptor, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                guard child >= 0 else { throw .system(call: "openat", path: "\(path)/\(name)", Errno(errno)) }
                try empty(child, path: "\(path)/\(name)", device: device)
            }
            let flags = status.st_mode & S_IFMT == S_IFDIR ? AT_REMOVEDIR : 0
            guard unlinkat(descriptor, name, flags) == 0 || errno == ENOENT else {
                throw .system(call: "unlinkat", path: "\(path)/\(name)", Errno(errno))
            }
        }
    }
}
