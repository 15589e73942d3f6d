internal import Glibc
internal import TestBed

/// Workload 2: many small files.
struct MetadataWorks: Sendable {
    let plan: BenchPlan

    var all: [FileWork] {
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
            FileWork(
                workload: 2, title: "create and write 1 KiB", unit: "file", count: count,
                aim: .atLeast(0.3, "0.3")
            ) { path in
                for number in stride(from: 0, to: count, by: 1000) {
                    try BenchFiles.makeDirectory("\(path)/many/d\(number / 1000)")
                }
                try await eachFile { try BenchFiles.write($0, bytes) }(path)
            },
            FileWork(
                workload: 2, title: "stat, again", unit: "file", count: count, aim: .atLeast(0.9, "0.9"),
                prepare: stats, run: stats),
            FileWork(
                workload: 2, title: "stat, cold", unit: "file", count: count, aim: nil, isCold: true,
                run: stats),
            FileWork(
                workload: 2, title: "list with attributes, cold", unit: "file", count: count,
                aim: .atLeast(0.4, "0.4"), isCold: true
            ) {
                path in
                try await ChildProcess.check(Program("ls", ["-lR", "\(path)/many"]), limit: .seconds(120))
            },
            FileWork(
                workload: 2, title: "open, read, close", unit: "file", count: count, aim: nil,
                run: eachFile {
                    guard try BenchFiles.read($0).count == 1024 else {
                        throw LabError.invalid("\($0) is short")
                    }
                }),
            FileWork(workload: 2, title: "unlink", unit: "file", count: count, aim: nil) { path in
                try await eachFile { try BenchFiles.check(unlink($0), "unlink", $0) }(path)
            },
        ]
    }
}
