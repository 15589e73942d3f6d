internal import CTestBed
internal import Glibc

/// A program to start, and where.
package struct Program: Sendable {
    /// Where the two output streams of a program go.
    package enum Output: Hashable, Sendable {
        /// Kept in memory together, to be read with `ChildProcess.output`. For programs that write little.
        case collected
        /// Added to the end of a file, which is made if missing.
        case file(String)
        case discarded
        /// This process's own.
        case inherited
    }

    package var name: String
    package var arguments: [String]
    /// Added to, or replacing, the small fixed environment (`PATH`, `HOME`, `LANG`).
    package var environment: [String: String] = [:]
    package var directory: String?
    package var network: NetworkNamespace?
    package var user: UserIdentity?
    package var input: [UInt8] = []
    package var output = Output.collected
    /// Sent to the program when this process ends in whatever way; 0 for none.
    package var parentDeathSignal: Int32 = SIGKILL

    /// - Parameter name: A path, or a name that is looked up in the usual directories.
    package init(_ name: String, _ arguments: [String] = []) {
        self.name = name
        self.arguments = arguments
    }

    private static let directories = [
        "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
    ]

    /// The path of the program's file.
    package func path() throws(LabError) -> String {
        let candidates = name.contains("/") ? [name] : Program.directories.map { "\($0)/\(name)" }
        for candidate in candidates where access(candidate, X_OK) == 0 { return candidate }
        throw .programMissing(name)
    }

    fileprivate var environmentStrings: [String] {
        var all = ["PATH": Program.directories.joined(separator: ":"), "HOME": "/", "LANG": "C.UTF-8"]
        all.merge(environment) { _, own in own }
        return all.map { "\($0.key)=\($0.value)" }
    }
}

/// A running program that this process started; leader of its own process group.
///
/// It is never left behind: letting go of the last reference ends it and its group with SIGKILL, and so does
/// the end of this process (itself only, see `Program.parentDeathSignal`). Its exit status is taken in any
/// case.
package final class ChildProcess: Sendable {
    package let name: String
    private let record: ChildRecord
    private let collector: MemoryFile?

    package var pid: Int32 { record.pid }
    /// nil while it runs.
    package var exit: ProcessExit? { record.ending?.exit }
    /// nil while it runs.
    package var usage: ProcessUsage? { record.ending?.usage }

    private init(name: String, record: ChildRecord, collector: MemoryFile?) {
        self.name = name
        self.record = record
        self.collector = collector
    }

    deinit {
        _ = record.signal(SIGKILL, wholeGroup: true)
    }

    /// Starts a program.
    ///
    /// - Throws: `.programMissing`, or `.systemCall` naming the step that failed; then nothing is running.
    package static func start(_ program: Program) async throws -> ChildProcess {
        let path = try program.path()
        let strings = [path] + program.arguments + program.environmentStrings + [program.directory ?? ""]
        guard !strings.contains(where: { $0.utf8.contains(0) }) else {
            throw LabError.invalid("an argument of \(program.name) contains a zero byte")
        }
        let files = try StandardFiles(program)
        let record = try await ProcessKeeper.shared.start { try launch(program, path: path, files: files) }
        return ChildProcess(name: program.name, record: record, collector: files.collector)
    }

    /// Sends a signal to the program and all of its process group.
    ///
    /// - Returns: false if it had ended already.
    @discardableResult
    package func kill(_ signal: Int32 = SIGKILL) -> Bool { record.signal(signal, wholeGroup: true) }

    /// Sends a signal to the program alone.
    @discardableResult
    package func signal(_ number: Int32) -> Bool { record.signal(number, wholeGroup: false) }

    /// Waits until it has ended.
    ///
    /// - Throws: `.tooSlow` after `limit` (it goes on running then); `CancellationError`.
    @discardableResult
    package func wait(limit: Duration? = nil) async throws -> ProcessExit {
        if let ending = try await record.wait(limit: limit) { return ending.exit }
        throw LabError.tooSlow(name, limit: limit ?? .zero)
    }

    /// Asks it to end and, if it does not within `grace`, kills it. Returns when it has ended; may be
    /// repeated.
    @discardableResult
    package func end(with signal: Int32 = SIGTERM, grace: Duration = .seconds(10)) async -> ProcessExit {
        self.signal(signal)
        // Not in the caller's task: ending must work after a cancellation too.
        let record = self.record
        return await Task.detached {
            if let ending = try? await record.wait(limit: grace) { return ending.exit }
            _ = record.signal(SIGKILL, wholeGroup: true)
            while true {
                if let ending = try? await record.wait(limit: nil) { return ending.exit }
            }
        }.value
    }

    /// What it wrote so far, at most the last `limit` bytes. Empty unless its output is `.collected`.
    package func output(limit: Int = 64 << 20) -> String {
        String(decoding: collector?.tail(limit) ?? [], as: UTF8.self)
    }

    static func launch(_ program: Program, path: String, files: StandardFiles) throws -> ChildRecord {
        try withCStrings([path] + program.arguments) { arguments in
            try withCStrings(program.environmentStrings) { environment in
                try withOptionalCString(program.directory) { directory in
                    try withOptionalCString(program.network?.path) { network in
                        try (program.user?.groups ?? []).withUnsafeBufferPointer { groups in
                            try path.withCString { path in
                                var request = tb_program(
                                    path: path, arguments: arguments, environment: environment,
                                    directory: directory, network_namespace: network,
                                    standard_input: files.input, standard_output: files.output,
                                    standard_error: files.error, changes_user: program.user != nil,
                                    user: program.user?.user ?? 0, group: program.user?.group ?? 0,
                                    groups: groups.baseAddress, group_count: groups.count,
                                    parent_death_signal: program.parentDeathSignal)
                                return try start(&request, name: program.name)
                            }
                        }
                    }
                }
            }
        }
    }

    private static func start(_ request: inout tb_program, name: String) throws(LabError) -> ChildRecord {
        var pidfd: Int32 = -1
        var stage = UnsafePointer<CChar>(bitPattern: 1)
        let pid = withUnsafeMutablePointer(to: &stage) { stage in
            stage.withMemoryRebound(to: UnsafePointer<CChar>.self, capacity: 1) {
                tb_start(&request, &pidfd, $0)
            }
        }
        guard pid > 0 else {
            throw .systemCall(stage.map { String(cString: $0) } ?? "start", detail: name, errno: -pid)
        }
        return ChildRecord(pid: pid, pidfd: pidfd)
    }
}

extension ChildProcess {
    /// What a program that ran to its end left.
    package struct Outcome: Sendable {
        package let exit: ProcessExit
        package let output: String
        package let usage: ProcessUsage?
        package let duration: Duration
    }

    /// Starts a program and waits for its end. It is killed when the limit passes or the task is cancelled.
    package static func run(_ program: Program, limit: Duration = .seconds(60)) async throws -> Outcome {
        let clock = ContinuousClock()
        let start = clock.now
        let child = try await ChildProcess.start(program)
        do {
            let exit = try await child.wait(limit: limit)
            let duration = clock.now - start
            return Outcome(exit: exit, output: child.output(), usage: child.usage, duration: duration)
        } catch {
            child.kill()
            await child.end()
            throw error
        }
    }

    /// The same, where anything but success is an error.
    ///
    /// - Returns: what it wrote.
    @discardableResult
    package static func check(_ program: Program, limit: Duration = .seconds(60)) async throws -> String {
        let outcome = try await run(program, limit: limit)
        guard outcome.exit.isSuccess else {
            throw LabError.programFailed(
                program.name, exit: outcome.exit, output: String(outcome.output.suffix(4096)))
        }
        return outcome.output
    }
}
