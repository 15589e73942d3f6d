internal import TestBed

/// Something to measure in a place, in seconds.
struct FileWork: Sendable {
    let workload: Int
    let title: String
    /// What it has many of ("file", "MiB"), how many, and how many of them are done at a time.
    let unit: String
    let count: Int
    var width = 1
    let aim: BenchAim?
    /// Not for bindfs, which ignores O_DIRECT.
    var isDirect = false
    /// Forget what is cached first.
    var isCold = false
    /// Not measured.
    var prepare: @Sendable (_ path: String) async throws -> Void = { _ in }
    let run: @Sendable (_ path: String) async throws -> Void

    /// The work of one thread that waits in system calls.
    static func threaded(
        _ body: @escaping @Sendable (String) throws -> Void
    ) -> @Sendable (String) async throws -> Void {
        { path in try await DedicatedThread.run("work") { try body(path) } }
    }

    /// The work of some commands in the place.
    static func shell(_ script: String) -> @Sendable (String) async throws -> Void {
        { path in
            var program = Program("/bin/sh", ["-ec", script])
            program.directory = path
            try await ChildProcess.check(program, limit: .seconds(300))
        }
    }
}
