internal import Crypto
internal import Glibc
internal import Synchronization

/// What a tree holds, with a hash for each file, to be compared with what it held elsewhere or before.
package struct TreeDigest: Sendable {
    /// SHA-256 over all entries and all contents: equal if and only if the trees are.
    package let value: String
    package let entries: [TreeEntry]
    /// Of regular files, by their number in `entries`; 32 bytes each.
    private let contents: [Int: [UInt8]]

    package var fileCount: Int { contents.count }
    package var byteCount: UInt64 { entries.reduce(0) { $0 &+ $1.byteCount } }

    /// Reads a whole tree, with two threads.
    ///
    /// - Parameters:
    ///   - withTimes: Times of last change count as well.
    ///   - leavingOut: Paths from the root, each with all below it.
    /// - Throws: what could not be read, also if a file vanished or changed its size meanwhile.
    package static func of(
        _ root: String, withTimes: Bool = false, leavingOut: Set<String> = [], parallelism: Int = 2
    ) async throws -> TreeDigest {
        let hidden = leavingOut.map { Array($0.utf8) }
        let entries = try await DedicatedThread.run("tree-walk") {
            try TreeWalk(root, withTimes: withTimes).entries().filter { entry in
                !hidden.contains { entry.path == $0 || entry.path.starts(with: $0 + [UInt8(ascii: "/")]) }
            }
        }
        let work = HashWork(root: root, entries: entries)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<max(1, parallelism) {
                group.addTask { try await DedicatedThread.run("tree-hash") { try work.run() } }
            }
            do {
                try await group.waitForAll()
            } catch {
                work.stop()
                throw error
            }
        }
        return TreeDigest(entries: entries, contents: work.results)
    }

    private init(entries: [TreeEntry], contents: [Int: [UInt8]]) {
        self.entries = entries
        self.contents = contents
        var hash = SHA256()
        for (index, entry) in entries.enumerated() {
            hash.update(data: TreeDigest.encoding(of: entry) + (contents[index] ?? []))
        }
        value = hash.finalize().map { byte in
            let text = String(byte, radix: 16)
            return text.count == 1 ? "0" + text : text
        }.joined()
    }

    /// Every variable part carries its length: different entries never give the same bytes.
    private static func encoding(of entry: TreeEntry) -> [UInt8] {
        var bytes: [UInt8] = []
        func add(_ value: UInt64) { withUnsafeBytes(of: value.littleEndian) { bytes += $0 } }
        for part in [entry.path, Array(entry.kind.rawValue.utf8), entry.linkTarget] {
            add(UInt64(part.count))
            bytes += part
        }
        for value in [
            UInt64(entry.mode), UInt64(entry.user), UInt64(entry.group), entry.byteCount, entry.device,
        ] {
            add(value)
        }
        add(entry.modified == nil ? 0 : 1)
        add(UInt64(bitPattern: entry.modified ?? 0))
        return bytes
    }

    /// One path at which two trees differ.
    package struct Difference: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: Hashable, Sendable {
            case missing, added
            /// What differs: `kind`, `mode`, `user`, `group`, `size`, `device`, `target`, `time`, `content`.
            case changed([String])
        }

        package let path: String
        package let kind: Kind

        package var description: String {
            switch kind {
            case .missing: "\(path): missing"
            case .added: "\(path): added"
            case .changed(let what): "\(path): another \(what.joined(separator: ", "))"
            }
        }
    }

    /// What is different in `other`, ascending by path. Empty if and only if the values are equal.
    package func differences(to other: TreeDigest) -> [Difference] {
        var result: [Difference] = []
        var (mine, theirs) = (0, 0)
        while mine < entries.count || theirs < other.entries.count {
            if theirs == other.entries.count
                || mine < entries.count
                    && entries[mine].path.lexicographicallyPrecedes(other.entries[theirs].path)
            {
                result.append(Difference(path: entries[mine].pathText, kind: .missing))
                mine += 1
            } else if mine == entries.count || entries[mine].path != other.entries[theirs].path {
                result.append(Difference(path: other.entries[theirs].pathText, kind: .added))
                theirs += 1
            } else {
                let changes =
                    TreeDigest.changes(entries[mine], other.entries[theirs])
                    + (contents[mine] == other.contents[theirs] ? [] : ["content"])
                if !changes.isEmpty {
                    result.append(Difference(path: entries[mine].pathText, kind: .changed(changes)))
                }
                mine += 1
                theirs += 1
            }
        }
        return result
    }

    private static func changes(_ left: TreeEntry, _ right: TreeEntry) -> [String] {
        let checks = [
            ("kind", left.kind == right.kind), ("mode", left.mode == right.mode),
            ("user", left.user == right.user),
            ("group", left.group == right.group), ("size", left.byteCount == right.byteCount),
            ("device", left.device == right.device), ("target", left.linkTarget == right.linkTarget),
            ("time", left.modified == right.modified),
        ]
        return checks.filter { !$1 }.map(\.0)
    }
}

/// Files still to be hashed, and hashes. Threads take the next file each.
private final class HashWork: Sendable {
    private struct State {
        var next = 0
        var results: [Int: [UInt8]] = [:]
    }

    private let root: String
    private let entries: [TreeEntry]
    private let state = Mutex(State())

    init(root: String, entries: [TreeEntry]) {
        self.root = root
        self.entries = entries
    }

    var results: [Int: [UInt8]] { state.withLock(\.results) }

    /// The other threads end after the file at hand.
    func stop() { state.withLock { $0.next = entries.count } }

    func run() throws(LabError) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        while let index = takeNext() {
            let hash = try digest(entries[index], buffer)
            state.withLock { $0.results[index] = hash }
        }
    }

    private func takeNext() -> Int? {
        state.withLock { state in
            while state.next < entries.count {
                defer { state.next += 1 }
                if entries[state.next].kind == .file { return state.next }
            }
            return nil
        }
    }

    private func digest(_ entry: TreeEntry, _ buffer: UnsafeMutableRawBufferPointer) throws(LabError)
        -> [UInt8]
    {
        let path = Array(root.utf8) + [UInt8(ascii: "/")] + entry.path + [0]
        let text = "\(root)/\(entry.pathText)"
        let file = Int32(
            try checkedCall("open", text) {
                path.withUnsafeBytes { bytes in
                    guard let name = bytes.baseAddress?.assumingMemoryBound(to: CChar.self) else { return -1 }
                    return Int(open(name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC))
                }
            })
        defer { close(file) }
        var hash = SHA256()
        var total: UInt64 = 0
        while true {
            let length = try checkedCall("read", text) { read(file, buffer.baseAddress, buffer.count) }
            guard length > 0 else { break }
            hash.update(bufferPointer: UnsafeRawBufferPointer(rebasing: buffer[..<length]))
            total &+= UInt64(length)
        }
        guard total == entry.byteCount else {
            throw .invalid("\(text) changed while it was read: \(entry.byteCount) bytes, then \(total)")
        }
        return Array(hash.finalize())
    }
}
