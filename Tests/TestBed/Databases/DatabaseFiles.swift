internal import CTestBed
internal import Glibc

/// What both database servers need of the file system.
enum DatabaseFiles {
    /// Makes a directory that belongs to `owner`, if it is not there.
    static func makeDirectory(_ path: String, owner: UserIdentity, mode: UInt32) throws(LabError) {
        if mkdir(path, mode) < 0 {
            let number = errno
            guard number == EEXIST else { throw .systemCall("mkdir", detail: path, errno: number) }
        }
        _ = try checkedCall("chown", path) { Int(chown(path, owner.user, owner.group)) }
        _ = try checkedCall("chmod", path) { Int(chmod(path, mode)) }
    }

    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// - Source: unix(7): 107 bytes and a final zero.
    static func checkSocketPath(_ path: String) throws(LabError) {
        guard path.utf8.count <= 107 else {
            throw .invalid("the socket's path \(path) is longer than 107 bytes: take a shorter directory")
        }
    }

    /// Whether somebody accepts connections at a Unix socket.
    static func answers(_ path: String) -> Bool {
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard let number = try? checkedCall("socket", path, { Int(socket(AF_UNIX, kind, 0)) }) else {
            return false
        }
        let connection = Descriptor(Int32(number))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else { return false }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        return withUnsafePointer(to: address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(connection.number, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
            }
        }
    }
}

/// Keeps asking a server that is starting until it gives an answer.
///
/// - Parameters:
///   - child: The server; its end ends the waiting.
///   - log: Where it writes why it ended.
/// - Returns: the time since `start`.
func firstAnswer(
    of child: ChildProcess, socket: String, log: String, since start: ContinuousClock.Instant,
    limit: Duration,
    _ ask: @Sendable () async throws -> Void
) async throws -> Duration {
    var lastError: (any Error)?
    while ContinuousClock.now - start < limit {
        if let exit = child.exit {
            let text = (try? readSmallFile(log)).map { String(decoding: $0.suffix(4096), as: UTF8.self) }
            throw LabError.programFailed(child.name, exit: exit, output: text ?? "")
        }
        if DatabaseFiles.answers(socket) {
            do {
                try await ask()
                return ContinuousClock.now - start
            } catch let error as LabError {
                // It listens, but is not ready yet: recovery, for instance.
                lastError = error
            }
        }
        try await Task.sleep(for: .milliseconds(2))
    }
    throw lastError ?? LabError.tooSlow("the start of \(child.name)", limit: limit)
}

/// Ends a server as a power cut would: no process of it runs any code any more.
///
/// It is stopped first, so that it starts no further child while its children are looked up.
func killWithChildren(_ server: ChildProcess) async {
    server.signal(SIGSTOP)
    let children = childProcesses(of: server.pid)
    server.kill(SIGKILL)
    for child in children { child.kill() }
    await server.end(with: SIGKILL)
    for child in children { await child.waitForEnd() }
}

/// A process that somebody else started, held so that its number cannot come to mean another.
private struct ForeignProcess: Sendable {
    let handle: Descriptor

    func kill() { _ = tb_signal_process(handle.number, SIGKILL) }

    func waitForEnd() async {
        let handle = handle
        _ = try? await DedicatedThread.run("wait") {
            var descriptor = pollfd(fd: handle.number, events: Int16(POLLIN), revents: 0)
            _ = tb_poll(&descriptor, 1, 10_000_000_000)
        }
    }
}

private func childProcesses(of pid: Int32) -> [ForeignProcess] {
    guard let text = try? readSmallFile("/proc/\(pid)/task/\(pid)/children") else { return [] }
    return String(decoding: text, as: UTF8.self).split(separator: " ").compactMap { Int32($0) }.compactMap {
        child in
        let handle = tb_open_process(child)
        return handle < 0 ? nil : ForeignProcess(handle: Descriptor(handle))
    }
}
