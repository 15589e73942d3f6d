internal import Foundation
internal import Glibc
internal import TestBed

/// Files with contents that no compressor makes smaller and that can be checked without a copy: each page of
/// 4 KiB follows from a seed and its number.
enum BenchFiles {
    static let pageByteCount = 4096
    /// Written first after each move; not part of what is compared.
    static let marker = "first-write"

    static func page(_ number: Int, seed: UInt64) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: pageByteCount)
        bytes.withUnsafeMutableBytes { fill($0, number: number, seed: seed) }
        return bytes
    }

    /// SplitMix64.
    private static func fill(_ buffer: UnsafeMutableRawBufferPointer, number: Int, seed: UInt64) {
        var state =
            seed &* 0xd134_2543_de82_ef95 &+ UInt64(truncatingIfNeeded: number) &* 0x2545_f491_4f6c_dd1d
        for offset in stride(from: 0, to: buffer.count - 7, by: 8) {
            state &+= 0x9e37_79b9_7f4a_7c15
            var value = state
            value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
            value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
            buffer.storeBytes(of: value ^ (value >> 31), toByteOffset: offset, as: UInt64.self)
        }
    }

    /// A file of whole pages.
    static func writePages(_ path: String, byteCount: Int, seed: UInt64) throws {
        let file = try open(path, O_WRONLY | O_CREAT | O_TRUNC)
        defer { close(file) }
        let pagesAtOnce = 256
        var buffer = [UInt8](repeating: 0, count: pagesAtOnce * pageByteCount)
        let pageCount = byteCount / pageByteCount
        for first in stride(from: 0, to: pageCount, by: pagesAtOnce) {
            let count = min(pagesAtOnce, pageCount - first)
            buffer.withUnsafeMutableBytes { all in
                for number in 0..<count {
                    let start = number * pageByteCount
                    fill(
                        UnsafeMutableRawBufferPointer(rebasing: all[start..<start + pageByteCount]),
                        number: first + number, seed: seed)
                }
            }
            try writeAll(file, buffer[..<(count * pageByteCount)], path)
        }
    }

    /// Many files in directories of a thousand, from two threads.
    static func writeMany(_ directory: String, count: Int, byteCount: Int) async throws {
        for number in stride(from: 0, to: count, by: 1000) {
            try makeDirectory("\(directory)/d\(number / 1000)")
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for thread in 0..<2 {
                group.addTask {
                    try await DedicatedThread.run("files-\(thread)") {
                        for number in stride(from: thread, to: count, by: 2) {
                            var content: [UInt8] = []
                            for part in 0...(byteCount / pageByteCount) {
                                content += page(part, seed: UInt64(number) &+ 1_000_003)
                            }
                            try write(
                                "\(directory)/d\(number / 1000)/f\(number)", Array(content.prefix(byteCount)))
                        }
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    static func write(_ path: String, _ bytes: [UInt8]) throws {
        let file = try open(path, O_WRONLY | O_CREAT | O_TRUNC)
        defer { close(file) }
        try writeAll(file, bytes[...], path)
    }

    /// A file of holes with one page of data in its middle.
    static func writeSparse(_ path: String, byteCount: UInt64) throws {
        let file = try open(path, O_RDWR | O_CREAT | O_TRUNC)
        defer { close(file) }
        try check(ftruncate(file, off_t(byteCount)), "ftruncate", path)
        let bytes = page(0, seed: byteCount)
        try check(pwrite(file, bytes, bytes.count, off_t(byteCount / 2)), "pwrite", path)
    }

    /// Checks size, data and some of the holes of what `writeSparse` wrote: reading it all would take minutes.
    static func checkSparse(_ path: String, byteCount: UInt64) throws {
        let file = try open(path, O_RDONLY)
        defer { close(file) }
        var status = stat()
        try check(fstat(file, &status), "fstat", path)
        guard status.st_size == off_t(byteCount) else {
            throw LabError.invalid("\(path) has \(status.st_size) bytes instead of \(byteCount)")
        }
        guard try readPage(file, at: byteCount / 2, path) == page(0, seed: byteCount) else {
            throw LabError.invalid("\(path) has other data than before the move")
        }
        let hole = [UInt8](repeating: 0, count: pageByteCount)
        for part in [0, 1, 3, 5, 7] as [UInt64]
        where try readPage(file, at: byteCount / 8 * part, path) != hole {
            throw LabError.invalid("\(path) has data where a hole was")
        }
    }

    static func readPage(_ file: Int32, at offset: UInt64, _ path: String) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: pageByteCount)
        let length = pread(file, &bytes, bytes.count, off_t(offset))
        try check(length, "pread", "\(path) at \(offset)")
        return Array(bytes.prefix(length))
    }

    static func read(_ path: String) throws -> [UInt8] {
        let file = try open(path, O_RDONLY)
        defer { close(file) }
        var content: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let length = Glibc.read(file, &buffer, buffer.count)
            try check(length, "read", path)
            guard length > 0 else { return content }
            content += buffer.prefix(length)
        }
    }

    static func open(_ path: String, _ flags: Int32) throws -> Int32 {
        let file = Glibc.open(path, flags | O_CLOEXEC, 0o644)
        try check(file, "open", path)
        return file
    }

    static func makeDirectory(_ path: String) throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    static func check(_ result: some BinaryInteger, _ call: String, _ detail: String) throws {
        let number = errno
        guard result < 0 else { return }
        throw LabError.systemCall(call, detail: detail, errno: number)
    }

    private static func writeAll(_ file: Int32, _ bytes: ArraySlice<UInt8>, _ path: String) throws {
        var rest = bytes
        while !rest.isEmpty {
            let length = rest.withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
            try check(length, "write", path)
            rest = rest.dropFirst(length)
        }
    }
}

/// What the machine says of processes, and cold caches.
enum BenchMachine {
    /// Everything to disk, and out of the page cache.
    static func dropCaches() async throws {
        try await DedicatedThread.run("drop-caches") {
            sync()
            try BenchFiles.write("/proc/sys/vm/drop_caches", Array("3".utf8))
        }
    }

    static func processorSeconds(_ pid: Int32) throws -> Double {
        let (user, system) = try processorTimes(pid)
        return user + system
    }

    /// In seconds, to a hundredth.
    ///
    /// - Source: proc_pid_stat(5), fields 14 and 15, counted after the name's last parenthesis.
    static func processorTimes(_ pid: Int32) throws -> (user: Double, system: Double) {
        let text = String(decoding: try BenchFiles.read("/proc/\(pid)/stat"), as: UTF8.self)
        let fields = text[(text.lastIndex(of: ")") ?? text.startIndex)...].split(separator: " ")
        guard fields.count > 13, let user = Double(fields[12]), let system = Double(fields[13]) else {
            throw LabError.invalid("/proc/\(pid)/stat is not as expected: \(text)")
        }
        let ticks = Double(sysconf(Int32(_SC_CLK_TCK)))
        return (user / ticks, system / ticks)
    }

    /// What a process has given the disk to write.
    ///
    /// - Source: proc_pid_io(5), write_bytes.
    static func writtenByteCount(_ pid: Int32) throws -> Double {
        let text = String(decoding: try BenchFiles.read("/proc/\(pid)/io"), as: UTF8.self)
        let line = text.split(separator: "\n").first { $0.hasPrefix("write_bytes: ") }
        guard let line, let count = Double(line.dropFirst("write_bytes: ".count)) else {
            throw LabError.invalid("/proc/\(pid)/io has no write_bytes")
        }
        return count
    }

    /// - Parameter kind: VmRSS is all of it; RssAnon its own, RssFile of files, which the kernel can read again.
    /// - Source: proc_pid_status(5), in KiB.
    static func residentByteCount(_ pid: Int32, _ kind: String = "VmRSS") throws -> UInt64 {
        let text = String(decoding: try BenchFiles.read("/proc/\(pid)/status"), as: UTF8.self)
        let line = text.split(separator: "\n").first { $0.hasPrefix(kind + ":") }
        let fields = line?.split(whereSeparator: { $0 == " " || $0 == "\t" }) ?? []
        guard fields.count > 1, let size = UInt64(fields[1]) else {
            throw LabError.invalid("/proc/\(pid)/status has no \(kind)")
        }
        return size << 10
    }

    static func pid(of site: SiteProcess) async throws -> Int32 {
        guard let pid = await site.pid else { throw LabError.notRunning("site \(site.name) does not run") }
        return pid
    }
}

/// The JSON lines of `godwit migrate --json`.
struct MigrationOutput {
    private let objects: [[String: Any]]

    init(_ text: String) throws {
        objects = try text.split(separator: "\n").filter { $0.hasPrefix("{") }.map { line in
            guard let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
            else {
                throw LabError.invalid("godwit migrate printed no JSON object: \(line)")
            }
            return object
        }
    }

    /// A number of the last line.
    func number(_ key: String) throws -> Double {
        guard let number = objects.last?[key] as? NSNumber else {
            throw LabError.invalid("godwit migrate did not tell '\(key)'")
        }
        return number.doubleValue
    }
}
