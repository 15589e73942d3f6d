internal import Glibc

/// A directory that holds keys: nobody else may look into it, and its files are written whole or not at all.
struct KeyDirectory: Sendable {
    /// Far above any file of ours, far below what could fill the memory.
    static let largestFile = 65_536

    let path: String

    /// Makes the directory, mode 0700, or takes what others could read away from them.
    func make() throws(IdentityError) {
        if mkdir(path, 0o700) != 0, errno != EEXIST { throw failure(path) }
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else { throw failure(path) }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure(path) }
        if status.st_mode & 0o077 != 0, fchmod(descriptor, 0o700) != 0 { throw failure(path) }
    }

    /// Runs `body` while no other process changes this directory through us.
    func locked<Result>(
        _ body: () throws(IdentityError) -> Result
    ) throws(IdentityError) -> Result {
        let lock = path + "/lock"
        let descriptor = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw failure(lock) }
        defer { close(descriptor) }
        while flock(descriptor, LOCK_EX) != 0 {
            guard errno == EINTR else { throw failure(lock) }
        }
        return try body()
    }

    // MARK: files

    /// - Parameter isSecret: refuse a file that others can read or change.
    /// - Returns: nil when there is no such file.
    func read(_ name: String, isSecret: Bool = false) throws(IdentityError) -> String? {
        let file = path + "/" + name
        // A planted FIFO must not hold us up.
        let descriptor = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw failure(file)
        }
        defer { close(descriptor) }
        return try Self.read(
            descriptor, file, refusing: isSecret ? 0o077 : 0,
            "others can read this key: chmod 0600 it, and make new keys if they did")
    }

    /// All of an open file, if it is a regular one without these rights.
    static func read(
        _ descriptor: Int32, _ file: String, refusing rights: mode_t, _ reason: String
    ) throws(IdentityError) -> String {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw .failed(file) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw .file(path: file, "it is not a regular file") }
        guard status.st_mode & rights == 0 else { throw .file(path: file, reason) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16_384)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0 {
                if errno == EINTR { continue }
                throw .failed(file)
            }
            if count == 0 { break }
            bytes.append(contentsOf: chunk[..<count])
            guard bytes.count <= Self.largestFile else { throw .file(path: file, "it is too long") }
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw .file(path: file, "it is not text")
        }
        return text
    }

    /// Written beside, synced, renamed, and the directory synced: after a crash the old file or the new one.
    func write(_ text: String, to name: String) throws(IdentityError) {
        let file = path + "/" + name
        let temporary = file + ".new"
        // Left over from a crash; the lock keeps it from being somebody's work.
        unlink(temporary)
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw failure(temporary) }
        do throws(IdentityError) {
            try writeAll(Array(text.utf8), to: descriptor, temporary)
            guard fsync(descriptor) == 0 else { throw failure(temporary) }
        } catch {
            close(descriptor)
            unlink(temporary)
            throw error
        }
        close(descriptor)
        guard rename(temporary, file) == 0 else { throw failure(file) }
        try synchronize()
    }

    private func writeAll(_ bytes: [UInt8], to descriptor: Int32, _ file: String) throws(IdentityError) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0 {
                if errno == EINTR { continue }
                throw failure(file)
            }
            rest = rest.dropFirst(count)
        }
    }

    /// Repeated it is a success.
    func delete(_ name: String) throws(IdentityError) {
        if unlink(path + "/" + name) != 0, errno != ENOENT { throw failure(path + "/" + name) }
        try synchronize()
    }

    private func synchronize() throws(IdentityError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(path) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw failure(path) }
    }

    /// The names in it, sorted; none if there is no directory.
    func names() throws(IdentityError) -> [String] {
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

    private func failure(_ path: String) -> IdentityError { .failed(path) }
}

extension IdentityError {
    /// Reads `errno`: called at once after the call that failed.
    static func failed(_ path: String) -> IdentityError {
        .file(path: path, String(cString: strerror(errno)))
    }
}
