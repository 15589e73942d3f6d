internal import Glibc
internal import TestBed

/// Workload 1: the bytes of a large file that are all here.
struct DataWorks: Sendable {
    let plan: BenchPlan

    // open(2); a macro that Swift does not see.
    private static let O_DIRECT: Int32 = 0o40000
    private static let depth = 32

    var all: [FileWork] {
        let size = plan.dataByteCount
        let count = plan.randomOperationCount
        return [
            FileWork(
                workload: 1, title: "sequential write of \(size >> 20) MiB, fsync", unit: "MiB",
                count: size >> 20,
                aim: .atLeast(0.95, "0.95"),
                run: FileWork.threaded { try Self.writeLarge("\($0)/large", size) }),
            FileWork(
                workload: 1, title: "sequential read, cold", unit: "MiB", count: size >> 20,
                aim: .atLeast(0.95, "0.95"), isCold: true,
                run: FileWork.threaded { try Self.readLarge("\($0)/large", size) }),
            FileWork(
                workload: 1, title: "sequential read, warm", unit: "MiB", count: size >> 20,
                aim: .atLeast(0.95, "0.95"),
                prepare: FileWork.threaded { try Self.readLarge("\($0)/large", size) },
                run: FileWork.threaded { try Self.readLarge("\($0)/large", size) }),
            FileWork(
                workload: 1, title: "\(count) random reads of 4 KiB, O_DIRECT (the node caches)",
                unit: "read", count: count,
                aim: .atLeast(0.95, "0.95"),
                isDirect: true,
                run: FileWork.threaded { try Self.randomReads("\($0)/large", size, count) }),
            FileWork(
                workload: 1, title: "\(count) random reads of 4 KiB, O_DIRECT, \(Self.depth) at once",
                unit: "read", count: count, width: Self.depth,
                aim: .atLeast(0.95, "0.95"),
                isDirect: true,
                run: { path in
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        for number in 0..<Self.depth {
                            group.addTask {
                                try await DedicatedThread.run("reader-\(number)") {
                                    try Self.randomReads("\(path)/large", size, count / Self.depth)
                                }
                            }
                        }
                        try await group.waitForAll()
                    }
                }),
            FileWork(
                workload: 1, title: "\(count) random writes of 4 KiB, fdatasync each", unit: "write",
                count: count,
                aim: .atLeast(0.7, "0.7"),
                run: FileWork.threaded { try Self.randomWrites("\($0)/large", size, count) }),
            FileWork(
                workload: 1, title: "\(size >> 20) MiB through a shared mapping, msync", unit: "MiB",
                count: size >> 20,
                aim: .atLeast(0.95, "0.95"),
                run: FileWork.threaded { try Self.writeMapped("\($0)/mapped", size) }),
            FileWork(
                workload: 1, title: "\(count) random pages of a mapping, cold", unit: "page", count: count,
                aim: nil, isCold: true,
                run: FileWork.threaded { try Self.readMapped("\($0)/mapped", size, count) }),
        ]
    }

    private static func writeLarge(_ path: String, _ size: Int) throws {
        let file = try BenchFiles.open(path, O_WRONLY | O_CREAT | O_TRUNC)
        defer { close(file) }
        let block = [UInt8](repeating: 0x5a, count: 1 << 20)
        for _ in 0..<size >> 20 { try BenchFiles.check(write(file, block, block.count), "write", path) }
        try BenchFiles.check(fsync(file), "fsync", path)
    }

    private static func readLarge(_ path: String, _ size: Int) throws {
        let file = try BenchFiles.open(path, O_RDONLY)
        defer { close(file) }
        var block = [UInt8](repeating: 0, count: 1 << 20)
        var total = 0
        while true {
            let length = read(file, &block, block.count)
            try BenchFiles.check(length, "read", path)
            guard length > 0 else { break }
            guard block[0] == 0x5a || block[length - 1] == 0x5a || total > 0 else {
                throw LabError.invalid("\(path) has other bytes than were written")
            }
            total += length
        }
        guard total == size else { throw LabError.invalid("\(path) has \(total) bytes instead of \(size)") }
    }

    private static func randomReads(_ path: String, _ size: Int, _ count: Int) throws {
        let file = try BenchFiles.open(path, O_RDONLY | Self.O_DIRECT)
        defer { close(file) }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { buffer.deallocate() }
        for _ in 0..<count {
            let page = Int.random(in: 0..<size / 4096)
            let length = pread(file, buffer.baseAddress, 4096, off_t(page * 4096))
            try BenchFiles.check(length, "pread", path)
        }
    }

    private static func randomWrites(_ path: String, _ size: Int, _ count: Int) throws {
        let file = try BenchFiles.open(path, O_WRONLY)
        defer { close(file) }
        let block = [UInt8](repeating: 0x5a, count: 4096)
        for _ in 0..<count {
            let page = Int.random(in: 0..<size / 4096)
            try BenchFiles.check(pwrite(file, block, 4096, off_t(page * 4096)), "pwrite", path)
            try BenchFiles.check(fdatasync(file), "fdatasync", path)
        }
    }

    private static func writeMapped(_ path: String, _ size: Int) throws {
        let file = try BenchFiles.open(path, O_RDWR | O_CREAT | O_TRUNC)
        defer { close(file) }
        try BenchFiles.check(ftruncate(file, off_t(size)), "ftruncate", path)
        try withMapping(file, size, PROT_READ | PROT_WRITE, path) { bytes in
            memset(bytes, 0x5a, size)
            try BenchFiles.check(msync(bytes, size, MS_SYNC), "msync", path)
        }
    }

    private static func readMapped(_ path: String, _ size: Int, _ count: Int) throws {
        let file = try BenchFiles.open(path, O_RDONLY)
        defer { close(file) }
        try withMapping(file, size, PROT_READ, path) { bytes in
            try BenchFiles.check(madvise(bytes, size, MADV_RANDOM), "madvise", path)
            for _ in 0..<count {
                let page = Int.random(in: 0..<size / 4096)
                guard bytes.load(fromByteOffset: page * 4096, as: UInt8.self) == 0x5a else {
                    throw LabError.invalid("\(path) has other bytes than were written")
                }
            }
        }
    }

    private static func withMapping(
        _ file: Int32, _ size: Int, _ protection: Int32, _ path: String,
        _ body: (UnsafeMutableRawPointer) throws -> Void
    ) throws {
        guard let bytes = mmap(nil, size, protection, MAP_SHARED, file, 0), bytes != MAP_FAILED else {
            throw LabError.systemCall("mmap", detail: path, errno: errno)
        }
        defer { munmap(bytes, size) }
        try body(bytes)
    }
}
