internal import Glibc

/// What one name in a tree is.
package struct TreeEntry: Hashable, Sendable {
    package enum Kind: String, Hashable, Sendable {
        case file, directory, symbolicLink, socket, fifo, blockDevice, characterDevice
    }

    /// From the root of the tree, any bytes; empty for the root itself.
    package let path: [UInt8]
    package let kind: Kind
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    package let mode: UInt32
    package let user: UInt32
    package let group: UInt32
    /// Of files; 0 for all else, whose size is the file system's own affair.
    package let byteCount: UInt64
    /// Of devices.
    package let device: UInt64
    package let linkTarget: [UInt8]
    /// In nanoseconds; nil unless asked for.
    package let modified: Int64?

    package var pathText: String { path.isEmpty ? "." : String(decoding: path, as: UTF8.self) }
}

/// Lists a tree without following symbolic links.
struct TreeWalk {
    let root: String
    let withTimes: Bool

    init(_ root: String, withTimes: Bool = false) {
        self.root = root
        self.withTimes = withTimes
    }

    /// All entries, the root first, ascending by the bytes of their paths.
    func entries() throws(LabError) -> [TreeEntry] {
        let directory = Int32(
            try checkedCall("open", root) { Int(open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) })
        var attributes = stat()
        let result = fstat(directory, &attributes)
        let failure = errno
        guard result == 0 else {
            close(directory)
            throw .systemCall("fstat", detail: root, errno: failure)
        }
        var found = [try entry([], attributes, linkTarget: [])]
        try visit(directory, path: [], into: &found)
        return found.sorted { $0.path.lexicographicallyPrecedes($1.path) }
    }

    /// - Parameter directory: closed here.
    private func visit(_ directory: Int32, path: [UInt8], into found: inout [TreeEntry]) throws(LabError) {
        guard let listing = fdopendir(directory) else {
            let failure = errno
            close(directory)
            throw .systemCall("fdopendir", detail: full(path), errno: failure)
        }
        // The descriptor belongs to the listing now.
        defer { closedir(listing) }
        var subdirectories: [[CChar]] = []
        while true {
            errno = 0
            guard let record = readdir(listing) else {
                let failure = errno
                if failure != 0 { throw .systemCall("readdir", detail: full(path), errno: failure) }
                break
            }
            let name = entryName(record)
            if name == [0x2e, 0] || name == [0x2e, 0x2e, 0] { continue }
            let child = try inspect(name, in: directory, path: join(path, name))
            found.append(child)
            if child.kind == .directory { subdirectories.append(name) }
        }
        for name in subdirectories {
            let childPath = join(path, name)
            let child = try checkedCall("openat", full(childPath)) {
                Int(openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
            }
            try visit(Int32(child), path: childPath, into: &found)
        }
    }

    private func inspect(_ name: [CChar], in directory: Int32, path: [UInt8]) throws(LabError) -> TreeEntry {
        var attributes = stat()
        _ = try checkedCall("fstatat", full(path)) {
            Int(fstatat(directory, name, &attributes, AT_SYMLINK_NOFOLLOW))
        }
        guard attributes.st_mode & S_IFMT == S_IFLNK else {
            return try entry(path, attributes, linkTarget: [])
        }
        var target = [CChar](repeating: 0, count: 4097)
        let length = try checkedCall("readlinkat", full(path)) {
            readlinkat(directory, name, &target, target.count)
        }
        return try entry(path, attributes, linkTarget: target.prefix(length).map { UInt8(bitPattern: $0) })
    }

    private func entry(_ path: [UInt8], _ attributes: stat, linkTarget: [UInt8]) throws(LabError) -> TreeEntry
    {
        let kind: TreeEntry.Kind
        switch attributes.st_mode & S_IFMT {
        case S_IFREG: kind = .file
        case S_IFDIR: kind = .directory
        case S_IFLNK: kind = .symbolicLink
        case S_IFSOCK: kind = .socket
        case S_IFIFO: kind = .fifo
        case S_IFBLK: kind = .blockDevice
        case S_IFCHR: kind = .characterDevice
        default: throw .invalid("\(full(path)) is of an unknown kind")
        }
        let isDevice = kind == .blockDevice || kind == .characterDevice
        let time = Duration.seconds(attributes.st_mtim.tv_sec) + .nanoseconds(attributes.st_mtim.tv_nsec)
        return TreeEntry(
            path: path, kind: kind, mode: attributes.st_mode & 0o7777, user: attributes.st_uid,
            group: attributes.st_gid, byteCount: kind == .file ? UInt64(clamping: attributes.st_size) : 0,
            device: isDevice ? UInt64(attributes.st_rdev) : 0, linkTarget: linkTarget,
            modified: withTimes ? time.nanoseconds : nil)
    }

    private func join(_ path: [UInt8], _ name: [CChar]) -> [UInt8] {
        let name = name.dropLast().map { UInt8(bitPattern: $0) }
        return path.isEmpty ? name : path + [UInt8(ascii: "/")] + name
    }

    private func full(_ path: [UInt8]) -> String {
        path.isEmpty ? root : root + "/" + String(decoding: path, as: UTF8.self)
    }
}
