internal import CTestBed
internal import Glibc
internal import Synchronization

/// A network namespace with a name, so that `ip netns exec NAME …` and `nsenter --net=/run/netns/NAME …`
/// work.
///
/// The names of those made here are `gw-PID-START-NETWORK` and a letter: who made it, when that process
/// started (in clock ticks since boot, hence a recycled number is told apart), and the third number of its
/// addresses.
package struct NetworkNamespace: Hashable, Sendable {
    package let name: String

    package init(existing name: String) { self.name = name }

    package var path: String { "\(Self.directory)/\(name)" }

    private static let directory = "/run/netns"
    private static let prefix = "gw-"

    /// Makes an empty namespace in which `lo` is up.
    ///
    /// IPv6 addresses are not made by themselves and nothing is remembered of earlier TCP connections:
    /// counters then show what a test sent, and one measurement does not influence the next.
    package static func create(named name: String) async throws -> NetworkNamespace {
        try await ChildProcess.check(Program("ip", ["netns", "add", name]))
        let namespace = NetworkNamespace(existing: name)
        do {
            try await namespace.configure(["link set lo up"])
            try await namespace.perform {
                try writeSetting("/proc/sys/net/ipv4/tcp_no_metrics_save", "1")
            }
        } catch {
            try? await namespace.remove()
            throw error
        }
        return namespace
    }

    /// Removes the name; the namespace itself goes with its last process and socket. May be repeated, and is
    /// not stopped by a cancellation.
    package func remove() async throws {
        let (name, path) = (name, path)
        try await Task.detached {
            guard access(path, F_OK) == 0 else { return }
            do {
                try await ChildProcess.check(Program("ip", ["netns", "delete", name]))
            } catch {
                guard access(path, F_OK) != 0 else { throw error }
            }
        }.value
    }

    /// Carries out commands of ip(8), one a line, in the namespace.
    package func configure(_ commands: [String]) async throws {
        var program = Program("ip", ["-batch", "-"])
        program.network = self
        program.input = Array((commands.joined(separator: "\n") + "\n").utf8)
        try await ChildProcess.check(program)
    }

    /// Runs blocking work on a new thread inside the namespace. Sockets made there belong to it for good,
    /// whichever thread uses them later.
    package func perform<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws
        -> Result
    {
        let path = path
        return try await DedicatedThread.run("in-namespace") {
            _ = try checked(tb_enter_network_namespace(path), "setns", path)
            return try body()
        }
    }

    /// Removes the namespaces that processes left behind which are no more.
    ///
    /// - Returns: the names of those removed.
    @discardableResult
    package static func removeAbandoned() async -> [String] {
        var removed: [String] = []
        for name in names() {
            guard let owner = Owner(name: name), !owner.isAlive else { continue }
            if (try? await NetworkNamespace(existing: name).remove()) != nil { removed.append(name) }
        }
        return removed
    }

    /// Two names that nobody has, and the number to use in their addresses.
    static func reserve() throws(LabError) -> Reservation {
        guard let start = processStart(getpid()) else {
            throw .invalid("/proc/self/stat does not say when this process started")
        }
        let taken = Set(names().compactMap { Owner(name: $0)?.network })
        let number = reserved.withLock { reserved -> UInt8? in
            // Numbers of other processes are avoided for the reader's sake only: namespaces cannot collide.
            let free = (UInt8.min...UInt8.max).filter { !reserved.contains($0) }
            guard let number = free.first(where: { !taken.contains($0) }) ?? free.first else { return nil }
            reserved.insert(number)
            return number
        }
        guard let number else { throw .invalid("this process holds 256 links already: close some") }
        let base = "\(prefix)\(getpid())-\(start)-\(number)"
        return Reservation(network: number, names: (base + "a", base + "b"))
    }

    static func release(_ reservation: Reservation) {
        _ = reserved.withLock { $0.remove(reservation.network) }
    }

    struct Reservation: Sendable {
        let network: UInt8
        let names: (a: String, b: String)
    }

    private static let reserved = Mutex(Set<UInt8>())

    private static func names() -> [String] {
        guard let listing = opendir(directory) else { return [] }
        defer { closedir(listing) }
        var names: [String] = []
        while let entry = readdir(listing) {
            let name = String(
                decoding: entryName(entry).dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
            if name.hasPrefix(prefix) { names.append(name) }
        }
        return names
    }

    /// The process that made a namespace, read from its name.
    struct Owner: Equatable {
        let pid: pid_t
        let start: UInt64
        let network: UInt8

        init?(name: String) {
            let parts = name.split(separator: "-", omittingEmptySubsequences: false)
            guard parts.count == 4, parts[0] == "gw", parts[3].last == "a" || parts[3].last == "b",
                let pid = pid_t(parts[1]), pid > 0, let start = UInt64(parts[2]),
                let network = UInt8(parts[3].dropLast())
            else { return nil }
            self.pid = pid
            self.start = start
            self.network = network
        }

        var isAlive: Bool { processStart(pid) == start }
    }
}

/// When a process started, in clock ticks since boot.
///
/// - Returns: nil if there is no such process.
/// - Source: proc_pid_stat(5), field 22. The name in field 2 may contain anything: count from its last
///   parenthesis.
func processStart(_ pid: pid_t) -> UInt64? {
    guard let text = try? readSmallFile("/proc/\(pid)/stat") else { return nil }
    guard let end = text.lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let fields = text[(end + 1)...].split(separator: UInt8(ascii: " "))
    return fields.count > 19 ? UInt64(String(decoding: fields[19], as: UTF8.self)) : nil
}

/// Reads a file of the kernel's, whose size is not known before.
func readSmallFile(_ path: String) throws(LabError) -> [UInt8] {
    let file = Int32(try checkedCall("open", path) { Int(open(path, O_RDONLY | O_CLOEXEC)) })
    defer { close(file) }
    var content: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
        let length = try checkedCall("read", path) { read(file, &buffer, buffer.count) }
        guard length > 0 else { return content }
        content += buffer.prefix(length)
    }
}

/// Writes a setting below /proc/sys.
func writeSetting(_ path: String, _ value: String) throws(LabError) {
    let file = Int32(try checkedCall("open", path) { Int(open(path, O_WRONLY | O_CLOEXEC)) })
    defer { close(file) }
    var bytes = Array(value.utf8)
    _ = try checkedCall("write", path) { write(file, &bytes, bytes.count) }
}
