internal import Foundation
internal import Glibc
internal import TestBed

/// Workloads 1 to 3: a resident volume beside a directory of the same disk's file system, and beside FUSE file systems
/// that only hand on. In turns, several rounds; the ratio is of each round.
struct FileBench: Sendable {
    let plan: BenchPlan

    // open(2); a macro that Swift does not see.
    private static let O_DIRECT: Int32 = 0o40000

    /// Something to measure, in seconds.
    private struct Work: Sendable {
        let workload: Int
        let title: String
        let aim: BenchAim?
        /// Not for bindfs, which ignores O_DIRECT.
        var isDirect = false
        /// Forget what is cached first.
        var isCold = false
        /// Not measured.
        var prepare: @Sendable (_ path: String) async throws -> Void = { _ in }
        let run: @Sendable (_ path: String) async throws -> Void
    }

    func run() async throws -> [BenchSection] {
        try await Cleanup.scope { cleanup in
            let places = try await BenchPlaces.make(plan, peers: [.bindfs, .passthrough], cleanup)
            return try await measure(places.all, places.site)
        }
    }

    private func measure(_ places: [BenchPlace], _ site: SiteProcess) async throws -> [BenchSection] {
        var sections = [
            BenchSection(1, "Data, resident: time on ext4 over time here (1: as quick)"),
            BenchSection(
                2, "Metadata, \(BenchText.count(plan.metadataFileCount)) files: time on ext4 over time here"),
            BenchSection(3, "Trees: time here over time on ext4"),
        ]
        let archive = places[0].path + "/../tree.tar"
        try await makeArchive(archive, count: plan.treeFileCount)
        let pid = try await BenchMachine.pid(of: site)
        let works = dataWorks() + metadataWorks() + treeWorks(archive)
        var seconds = works.map { _ in places.map { _ in [Double]() } }
        var processor = works.map { _ in 0.0 }
        for round in 1...plan.fileRoundCount {
            plan.note("files, round \(round) of \(plan.fileRoundCount)")
            for (index, work) in works.enumerated() {
                for (number, place) in places.enumerated() where !(work.isDirect && place.kind == .bindfs) {
                    do {
                        let taken = try await measure(work, place, site: pid)
                        seconds[index][number].append(taken.seconds)
                        if number == 1 { processor[index] += taken.processor }
                    } catch {
                        // What a peer cannot do says nothing of us.
                        guard number > 1, !(error is CancellationError) else { throw error }
                        plan.note("\(place.kind.rawValue), \(work.title): \(error)")
                    }
                }
            }
        }
        for (index, work) in works.enumerated() {
            sections[work.workload - 1].rows += rows(work, places, seconds[index], processor[index])
        }
        return sections
    }

    private func measure(
        _ work: Work, _ place: BenchPlace, site pid: Int32
    ) async throws -> (seconds: Double, processor: Double) {
        try await work.prepare(place.path)
        if work.isCold { try await BenchMachine.dropCaches() }
        let before = try BenchMachine.processorSeconds(pid)
        let start = ContinuousClock.now
        try await work.run(place.path)
        let seconds = (ContinuousClock.now - start).seconds
        return (seconds, try BenchMachine.processorSeconds(pid) - before)
    }

    private func rows(_ work: Work, _ places: [BenchPlace], _ seconds: [[Double]], _ processor: Double)
        -> [BenchRow]
    {
        var rows: [BenchRow] = []
        for number in 1..<places.count where !seconds[number].isEmpty {
            let isTree = work.workload == 3
            let (top, bottom) = isTree ? (seconds[number], seconds[0]) : (seconds[0], seconds[number])
            guard let ratio = Series.ratios(top, to: bottom), let own = Series(seconds[number]),
                let native = Series(seconds[0])
            else { continue }
            let processorText =
                number == 1 ? ", site \(fixed(processor / Double(plan.fileRoundCount), 2)) s CPU" : ""
            rows.append(
                BenchRow(
                    number == 1 ? work.title : "   \(places[number].kind.rawValue)",
                    "\(timeText(own.median))\(processorText)", against: timeText(native.median),
                    ratio: ratio.median, aim: number == 1 ? work.aim : nil))
        }
        return rows
    }

    // MARK: 1

    private func dataWorks() -> [Work] {
        let size = plan.dataByteCount
        let count = plan.randomOperationCount
        func threaded(_ body: @escaping @Sendable (String) throws -> Void)
            -> @Sendable (String) async throws -> Void
        {
            { path in try await DedicatedThread.run("work") { try body(path) } }
        }
        return [
            Work(
                workload: 1, title: "sequential write of \(size >> 20) MiB, fsync",
                aim: .atLeast(0.95, "0.95"),
                run: threaded { try Self.writeLarge("\($0)/large", size) }),
            Work(
                workload: 1, title: "sequential read, cold", aim: .atLeast(0.95, "0.95"), isCold: true,
                run: threaded { try Self.readLarge("\($0)/large", size) }),
            Work(
                workload: 1, title: "sequential read, warm", aim: .atLeast(0.95, "0.95"),
                prepare: threaded { try Self.readLarge("\($0)/large", size) },
                run: threaded { try Self.readLarge("\($0)/large", size) }),
            Work(
                workload: 1, title: "\(count) random reads of 4 KiB, O_DIRECT (the node caches)",
                aim: .atLeast(0.95, "0.95"),
                isDirect: true,
                run: threaded { try Self.randomReads("\($0)/large", size, count) }),
            Work(
                workload: 1, title: "\(count) random writes of 4 KiB, fdatasync each",
                aim: .atLeast(0.7, "0.7"),
                run: threaded { try Self.randomWrites("\($0)/large", size, count) }),
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

    // MARK: 2

    private func metadataWorks() -> [Work] {
        let count = plan.metadataFileCount
        @Sendable func eachFile(_ body: @escaping @Sendable (String) throws -> Void)
            -> @Sendable (String) async throws -> Void
        {
            { path in
                try await DedicatedThread.run("files") {
                    for number in 0..<count { try body("\(path)/many/d\(number / 1000)/f\(number)") }
                }
            }
        }
        let bytes = [UInt8](repeating: 0x61, count: 1024)
        let stats = eachFile { path in
            var status = stat()
            try BenchFiles.check(stat(path, &status), "stat", path)
            guard status.st_size == 1024 else { throw LabError.invalid("\(path) is not as it was written") }
        }
        return [
            Work(workload: 2, title: "create and write 1 KiB", aim: .atLeast(0.3, "0.3")) { path in
                for number in stride(from: 0, to: count, by: 1000) {
                    try BenchFiles.makeDirectory("\(path)/many/d\(number / 1000)")
                }
                try await eachFile { try BenchFiles.write($0, bytes) }(path)
            },
            Work(workload: 2, title: "stat, again", aim: .atLeast(0.9, "0.9"), prepare: stats, run: stats),
            Work(workload: 2, title: "stat, cold", aim: nil, isCold: true, run: stats),
            Work(workload: 2, title: "list with attributes, cold", aim: .atLeast(0.4, "0.4"), isCold: true) {
                path in
                try await ChildProcess.check(Program("ls", ["-lR", "\(path)/many"]), limit: .seconds(120))
            },
            Work(
                workload: 2, title: "open, read, close", aim: nil,
                run: eachFile {
                    guard try BenchFiles.read($0).count == 1024 else {
                        throw LabError.invalid("\($0) is short")
                    }
                }),
            Work(workload: 2, title: "unlink", aim: nil) { path in
                try await eachFile { try BenchFiles.check(unlink($0), "unlink", $0) }(path)
            },
        ]
    }

    // MARK: 3

    /// A tree like a source's: many small files, some large.
    private func makeArchive(_ archive: String, count: Int) async throws {
        let tree = archive + ".d"
        for number in stride(from: 0, to: count, by: 50) {
            try BenchFiles.makeDirectory("\(tree)/d\(number / 50)")
        }
        for number in 0..<count {
            let size = number % 40 == 0 ? 200_000 : 2000 + number % 7 * 1500
            try BenchFiles.write(
                "\(tree)/d\(number / 50)/file\(number).c",
                Array(repeatElement(UInt8(ascii: "a") + UInt8(number % 26), count: size)))
        }
        try await ChildProcess.check(Program("tar", ["-C", tree, "-cf", archive, "."]), limit: .seconds(120))
    }

    private func treeWorks(_ archive: String) -> [Work] {
        func shell(_ script: String) -> @Sendable (String) async throws -> Void {
            { path in
                var program = Program("/bin/sh", ["-ec", script])
                program.directory = path
                try await ChildProcess.check(program, limit: .seconds(300))
            }
        }
        return [
            Work(
                workload: 3, title: "untar \(BenchText.count(plan.treeFileCount)) files",
                aim: .atMost(4, "4"),
                prepare: shell("rm -rf tree; mkdir tree"), run: shell("tar -C tree -xf '\(archive)'")),
            Work(
                workload: 3, title: "tar it", aim: nil, run: shell("tar -C tree -cf - . | wc -c > /dev/null")),
            Work(
                workload: 3, title: "git add and status", aim: nil,
                prepare: shell("rm -rf tree/.git"),
                run: shell(
                    "cd tree; git init -q; git add -A; git status --short | wc -l > /dev/null")),
            Work(
                workload: 3, title: "git status, cold", aim: .atMost(2.5, "2.5"), isCold: true,
                run: shell("cd tree; git status --short | wc -l > /dev/null")),
            Work(
                workload: 3, title: "git status, warm", aim: .atMost(1.3, "1.3"),
                prepare: shell("cd tree; git status --short | wc -l > /dev/null"),
                run: shell("cd tree; git status --short | wc -l > /dev/null")),
            Work(
                workload: 3, title: "rm -rf of a copy, and cp -r to make it", aim: nil,
                run: shell("cp -r tree copy; rm -rf copy")),
        ]
    }
}
