internal import Foundation
internal import TestBed

/// Workload 11, its second half: what a site keeps in memory for a volume of many files.
struct MemoryBench: Sendable {
    let plan: BenchPlan

    func run() async throws -> BenchSection {
        try await Cleanup.scope { cleanup in
            let pair = try await SitePair.start(binary: plan.binary, link: plan.link, cleanup)
            do {
                return try await measure(pair, cleanup)
            } catch {
                throw LabError.invalid("\(error)\n\(pair.logs)")
            }
        }
    }

    private func measure(_ pair: SitePair, _ cleanup: Cleanup) async throws -> BenchSection {
        let count = plan.memoryFileCount
        plan.note("memory with \(BenchText.count(count)) files")
        let site = pair.london
        try await site.godwit(["volume", "create", "many", "--capacity", "20Gi"])
        let path = try await pair.mount("many", at: site, cleanup)
        try await BenchFiles.writeMany(path, count: count, byteCount: 16)
        // A new process: what making the files left in memory is not what finding them needs.
        try await pair.unmount("many", at: site)
        await site.stop()
        try await site.start()
        try await pair.mount("many", at: site, cleanup)
        let pid = try await BenchMachine.pid(of: site)
        let before = try BenchMachine.residentByteCount(pid)
        let find = Program("find", [path, "-type", "f", "-size", "-2", "-printf", "."])
        let outcome = try await ChildProcess.run(find, limit: .seconds(600))
        guard outcome.exit.isSuccess, outcome.output.utf8.count == count else {
            throw LabError.invalid(
                "find \(outcome.exit) and found \(outcome.output.utf8.count) of \(count) files")
        }
        let after = try BenchMachine.residentByteCount(pid)
        let afterParts = try Self.parts(pid)
        let descriptorCount = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd").count
        // The kernel forgets its inodes, and tells the site so.
        try await BenchMachine.dropCaches()
        let forgotten = try await Self.settled { try BenchMachine.residentByteCount(pid) }
        let forgottenParts = try Self.parts(pid)
        var section = BenchSection(11, "Memory of a site with \(BenchText.count(count)) files after find")
        // The aim is for a million; fewer files must not need more.
        let each = (Double(after) - Double(before)) / Double(count)
        let million = Double(before) + each * 1_000_000
        section.rows = [
            BenchRow("before find", BenchText.size(before), value: Double(before)),
            BenchRow(
                "after find (\(BenchText.seconds(outcome.duration.seconds)))", BenchText.size(after),
                value: Double(after), aim: .atMost(150e6, "150 MB")),
            BenchRow("bytes an inode", fixed(each, 0), value: each),
            BenchRow(
                "that many for a million inodes", BenchText.size(UInt64(max(0, million))), value: million,
                aim: .atMost(150e6, "150 MB")),
            BenchRow(
                "after the kernel forgot them", BenchText.size(forgotten), value: Double(forgotten),
                aim: .atMost(64e6, "64 MB")),
            BenchRow(
                "open descriptors", "\(descriptorCount)", value: Double(descriptorCount),
                aim: .atMost(1999, "1999")),
        ]
        for (index, parts) in [(1, afterParts), (3, afterParts), (4, forgottenParts)] {
            section.rows[index].details = [parts]
        }
        try await pair.unmount("many", at: site)
        return section
    }

    /// What the memory is of.
    private static func parts(_ pid: Int32) throws -> String {
        let own = try BenchMachine.residentByteCount(pid, "RssAnon")
        let files = try BenchMachine.residentByteCount(pid, "RssFile")
        let shared = try BenchMachine.residentByteCount(pid, "RssShmem")
        return
            "\(BenchText.size(own)) of its own; \(BenchText.size(files)) of files, mostly the program and its "
            + "libraries, which the kernel can read again; \(BenchText.size(shared)) shared"
    }

    /// A figure that has fallen for two seconds no more.
    private static func settled(_ figure: () throws -> UInt64) async throws -> UInt64 {
        var least = try figure()
        var lastFall = ContinuousClock.now
        while ContinuousClock.now - lastFall < .seconds(2) {
            try await Task.sleep(for: .milliseconds(200))
            let now = try figure()
            if now < least { (least, lastFall) = (now, ContinuousClock.now) }
        }
        return least
    }
}
