internal import ArgumentParser
internal import Foundation
internal import Glibc
internal import TestBed

struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure a volume beside ext4, and moves between two real sites, against the aims.",
        discussion: """
            Workloads: 1 data, 2 metadata, 3 trees (beside ext4, bindfs and passthrough_hp), 4 resident databases, 5 hand-off, 6 first query after a move, 7 bytes moved, 8 fault latency, 9 hydration, \
            11 memory, 12 many volumes and claims (needs etcd and kube-apiserver). Sites, link and databases are real; everything is removed at the end. \
            Build with -c release, and leave the machine alone meanwhile. Needs root.

            Example: godwit-lab bench --quick --only 5,8 --json report.json
            """
    )

    @Flag(help: "Small volumes and few rounds: under three minutes.")
    var quick = false
    @Flag(
        help:
            "Databases of 2.3 and 2.1 GiB in workload 6, each in eleven ways: an hour. Default: of 512 MiB.")
    var full = false
    @Flag(help: "Repeat what misses its aim under perf(1), and print where the site's processors are.")
    var perf = false
    @Option(help: ArgumentHelp("Only these workloads, for example 5,6.", valueName: "numbers"))
    var only: String?
    @Option(help: ArgumentHelp("Also write the report as JSON.", valueName: "file"))
    var json: String?
    @Option(help: ArgumentHelp("The program godwit. Default: beside this one.", valueName: "path"))
    var godwit: String?
    @Option(
        name: .customLong("database"),
        help: "Only this one in workload 6: postgresql or mariadb. Default: both, without mariadb if --quick."
    )
    var database: BenchDatabaseKind?
    @Option(help: "Files of the volume for workload 11. Default: 10,000 with --quick, else 100,000.")
    var memoryFiles: Int?

    private static let known = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]

    func validate() throws {
        _ = try workloads()
        guard !(quick && full) else { throw ValidationError("--quick and --full are two things") }
        if let memoryFiles, !(1...10_000_000).contains(memoryFiles) {
            throw ValidationError("--memory-files is 1 to 10000000")
        }
    }

    private func workloads() throws -> Set<Int> {
        guard let only else { return Set(Self.known) }
        return Set(
            try only.split(separator: ",").map { part in
                guard let number = Int(part), Self.known.contains(number) else {
                    throw ValidationError("'\(part)' is none of the workloads \(Self.known)")
                }
                return number
            })
    }

    func run() async throws {
        guard geteuid() == 0 else { throw ValidationError("bench needs root: mounts and network namespaces") }
        let plan = BenchPlan(
            binary: try findGodwit(), isQuick: quick, isFull: full, usesPerf: perf,
            databases: database.map { [$0] } ?? (quick ? [.postgreSQL] : BenchDatabaseKind.allCases),
            memoryFileCount: memoryFiles ?? (quick ? 10_000 : 100_000))
        let wanted = try workloads()
        let start = ContinuousClock.now
        var report = BenchReport(isQuick: quick)
        let style = BenchStyle.ofStandardOutput
        for (numbers, measure) in parts(plan, wanted) where !wanted.isDisjoint(with: numbers) {
            do {
                let noise = try await MachineNoise.measure()
                for var section in try await measure() where wanted.contains(section.workload) {
                    section.noise = noise
                    report.sections.append(section)
                    print(section.text(style))
                    fflush(nil)
                }
            } catch {
                // The other workloads are still worth measuring; the exit code tells.
                let text = "workload \(numbers.map(String.init).joined(separator: " and ")): \(error)"
                report.failures.append(text)
                print("FAILED \(text)\n")
            }
        }
        report.seconds = (ContinuousClock.now - start).seconds
        if let json { try Data(try report.json.utf8).write(to: URL(fileURLWithPath: json)) }
        print(report.summary(style))
        if !report.failures.isEmpty { throw ExitCode.failure }
    }

    private typealias Part = (numbers: [Int], measure: () async throws -> [BenchSection])

    private func parts(_ plan: BenchPlan, _ wanted: Set<Int>) -> [Part] {
        [
            ([1, 2, 3], { try await FileBench(plan: plan, workloads: wanted).run() }),
            ([1], { [try await HydratingFileBench(plan: plan).run()] }),
            ([4], { [try await ResidentDatabaseBench(plan: plan).run()] }),
            ([5], { [try await HandoffBench(plan: plan).run()] }),
            ([6, 7], { try await DatabaseBench(plan: plan).run() }),
            ([8], { [try await FaultBench(plan: plan).run()] }),
            ([9], { [try await HydrationBench(plan: plan).run()] }),
            ([9], { [try await ArrivingReadBench(plan: plan).run()] }),
            ([11], { [try await MemoryBench(plan: plan).run()] }),
            ([12], { [try await ClusterBench(plan: plan).run()] }),
        ]
    }

    private func findGodwit() throws -> String {
        if let godwit {
            guard access(godwit, X_OK) == 0 else { throw ValidationError("\(godwit) is no program") }
            return URL(fileURLWithPath: godwit).standardizedFileURL.path
        }
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let beside = URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("godwit")
            .path
        guard access(beside, X_OK) == 0 else {
            throw ValidationError("there is no program \(beside): build it, or give --godwit")
        }
        return beside
    }
}
