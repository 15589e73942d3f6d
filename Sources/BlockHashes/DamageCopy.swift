internal import Glibc
internal import SQLite
internal import VolumeModel

/// What is known to be damaged of a head, once more: the file `damage` beside `hashes.db`, there while anything is known.
///
/// Text, so that people can read it, with a hash of its own at the end. Invariants:
/// - It is durable before the database commits the same: what anybody relies on is in both, and what was put right is in
///   neither.
/// - It is read only where the database is lost: whoever makes one takes this up, all at once.
///
/// It is written anew at each change, some 70 bytes a block: damage is rare, or the disk is at its end.
enum DamageCopy {
    static let fileName = "damage"
    private static let title = "godwit damage "
    private static let version = 1

    static func path(in directory: String) -> String { directory + "/" + fileName }

    static func exists(in directory: String) -> Bool { isThere(path(in: directory)) }

    /// Only what is surely not there is not: of anything else whoever opens it is told.
    static func isThere(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0 || errno != ENOENT && errno != ENOTDIR
    }

    // MARK: reading

    /// - Returns: nil when there is none: then nothing is known.
    /// - Throws: a corruption when nobody can tell what it held.
    static func read(in directory: String) throws(SQLiteError) -> (known: KnownDamage, life: String)? {
        let path = path(in: directory)
        guard let bytes = try content(of: path) else { return nil }
        let text = String(decoding: bytes, as: UTF8.self)
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        if let found = number(lines[0].dropFirst(title.count)), lines[0].hasPrefix(title), found > version {
            throw SQLiteError(
                refusing: "\(path) is of a newer release (version \(found), this one knows \(version)): "
                    + "use the release that wrote it")
        }
        guard let end = text.range(ofLast: "sum "), bytes == sealed(String(text[..<end])),
            let parsed = parse(lines.dropLast(2))
        else { throw SQLiteError(code: 11, message: "\(path) is damaged") }
        return parsed
    }

    private static func parse(_ lines: ArraySlice<Substring>) -> (known: KnownDamage, life: String)? {
        var (known, life) = (KnownDamage(), "")
        for line in lines.dropFirst() {
            let words = line.split(separator: " ", omittingEmptySubsequences: false)
            let numbers = words.dropFirst().prefix(4).map { number($0) }
            switch (words[0], words.count) {
            case ("life", 2): life = String(words[1])
            case ("block", 6):
                guard let data = numbers[0], let range = range(numbers[1], numbers[2]),
                    let inode = numbers[3],
                    let expected = [UInt8](hexadecimal: words[5])
                else { return nil }
                known.blocks.append(
                    DamagedBlock(
                        data: DataFileNumber(data), range: range, inode: InodeNumber(inode),
                        expected: expected))
            case ("overwritten", 4):
                guard let data = numbers[0], let range = range(numbers[1], numbers[2]) else { return nil }
                known.overwritten[DataFileNumber(data), default: RangeSet()].insert(range)
            default: return nil
            }
        }
        return (known, life)
    }

    private static func number(_ word: Substring) -> UInt64? { UInt64(word) }

    private static func range(_ start: UInt64?, _ end: UInt64?) -> ByteRange? {
        guard let start, let end, end >= start else { return nil }
        return ByteRange(checkedOffset: start, byteCount: end - start)
    }

    private static func content(of path: String) throws(SQLiteError) -> [UInt8]? {
        let descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw failure("open", path)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("fstat", path) }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw SQLiteError(refusing: "\(path) is no regular file: put the right one in its place")
        }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let offset = bytes.count
            let count = buffer.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, offset) }
            if count == 0 { return bytes }
            if count > 0 {
                bytes += buffer[..<count]
            } else if errno != EINTR {
                throw failure("pread", path)
            }
        }
    }

    // MARK: writing

    /// Makes the copy say so, durably. May be repeated, and does nothing then.
    static func keep(_ known: KnownDamage, life: String, in directory: String) throws(SQLiteError) {
        let path = path(in: directory)
        guard known != KnownDamage() else {
            guard unlink(path) == 0 else {
                if errno == ENOENT { return }
                throw failure("unlink", path)
            }
            return try synchronize(directory)
        }
        let bytes = sealed(text(of: known, life: life))
        if let present = try? content(of: path), present == bytes { return }
        let new = path + ".new"
        if unlink(new) != 0, errno != ENOENT { throw failure("unlink", new) }
        try write(bytes, to: new)
        guard rename(new, path) == 0 else { throw failure("rename", path) }
        try synchronize(directory)
    }

    /// Forgets what nobody can read.
    static func delete(in directory: String) throws(SQLiteError) {
        try keep(KnownDamage(), life: "", in: directory)
    }

    private static func text(of known: KnownDamage, life: String) -> String {
        var text = "\(title)\(version)\nlife \(life)\n"
        for block in known.blocks {
            text +=
                "block \(block.data.number) \(block.range.start) \(block.range.end) \(block.inode.number) "
            text += block.expected.hexadecimal + "\n"
        }
        for (data, ranges) in known.overwritten.sorted(by: { $0.key < $1.key }) {
            for range in ranges.ranges { text += "overwritten \(data.number) \(range.start) \(range.end)\n" }
        }
        return text
    }

    private static func sealed(_ text: String) -> [UInt8] {
        let bytes = Array(text.utf8)
        let sum = bytes.withUnsafeBytes { BlockHash.digest($0) }
        return bytes + Array("sum \(sum.hexadecimal)\n".utf8)
    }

    private static func write(_ bytes: [UInt8], to path: String) throws(SQLiteError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw failure("open", path) }
        defer { close(descriptor) }
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { bytes in
                pwrite(descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done, done)
            }
            if count >= 0 {
                done += count
            } else if errno != EINTR {
                throw failure("pwrite", path)
            }
        }
        guard fsync(descriptor) == 0 else { throw failure("fsync", path) }
    }

    private static func synchronize(_ directory: String) throws(SQLiteError) {
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("open", directory) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw failure("fsync", directory) }
    }

    /// Called at once after the call: nothing else may touch errno in between.
    private static func failure(_ call: StaticString, _ path: @autoclosure () -> String) -> SQLiteError {
        let number = errno
        // SQLITE_FULL, SQLITE_IOERR.
        return SQLiteError(
            code: number == ENOSPC || number == EDQUOT ? 13 : 10,
            message: "\(call) \(path()): \(Errno(number))")
    }
}

extension String {
    /// Where a line that begins so, and is the last one, begins.
    fileprivate func range(ofLast beginning: String) -> Index? {
        guard hasSuffix("\n") else { return nil }
        let start = dropLast().lastIndex(of: "\n").map { index(after: $0) } ?? startIndex
        return self[start...].hasPrefix(beginning) ? start : nil
    }
}

extension [UInt8] {
    fileprivate var hexadecimal: String {
        map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    fileprivate init?(hexadecimal text: Substring) {
        let digits = [UInt8](text.utf8)
        guard digits.count % 2 == 0 else { return nil }
        self = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let byte = UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16)
            else { return nil }
            append(byte)
        }
    }
}
