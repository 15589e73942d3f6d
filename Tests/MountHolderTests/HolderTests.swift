import Foundation
import Glibc
import Testing

@testable import MountHolder
@testable import TestBed

/// The holder as a process, as a site and others meet it.
@Suite(.serialized, .enabled(if: geteuid() == 0, "only root may use a holder"))
struct HolderTests {
    /// Runs a test with a holder of its own.
    private func withHolder(
        _ body: @escaping @Sendable (HolderClient, ChildProcess, Cleanup) async throws -> Void
    ) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let path = directory + "/run/holder.sock"
            let process = try await ChildProcess.start(Program(godwitBinary, ["hold", "--socket", path]))
            try cleanup.add("holder") { await process.end() }
            let client = HolderClient(path: path)
            try await Self.wait { (try? client.names()) != nil }
            try await body(client, process, cleanup)
        }
    }

    private static func wait(_ condition: () throws -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while try !condition() {
            guard ContinuousClock.now < deadline else {
                throw LabError.tooSlow("the holder", limit: .seconds(60))
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    /// A pipe whose writing end is given away, and the end that tells what became of it.
    private struct Watched {
        let reader: Int32
        let mount: HeldMount

        init(_ state: String = "") throws {
            var ends: [Int32] = [0, 0]
            guard pipe(&ends) == 0 else { throw LabError.invalid("pipe") }
            // Programs that another test starts meanwhile are not to have it open.
            for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            _ = fcntl(ends[0], F_SETFL, O_NONBLOCK)
            reader = ends[0]
            mount = try HeldMount(device: ends[1], state: Array(state.utf8))
        }

        /// Whether somebody still has the writing end.
        var isHeld: Bool {
            var byte: UInt8 = 0
            return read(reader, &byte, 1) < 0 && errno == EAGAIN
        }
    }

    /// What the process has open once it has closed the connections of who asked before: of sockets, the one that it
    /// listens at alone.
    private static func openFileCount(_ process: ChildProcess) async throws -> Int {
        let directory = "/proc/\(process.pid)/fd"
        var count = 0
        try await wait {
            let targets = try FileManager.default.contentsOfDirectory(atPath: directory).map { name in
                // It may have been closed since it was listed.
                (try? FileManager.default.destinationOfSymbolicLink(atPath: directory + "/" + name))
                    ?? "socket:"
            }
            count = targets.count
            return targets.count { $0.hasPrefix("socket:") } == 1
        }
        return count
    }

    @Test func whatIsPutIsTakenOnce() async throws {
        try await withHolder { client, process, _ in
            let before = try await Self.openFileCount(process)
            let reader: Int32
            do {
                let watched = try Watched("what is left")
                reader = watched.reader
                try client.put(watched.mount, as: "one")
            }
            #expect(try client.names() == ["one"])
            #expect(try client.take("two") == nil)
            let taken = try #require(try client.take("one"))
            #expect(String(decoding: try taken.state(), as: UTF8.self) == "what is left")
            let device = taken.takeDevice()
            #expect(write(device, "x", 1) == 1)
            var byte: UInt8 = 0
            #expect(read(reader, &byte, 1) == 1 && byte == UInt8(ascii: "x"))
            // Nobody else has it any more: not the holder either.
            close(device)
            try await Self.wait { read(reader, &byte, 1) == 0 }
            #expect(try client.take("one") == nil && client.names().isEmpty)
            #expect(try await Self.openFileCount(process) == before)
            close(reader)
        }
    }

    @Test func whatIsDroppedOrReplacedIsClosed() async throws {
        try await withHolder { client, _, _ in
            let readers = try ["a", "a", "b"].map { name in
                let watched = try Watched()
                try client.put(watched.mount, as: name)
                return watched.reader
            }
            var byte: UInt8 = 0
            try await Self.wait { read(readers[0], &byte, 1) == 0 }
            #expect(read(readers[1], &byte, 1) < 0 && errno == EAGAIN)
            try client.drop("b")
            try client.drop("b")
            try await Self.wait { read(readers[2], &byte, 1) == 0 }
            #expect(try client.names() == ["a"])
            for reader in readers { close(reader) }
        }
    }

    @Test func noMoreMountsAreKeptThanAllowed() async throws {
        try await withHolder { client, _, _ in
            for number in 0..<MountHolder.mountLimit {
                try client.put(HeldMount(device: dup(0), state: []), as: "mount \(number)")
            }
            #expect(throws: HolderError.self) {
                try client.put(HeldMount(device: dup(0), state: []), as: "one too many")
            }
            // Those that are there may change.
            try client.put(HeldMount(device: dup(0), state: []), as: "mount 7")
            #expect(try client.names().count == MountHolder.mountLimit)
            try client.drop("mount 7")
            try client.put(HeldMount(device: dup(0), state: []), as: "one too many")
        }
    }

    @Test func garbageIsAnsweredAndChangesNothing() async throws {
        try await withHolder { client, process, _ in
            let watched = try Watched("kept")
            try client.put(watched.mount, as: "one")
            let before = try await Self.openFileCount(process)
            var generator = SystemRandomNumberGenerator()
            for round in 0..<2000 {
                let socket = try HolderSocket.make()
                defer { close(socket) }
                guard try HolderSocket.with(client.path, { connect(socket, $0, $1) }) == 0 else {
                    throw LabError.invalid("connect")
                }
                var bytes = (0..<Int.random(in: 1...2000, using: &generator)).map { _ in
                    UInt8.random(in: 0...255, using: &generator)
                }
                // Every other one is nearly a request; none is one that changes "one".
                if round.isMultiple(of: 2) { bytes = [1, UInt8(round % 7), UInt8(ascii: "z")] }
                let passed = [Int32](repeating: 0, count: Int.random(in: 0...8, using: &generator))
                try? HolderSocket.send(bytes, round % 7 == 1 ? Array(passed.prefix(1)) : passed, to: socket)
            }
            // Some stay open, and say nothing.
            var silent: [Int32] = []
            for _ in 0..<100 {
                let socket = try HolderSocket.make()
                _ = try HolderSocket.with(client.path, { connect(socket, $0, $1) })
                silent.append(socket)
            }
            try client.drop("z")
            #expect(try client.names() == ["one"])
            for socket in silent { close(socket) }
            #expect(try await Self.openFileCount(process) == before)
            let taken = try #require(try client.take("one"))
            #expect(String(decoding: try taken.state(), as: UTF8.self) == "kept")
        }
    }

    @Test func aSecondHolderIsRefused() async throws {
        try await withHolder { client, _, _ in
            let watched = try Watched()
            try client.put(watched.mount, as: "one")
            let second = try await ChildProcess.run(Program(godwitBinary, ["hold", "--socket", client.path]))
            #expect(!second.exit.isSuccess && second.output.contains("another holder"), "\(second.output)")
            #expect(try client.names() == ["one"])
        }
    }

    @Test func onlyRootIsListenedTo() async throws {
        try await withHolder { client, _, cleanup in
            var status = stat()
            #expect(stat(client.path, &status) == 0 && status.st_mode & 0o777 == 0o600)
            let source = """
                #include <stdio.h>
                #include <string.h>
                #include <sys/socket.h>
                #include <sys/un.h>
                #include <unistd.h>
                int main(int count, char **words) {
                    struct sockaddr_un address = {.sun_family = AF_UNIX};
                    char answer[100];
                    int end = socket(AF_UNIX, SOCK_SEQPACKET, 0);
                    strcpy(address.sun_path, words[1]);
                    if (connect(end, (struct sockaddr *)&address, sizeof address)) return 2;
                    send(end, "\\1\\4", 2, MSG_NOSIGNAL);
                    printf("%d\\n", (int)recv(end, answer, sizeof answer, 0) > 0);
                    return 0;
                }
                """
            let directory = try cleanup.makeTemporaryDirectory()
            try source.write(toFile: directory + "/ask.c", atomically: true, encoding: .utf8)
            let script = """
                gcc -o ask ask.c; ./ask \(client.path); setpriv --reuid 1234 --clear-groups ./ask \(client.path) || echo kept out
                chmod 777 \(client.path) $(dirname \(client.path)) $(dirname $(dirname \(client.path)))
                setpriv --reuid 1234 --clear-groups ./ask \(client.path)
                """
            var program = Program("/bin/bash", ["-ec", script])
            program.directory = directory
            #expect(try await ChildProcess.check(program) == "1\nkept out\n0\n")
        }
    }

    @Test func withoutAHolderItIsSaidWhereItWasSought() {
        #expect(throws: HolderError.absent(path: "/nowhere/holder.sock")) {
            try HolderClient(path: "/nowhere/holder.sock").names()
        }
        #expect(throws: HolderError.self) { try HolderClient(path: "relative").names() }
    }
}
