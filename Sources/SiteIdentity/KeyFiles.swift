internal import Glibc

/// Files that hold keys: readable by their owner only, written whole or not at all.
enum KeyFiles {
    static func makeDirectory(_ path: String) throws(IdentityError) {
        if mkdir(path, 0o700) != 0, errno != EEXIST { throw failure(path) }
    }

    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    static func read(_ path: String) throws(IdentityError) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else { throw failure(path) }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16_384)
        while bytes.count < 1 << 20 {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            guard count >= 0 else { throw failure(path) }
            if count == 0 { break }
            bytes.append(contentsOf: chunk[..<count])
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Reads a key, and refuses one that others can read.
    static func readSecret(_ path: String) throws(IdentityError) -> String {
        var status = stat()
        guard lstat(path, &status) == 0 else { throw failure(path) }
        guard status.st_mode & 0o077 == 0 else {
            throw .file(path: path, "others can read this key: chmod 0600 it, and renew it if they did")
        }
        return try read(path)
    }

    /// Written beside, synced, renamed: a crash leaves the old file or the new one.
    static func write(_ text: String, to path: String) throws(IdentityError) {
        let temporary = path + ".new"
        unlink(temporary)
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw failure(temporary) }
        let bytes = Array(text.utf8)
        let written = Glibc.write(descriptor, bytes, bytes.count)
        let isSynced = written == bytes.count && fsync(descriptor) == 0
        let error = errno
        close(descriptor)
        guard isSynced, rename(temporary, path) == 0 else {
            throw .file(path: path, String(cString: strerror(isSynced ? errno : error)))
        }
    }

    static func delete(_ path: String) throws(IdentityError) {
        if unlink(path) != 0, errno != ENOENT { throw failure(path) }
    }

    /// The names in a directory; none if there is no directory.
    static func list(_ path: String) throws(IdentityError) -> [String] {
        guard let stream = opendir(path) else {
            if errno == ENOENT { return [] }
            throw failure(path)
        }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            names.append(
                withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                })
        }
        return names.sorted()
    }

    private static func failure(_ path: String) -> IdentityError {
        .file(path: path, String(cString: strerror(errno)))
    }
}
