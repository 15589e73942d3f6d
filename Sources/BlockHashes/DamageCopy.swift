internal import Glibc
internal import SQLite
internal import VolumeModel

/// What is known to be damaged of a head, once more: the file `damage` beside `hashes.db`, there while anything is known.
///
/// Text, so that people can read it, in entries: the first one says all that was known then, each one after it what has
/// changed since. An entry ends with a hash of it and of the one before it. Invariants:
/// - It is durable before the database commits the same: what anybody relies on is in both, and what was put right is in
///   neither.
/// - It is read only where the database is lost: whoever makes one takes this up, all at once.
/// - The first entry comes by a rename, as a whole. What is added after it may be torn by a crash, the last entry only:
///   that is in no database, nobody has relied on it, and it counts as not there.
/// - The database tells where its own last entry ends (`Place`). Whoever finds the file otherwise writes it anew.
///
/// So each change costs what it is, some 100 bytes a block, and now and then, when the file has doubled, all of it.
enum DamageCopy {
    static let fileName = "damage"
    private static let title = "godwit damage "
    /// 1 had only the first entry.
    private static let version = 2
    /// What may be added to the first entry at least.
    private static let room: UInt64 = 64 << 10

    /// Where the copy ends, and how.
    struct Place: Hashable {
        var byteCount: UInt64
        var firstByteCount: UInt64
        /// In hexadecimal digits.
        var sum: String
        var life: String

        init(byteCount: UInt64, firstByteCount: UInt64, sum: String, life: String) {
            (self.byteCount, self.firstByteCount) = (byteCount, firstByteCount)
            (self.sum, self.life) = (sum, life)
        }

        var text: String { "\(byteCount) \(firstByteCount) \(sum) \(life)" }

        init?(text: String) {
            let words = text.split(separator: " ", omittingEmptySubsequences: false)
            guard words.count == 4, let byteCount = UInt64(words[0]), let first = UInt64(words[1]),
                first <= byteCount, byteCount <= UInt64(Int64.max / 4)
            else { return nil }
            self.init(
                byteCount: byteCount, firstByteCount: first, sum: String(words[2]), life: String(words[3]))
        }
    }

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
        return try parse(bytes, of: path)
    }

    /// - Parameter path: where the bytes are from, for people.
    /// - Throws: as `read`.
    static func parse(
        _ bytes: [UInt8], of path: String
    ) throws(SQLiteError) -> (known: KnownDamage, life: String) {
        let first = String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
        if first.hasPrefix(title), let found = UInt64(first.dropFirst(title.count)), found > version {
            throw SQLiteError(
                refusing: "\(path) is of a newer release (version \(found), this one knows \(version)): "
                    + "use the release that wrote it")
        }
        let damaged = SQLiteError(code: 11, message: "\(path) is damaged")
        var state = DamageEntries()
        var (position, sum) = (0, "")
        while position < bytes.count {
            guard let entry = entry(in: bytes, from: position, after: sum) else {
                guard position > 0, isTorn(bytes, from: position) else { throw damaged }
                break
            }
            let lines = entry.text.split(separator: "\n")
            if position == 0, !(lines.first?.hasPrefix(title) ?? false) { throw damaged }
            guard lines.dropFirst(position == 0 ? 1 : 0).allSatisfy({ state.take($0) }) else { throw damaged }
            (position, sum) = (entry.end, entry.sum)
        }
        guard position > 0 else { throw damaged }
        return (state.known, state.life)
    }

    /// - Returns: nil when what is there is no whole entry.
    private static func entry(
        in bytes: [UInt8], from start: Int, after sum: String
    ) -> (text: String, sum: String, end: Int)? {
        guard let line = sumLine(in: bytes, from: start), bytes[line.upperBound - 1] == UInt8(ascii: "\n")
        else { return nil }
        let found = String(decoding: bytes[line.dropFirst(4).dropLast()], as: UTF8.self)
        let text = String(decoding: bytes[start..<line.lowerBound], as: UTF8.self)
        return self.sum(of: text, after: sum) == found ? (text, found, line.upperBound) : nil
    }

    /// The first line from there on that ends an entry, with its end as far as it is there.
    private static func sumLine(in bytes: [UInt8], from start: Int) -> Range<Int>? {
        let mark = Array("sum ".utf8)
        var position = start
        while position < bytes.count {
            let end = bytes[position...].firstIndex(of: UInt8(ascii: "\n")).map { $0 + 1 } ?? bytes.count
            if bytes[position..<end].starts(with: mark) { return position..<end }
            position = end
        }
        return nil
    }

    /// Whether what is left looks like an entry that a crash has cut: it ends too early, or has sectors that were never
    /// written, whose place is zeros. A byte that is wrong does not look so.
    private static func isTorn(_ bytes: [UInt8], from start: Int) -> Bool {
        let sector = 512
        if let line = sumLine(in: bytes, from: start) {
            // More comes after it: this one was on the disk already.
            guard line.upperBound == bytes.count else { return false }
            let wholeByteCount = 4 + 2 * BlockHash.byteCount + 1
            if bytes.last != UInt8(ascii: "\n"), line.count < wholeByteCount { return true }
        } else {
            if bytes.last != UInt8(ascii: "\n") { return true }
            var rest = DamageEntries()
            let lines = String(decoding: bytes[start...], as: UTF8.self).split(separator: "\n")
            if lines.allSatisfy({ rest.take($0) }) { return true }
        }
        var position = start
        while position < bytes.count {
            let end = min(bytes.count, (position / sector + 1) * sector)
            if bytes[position..<end].allSatisfy({ $0 == 0 }) { return true }
            position = end
        }
        return false
    }

    private static func sum(of text: String, after sum: String) -> String {
        Array((sum + text).utf8).withUnsafeBytes { BlockHash.digest($0) }.hexadecimal
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

    // MARK: writing (lines are such as `DamageEntries` takes)

    /// Makes the copy say so, durably, and nothing else.
    ///
    /// - Parameter lines: all that is known.
    static func write(_ lines: String, life: String, in directory: String) throws(SQLiteError) -> Place {
        let path = path(in: directory)
        let text = "\(title)\(version)\nlife \(life)\n" + lines
        let sum = sum(of: text, after: "")
        let bytes = Array((text + "sum \(sum)\n").utf8)
        let new = path + ".new"
        if unlink(new) != 0, errno != ENOENT { throw failure("unlink", new) }
        try write(bytes, to: new)
        guard rename(new, path) == 0 else { throw failure("rename", path) }
        try synchronize(directory)
        let count = UInt64(bytes.count)
        return Place(byteCount: count, firstByteCount: count, sum: sum, life: life)
    }

    /// Makes the copy say also what has changed, durably.
    ///
    /// - Returns: nil when the copy is not as it was left, or has become long: it is to be written anew.
    static func append(
        _ lines: String, life: String, after place: Place, in directory: String
    ) throws(SQLiteError) -> Place? {
        guard place.byteCount <= 2 * place.firstByteCount + room else { return nil }
        let path = path(in: directory)
        let descriptor = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw failure("open", path)
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("fstat", path) }
        let end = Array("sum \(place.sum)\n".utf8)
        guard status.st_mode & S_IFMT == S_IFREG, UInt64(clamping: status.st_size) == place.byteCount,
            place.byteCount >= end.count
        else { return nil }
        var found = [UInt8](repeating: 0, count: end.count)
        let count = pread(descriptor, &found, found.count, Int(status.st_size) - found.count)
        guard count >= 0 else { throw failure("pread", path) }
        guard found == end else { return nil }
        let text = (life == place.life ? "" : "life \(life)\n") + lines
        guard !text.isEmpty else { return place }
        let sum = sum(of: text, after: place.sum)
        let bytes = Array((text + "sum \(sum)\n").utf8)
        try write(bytes, to: descriptor, at: Int(status.st_size), path)
        guard fdatasync(descriptor) == 0 else { throw failure("fdatasync", path) }
        return Place(
            byteCount: place.byteCount + UInt64(bytes.count), firstByteCount: place.firstByteCount, sum: sum,
            life: life)
    }

    /// Says that nothing is known.
    static func delete(in directory: String) throws(SQLiteError) {
        let path = path(in: directory)
        guard unlink(path) == 0 else {
            if errno == ENOENT { return }
            throw failure("unlink", path)
        }
        try synchronize(directory)
    }

    private static func write(_ bytes: [UInt8], to path: String) throws(SQLiteError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw failure("open", path) }
        defer { close(descriptor) }
        try write(bytes, to: descriptor, at: 0, path)
        guard fsync(descriptor) == 0 else { throw failure("fsync", path) }
    }

    private static func write(
        _ bytes: [UInt8], to descriptor: Int32, at offset: Int, _ path: String
    ) throws(SQLiteError) {
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { bytes in
                pwrite(descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done, offset + done)
            }
            if count >= 0 {
                done += count
            } else if errno != EINTR {
                throw failure("pwrite", path)
            }
        }
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
