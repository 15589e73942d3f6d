internal import CLinux
internal import Glibc
internal import VolumeModel

/// The file of SQLite's write-ahead log, for what SQLite leaves to us: syncing it outside the catalog's lock, and
/// what follows when that fails.
///
/// After a failed fdatasync the kernel holds the lost pages for clean: they are right in memory, wrong on disk, and
/// gone at the next shortage of memory. `rewrite` makes them dirty again, so that a later sync is honest.
/// Format: https://sqlite.org/fileformat2.html#walformat
struct WriteAheadLog: ~Copyable {
    /// Space that is kept ready ahead of the log's end, so that a full disk can still commit: what frees space
    /// must get through.
    private static let reserve: Int64 = 1 << 20

    private static let headerByteCount = 32

    let path: String
    private let descriptor: Int32

    init(path: String) throws(CatalogError) {
        self.path = path
        descriptor = Glibc.open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(call: "open", path: path, Errno(errno)) }
    }

    deinit { close(descriptor) }

    /// Whether a log, which may be in use, begins as SQLite begins one, or is not begun.
    static func hasHeader(_ path: String) throws(CatalogError) -> Bool {
        let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        if descriptor < 0, errno == ENOENT { return true }
        guard descriptor >= 0 else { throw .system(call: "open", path: path, Errno(errno)) }
        defer { close(descriptor) }
        // What is read while it is written may be half of each.
        for _ in 0..<3 {
            var header = [UInt8](repeating: 0, count: headerByteCount)
            let count = header.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, 0) }
            guard count >= 0 else { throw .system(call: "pread", path: path, Errno(errno)) }
            if count < headerByteCount || header.allSatisfy({ $0 == 0 }) { return true }
            if LogChecksum(header: header) != nil { return true }
        }
        return false
    }

    func synchronize() throws(CatalogError) {
        guard gw_fdatasync(descriptor) == 0 else {
            throw .system(call: "fdatasync", path: path, Errno(errno))
        }
    }

    func byteCount() throws(CatalogError) -> Int64 {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            throw .system(call: "fstat", path: path, Errno(errno))
        }
        return Int64(status.st_size)
    }

    /// Takes space ahead of the end, if there is any: nothing depends on it but how much a full disk takes.
    func reserveSpace() {
        guard let size = try? byteCount() else { return }
        _ = gw_fallocate(descriptor, Int32(GW_FALLOC_FL_KEEP_SIZE), size, Self.reserve)
    }

    /// Writes the log's frames once more, as they are in memory. Nobody may commit meanwhile.
    ///
    /// - Throws: `.unusable` when what is read is not what was written: then it is lost, and so are the changes
    ///   since the last sync, unless another open of the catalog finds them.
    func rewrite(frameCount: Int) throws(CatalogError) {
        guard frameCount > 0 else { return }
        let header = try read(at: 0, count: Self.headerByteCount)
        guard var checksum = LogChecksum(header: header) else { throw lost("its header is gone") }
        try write(header, at: 0)
        let frameByteCount = 24 + checksum.pageByteCount
        for number in 0..<frameCount {
            let offset = Int64(Self.headerByteCount) + Int64(number) * Int64(frameByteCount)
            let frame = try read(at: offset, count: frameByteCount)
            guard checksum.take(frame) else { throw lost("frame \(number + 1) of \(frameCount) is gone") }
            try write(frame, at: offset)
        }
    }

    private func lost(_ reason: String) -> CatalogError {
        .unusable(path: path, reason: "a sync of it failed and \(reason): mount the volume anew")
    }

    private func read(at offset: Int64, count: Int) throws(CatalogError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let read = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, count, Int(offset)) }
        if read < 0 { throw .system(call: "pread", path: path, Errno(errno)) }
        // A shorter one is zeros behind, which no checksum accepts.
        return bytes
    }

    private func write(_ bytes: [UInt8], at offset: Int64) throws(CatalogError) {
        let written = bytes.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, Int(offset)) }
        guard written == bytes.count else {
            throw .system(call: "pwrite", path: path, written < 0 ? Errno(errno) : .inputOutput)
        }
    }
}

/// The checksum that runs through a write-ahead log from its header to its last frame.
struct LogChecksum {
    let pageByteCount: Int
    private let isBigEndian: Bool
    private let salt: ArraySlice<UInt8>
    private var first: UInt32 = 0
    private var second: UInt32 = 0

    /// - Parameter header: 32 bytes. nil: it is none, or not whole.
    init?(header: [UInt8]) {
        guard header.count == 32 else { return nil }
        let magic = Self.number(header, 0)
        guard magic | 1 == 0x377f_0683 else { return nil }
        isBigEndian = magic & 1 == 1
        pageByteCount = Int(Self.number(header, 8))
        guard (512...65536).contains(pageByteCount) else { return nil }
        salt = header[16..<24]
        add(header[0..<24])
        guard first == Self.number(header, 24), second == Self.number(header, 28) else { return nil }
    }

    /// - Returns: whether this is the next frame of the log.
    mutating func take(_ frame: [UInt8]) -> Bool {
        guard frame.count == 24 + pageByteCount, frame[8..<16].elementsEqual(salt) else { return false }
        add(frame[0..<8])
        add(frame[24...])
        return first == Self.number(frame, 16) && second == Self.number(frame, 20)
    }

    private mutating func add(_ bytes: ArraySlice<UInt8>) {
        bytes.withUnsafeBytes { bytes in
            for offset in stride(from: 0, to: bytes.count - 7, by: 8) {
                let one = bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
                let other = bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)
                first &+= (isBigEndian ? one.bigEndian : one.littleEndian) &+ second
                second &+= (isBigEndian ? other.bigEndian : other.littleEndian) &+ first
            }
        }
    }

    private static func number(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
        bytes[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }
}
