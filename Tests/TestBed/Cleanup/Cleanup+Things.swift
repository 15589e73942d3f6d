internal import Glibc

extension Cleanup {
    /// Ends a program: asks, waits for `grace`, kills.
    @discardableResult
    package func add(
        _ child: ChildProcess, with signal: Int32 = SIGTERM, grace: Duration = .seconds(10)
    ) throws -> Ticket {
        try add("program \(child.name) (\(child.pid))", limit: grace + .seconds(10)) {
            await child.end(with: signal, grace: grace)
        }
    }

    @discardableResult
    package func add(_ link: WANLink) throws -> Ticket {
        try add("link \(link.a.namespace.name)") { try await link.close() }
    }

    /// Unmounts what is mounted at `path`, if anything is. A mount that stays busy for five seconds is
    /// detached, and reported.
    @discardableResult
    package func add(mountAt path: String) throws -> Ticket {
        try add("mount \(path)") { try await unmount(path) }
    }

    /// Removes a directory with all that is in it. Refuses if something is still mounted there or below: what
    /// is on a mounted volume is not ours to delete.
    @discardableResult
    package func add(directory path: String) throws -> Ticket {
        try add("directory \(path)", limit: .seconds(300)) {
            try await DedicatedThread.run("remove") { try removeTree(path) }
        }
    }

    /// Makes a directory with a name of its own, and removes it with everything else.
    package func makeTemporaryDirectory(in parent: String = "/tmp", mode: UInt32 = 0o755) throws -> String {
        var template = Array("\(parent)/godwit-lab-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw LabError.systemCall("mkdtemp", detail: parent, errno: errno)
        }
        let path = template.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
        do {
            try add(directory: path)
            _ = try checkedCall("chmod", path) { Int(chmod(path, mode)) }
        } catch {
            rmdir(path)
            throw error
        }
        return path
    }
}

/// The directories at which something is mounted, in the order in which it was mounted.
package func mountPoints() throws(LabError) -> [String] {
    let text = try readSmallFile("/proc/self/mountinfo")
    return text.split(separator: UInt8(ascii: "\n")).compactMap { line in
        let fields = line.split(separator: UInt8(ascii: " "))
        return fields.count > 4 ? String(decoding: unescaped(fields[4]), as: UTF8.self) : nil
    }
}

/// Space, tab, newline and backslash are written as three octal digits in mountinfo.
private func unescaped(_ field: ArraySlice<UInt8>) -> [UInt8] {
    var result: [UInt8] = []
    var rest = field
    while let byte = rest.popFirst() {
        let digits = rest.prefix(3)
        if byte == UInt8(ascii: "\\"), digits.count == 3,
            let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
        {
            result.append(value)
            rest = rest.dropFirst(3)
        } else {
            result.append(byte)
        }
    }
    return result
}

private func unmount(_ path: String) async throws {
    let deadline = ContinuousClock.now + .seconds(5)
    while try mountPoints().contains(path) {
        let failure =
            await (try? DedicatedThread.run("unmount") { umount2(path, 0) == 0 ? 0 : errno }) ?? EAGAIN
        if failure == 0 { continue }  // Several may be mounted on top of each other.
        guard failure == EBUSY || failure == EAGAIN, ContinuousClock.now < deadline else {
            guard umount2(path, Int32(MNT_DETACH)) == 0 else {
                throw LabError.systemCall("umount2", detail: path, errno: errno)
            }
            throw LabError.systemCall("umount2 (detached instead)", detail: path, errno: failure)
        }
        try await Task.sleep(for: .milliseconds(50))
    }
}

/// Removes a directory tree without following symbolic links or entering other file systems. Nothing there:
/// no error.
///
/// - Throws: `.invalid` if something is mounted at `path` or below.
package func removeTree(_ path: String) throws(LabError) {
    // Links on the way are resolved, one at the end is not: it is what gets removed then.
    let (parent, name) = splitPath(path)
    guard !["", ".", ".."].contains(name) else { throw .invalid("\(path) does not name what to remove") }
    guard let realParent = realPath(parent) else { return }
    let real = (realParent == "/" ? "" : realParent) + "/" + name
    for mount in try mountPoints() where mount == real || mount.hasPrefix(real + "/") {
        throw .invalid("\(path) is not removed, because something is mounted at \(mount)")
    }
    let directory = Int32(
        try checkedCall("open", parent) { Int(open(realParent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) })
    defer { close(directory) }
    var attributes = stat()
    guard fstatat(directory, name, &attributes, AT_SYMLINK_NOFOLLOW) == 0 else { return }
    try removeEntry(name, in: directory, device: attributes.st_dev, path: real)
}

private func realPath(_ path: String) -> String? {
    guard let real = realpath(path, nil) else { return nil }
    defer { free(real) }
    return String(cString: real)
}

private func splitPath(_ path: String) -> (parent: String, name: String) {
    var path = path[...]
    while path.count > 1, path.last == "/" { path.removeLast() }
    guard let slash = path.lastIndex(of: "/") else { return (".", String(path)) }
    let parent = path[..<slash]
    return (parent.isEmpty ? "/" : String(parent), String(path[path.index(after: slash)...]))
}

private func removeEntry(_ name: String, in parent: Int32, device: dev_t, path: String) throws(LabError) {
    var bytes = Array(name.utf8CString)
    try removeEntry(&bytes, in: parent, device: device, path: path)
}

private func removeEntry(_ name: inout [CChar], in parent: Int32, device: dev_t, path: String)
    throws(LabError)
{
    if unlinkat(parent, name, 0) == 0 { return }
    let failure = errno
    if failure == ENOENT { return }
    // Linux says EISDIR for a directory.
    guard failure == EISDIR || failure == EPERM else {
        throw .systemCall("unlinkat", detail: path, errno: failure)
    }
    let directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard directory >= 0 else { throw .systemCall("openat", detail: path, errno: errno) }
    var attributes = stat()
    guard fstat(directory, &attributes) == 0, attributes.st_dev == device, let listing = fdopendir(directory)
    else {
        close(directory)
        throw .invalid("\(path) is not removed: it is on another file system")
    }
    defer { closedir(listing) }
    while let entry = readdir(listing) {
        var child = entryName(entry)
        if child == [0x2e, 0] || child == [0x2e, 0x2e, 0] { continue }
        let childPath =
            path + "/" + String(decoding: child.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        try removeEntry(&child, in: dirfd(listing), device: device, path: childPath)
    }
    _ = try checkedCall("unlinkat", path) { Int(unlinkat(parent, name, AT_REMOVEDIR)) }
}

/// The name of a directory entry with its final zero; any bytes.
func entryName(_ entry: UnsafeMutablePointer<dirent>) -> [CChar] {
    // Up to where the record ends, not the 256 bytes that the type declares.
    let offset = MemoryLayout<dirent>.offset(of: \.d_name) ?? 19
    let start = UnsafeRawPointer(entry).advanced(by: offset).assumingMemoryBound(to: CChar.self)
    return Array(UnsafeBufferPointer(start: start, count: strlen(start) + 1))
}
