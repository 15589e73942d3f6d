internal import Foundation
internal import Glibc
internal import TestBed

/// Where processors are while a site works, by perf(1) of the machine.
struct PerfRecorder: Sendable {
    /// Samples a second of each processor: a short work has some hundreds.
    private static let frequency = 4999

    let directory: String

    /// - Returns: nil if perf is not there, or not allowed; the reason is told.
    static func find(_ plan: BenchPlan, _ cleanup: Cleanup) async throws -> PerfRecorder? {
        guard plan.usesPerf else { return nil }
        let recorder = PerfRecorder(directory: try cleanup.makeTemporaryDirectory())
        let probe = Program(
            "perf", ["record", "-q", "-N", "-o", "\(recorder.directory)/probe", "-F", "99", "true"])
        do {
            try await ChildProcess.check(probe, limit: .seconds(30))
            return recorder
        } catch {
            plan.note("--perf is left out: \(error) (Debian's package is linux-perf)")
            return nil
        }
    }

    /// Records a process and the threads that it makes while some work is done.
    func record(
        _ pid: Int32, while work: @Sendable () async throws -> Void
    ) async throws -> HotSymbols {
        let data = "\(directory)/data"
        unlink(data)
        let arguments = ["record", "-q", "-N", "-g", "-F", "\(Self.frequency)", "-o", data, "-p", "\(pid)"]
        let perf = try await ChildProcess.start(Program("perf", arguments))
        let deadline = ContinuousClock.now + .seconds(10)
        while access(data, F_OK) != 0 {
            guard perf.exit == nil, ContinuousClock.now < deadline else {
                throw LabError.invalid("perf does not record: \(perf.output(limit: 1000))")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        // Made before its counters are.
        try await Task.sleep(for: .milliseconds(300))
        do {
            try await work()
        } catch {
            await perf.end(with: SIGINT)
            throw error
        }
        await perf.end(with: SIGINT, grace: .seconds(60))
        let report = Program(
            "perf",
            [
                "report", "-i", data, "--stdio", "--no-children", "-g", "none", "--sort", "dso,symbol",
                "--percent-limit", "0.5",
            ])
        return HotSymbols(Self.readable(try await ChildProcess.check(report, limit: .seconds(120))))
    }

    /// With Swift's names as people write them, where the runtime tells them.
    private static func readable(_ report: String) -> String {
        report.split(separator: "\n").map { line in
            guard let start = line.range(of: "$s")?.lowerBound else { return String(line) }
            let name = line[start...].prefix { !$0.isWhitespace }
            guard let plain = demangled(String(name)) else { return String(line) }
            return String(line[..<start] + plain.prefix(100))
        }.joined(separator: "\n")
    }

    private static func demangled(_ name: String) -> String? {
        // As the runtime declares it (Demangle.h); looked for at run time, for it may have gone.
        typealias Demangle =
            @convention(c) (
                UnsafePointer<CChar>?, Int, UnsafeMutablePointer<CChar>?, UnsafeMutablePointer<Int>?, UInt32
            ) -> UnsafeMutablePointer<CChar>?
        guard let symbol = dlsym(nil, "swift_demangle") else { return nil }
        let demangle = unsafeBitCast(symbol, to: Demangle.self)
        guard let text = name.withCString({ demangle($0, name.utf8.count, nil, nil, 0) }) else { return nil }
        defer { free(text) }
        return String(cString: text)
    }
}
