import Catalog
import EngineTestSupport
import Foundation
import Glibc
import Hydration
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

@testable import FuseMount

/// A served volume, and who asks it as the kernel would, without one.
private final class ServedVolume: Sendable {
    let kernel: FakeKernel
    let volume: TestVolume
    private let directory: TemporaryDirectory
    private let mount: Mutex<FuseMount>
    private let options: FuseMountOptions

    /// - Parameter makeHead: makes the head in the directory that it is given.
    init(
        threadCount: UInt32 = 4, source: FakeSource? = nil, freeSpace: (@Sendable () -> UInt64)? = nil,
        makeHead: (String) async throws -> Void = ServedVolume.makeEmptyHead
    ) async throws {
        let directory = try TemporaryDirectory()
        self.directory = directory
        let head = try directory.make("head")
        try await makeHead(head)
        var configuration = Hydrator.Configuration()
        configuration.faultTimeout = .milliseconds(100)
        let volume = try TestVolume(
            opening: head, source: source, configuration: configuration, freeSpace: freeSpace)
        self.volume = volume
        var options = FuseMountOptions()
        options.threadCount = threadCount
        // A socket's message holds no mebibyte everywhere.
        options.transferByteCount = 64 << 10
        self.options = options
        let kernel = try FakeKernel()
        self.kernel = kernel
        mount = Mutex(
            try await FakeKernel.onThread { [options] in
                let initialization = try kernel.send(.initialize())
                let mount = try FuseMount(
                    serving: kernel.serverDescriptor, fileSystem: volume.fileSystem, at: directory.path,
                    options: options)
                #expect(try kernel.answer(to: initialization).error == 0)
                return mount
            })
    }

    static func makeEmptyHead(in directory: String) throws {
        // Neither fallocate nor names fill the machine's disk.
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 64 << 20, inodeCount: 3000), epoch: .first,
            now: VolumeFileSystem.now(), withRoot: true)
    }

    /// Another server goes on with the session.
    func replaceServer() async throws {
        let current = mount.withLock { $0 }
        let left = try #require(await current.leave())
        let next = try FuseMount(
            resuming: left, fileSystem: volume.fileSystem, at: directory.path, options: options)
        mount.withLock { $0 = next }
    }

    /// Ends the session, with whatever waits in it.
    ///
    /// - Returns: what was wrong in all of its life; empty: nothing.
    func end() async throws -> [String] {
        let kernel = self.kernel
        let faults = try await FakeKernel.onThread { try kernel.end() }
        await mount.withLock { $0 }.waitUntilUnmounted()
        return faults
    }

    /// What is wrong with the volume, which is closed.
    func check() async throws -> [String] {
        try volume.fileSystem.finish()
        let faults = try CatalogImage(volume.storage.catalog).faults()
        try await volume.close()
        return faults
    }

    /// Of how many inodes something is remembered that only the kernel's forgetting ends.
    var rememberedInodeCount: Int { mount.withLock { $0.server.rememberedInodeCount } }

    func lift(_ limits: VolumeLimits) throws {
        try volume.storage.catalog.perform { try $0.setLimits(limits) }
    }
}

/// Requests of the kernel, sound and otherwise: each is answered exactly once, by one thread and by several, and what
/// comes later is served as ever. No kernel is asked: what it would never send is the point.
///
/// Never sent: messages shorter than a header, for they end the session (a test of its own), and unique numbers that come
/// twice, by which answers are counted. For the same reason an answer to INTERRUPT may come once or not at all: libfuse
/// sends EAGAIN where it does not know yet what was interrupted.
@Suite struct FuseFuzzTests {
    private static let rounds = 1500 * Mutator.factor
    private static let seed = Mutator.seed

    /// Sends requests, with at most so many on their way, and waits for the last answer.
    private static func ask(
        _ kernel: FakeKernel, _ temper: FuseRequestMaker.Temper, seed: UInt64 = Self.seed,
        rounds: Int = Self.rounds,
        together: Int, meanwhile: (Int) throws -> Void = { _ in }
    ) throws {
        var maker = FuseRequestMaker(seed: seed, temper)
        for round in 0..<rounds {
            try kernel.wait(untilAtMost: together - 1)
            maker.learn(kernel.takeNewNodes())
            let open = kernel.someWaiting { maker.next(below: $0) }
            try kernel.send(maker.request(interrupting: open))
            try meanwhile(round)
        }
        try kernel.wait(untilAtMost: 0)
    }

    /// Makes a file, reads it, finds it in a listing, and removes it.
    private static func expectService(_ kernel: FakeKernel, _ name: String = "a file of its own") throws {
        let named = Array(name.utf8) + [0]
        let made = try kernel.ask(FuseMessage(.create, [UInt8](halves: [2, 0o100644, 0o22, 0]) + named))
        try #require(made.error == 0, "seed \(seed): create fails with \(made.error)")
        let node = made.payload.word(at: 0)
        let text = Array("what is written is read".utf8)
        let head = [UInt8](words: [node, 5]) + [UInt8](halves: [UInt32(text.count), 0])
        let written = try kernel.ask(FuseMessage(.write, node: node, head + [UInt8](words: [0, 2]) + text))
        #expect(written.error == 0 && written.payload.half(at: 0) == UInt32(text.count), "seed \(seed)")
        let place = [UInt8](words: [node, 0]) + [UInt8](halves: [100, 0]) + [UInt8](words: [0, 0])
        let read = try kernel.ask(FuseMessage(.read, node: node, place))
        #expect(read.payload == [0, 0, 0, 0, 0] + text, "seed \(seed)")
        let found = try kernel.ask(FuseMessage(.lookup, named))
        #expect(found.payload.first.map { _ in found.payload.word(at: 0) } == node, "seed \(seed)")
        #expect(try kernel.ask(FuseMessage(.unlink, named)).error == 0, "seed \(seed)")
        #expect(try kernel.ask(FuseMessage(.release, node: node, [UInt8](words: [node, 0, 0]))).error == 0)
        try kernel.send(FuseMessage(.forget, node: node, [UInt8](words: [2])))
        let stale = try kernel.ask(FuseMessage(.getattr, node: node, [UInt8](words: [0, 0])))
        // The forgetting may come second: several threads serve.
        #expect([0, -Errno.stale.number].contains(stale.error), "seed \(seed)")
    }

    @Test(arguments: [FuseRequestMaker.Temper.tame, .wild, .broken], [1, 4] as [UInt32])
    func everyRequestIsAnsweredOnce(_ temper: FuseRequestMaker.Temper, threadCount: UInt32) async throws {
        let served = try await ServedVolume(threadCount: threadCount)
        let kernel = served.kernel
        try await FakeKernel.onThread {
            // One at a time it is the same from the same seed.
            try Self.ask(kernel, temper, together: threadCount == 1 ? 1 : 32)
        }
        try served.lift(VolumeLimits(byteCount: 1 << 40))
        try await FakeKernel.onThread { try Self.expectService(kernel) }
        let faults = try await served.end()
        #expect(faults == [], "seed \(Self.seed)")
        let damage = try await served.check()
        #expect(damage == [], "seed \(Self.seed)")
    }

    /// The disk has no room now and then, and at last the storage is closed under the file system.
    @Test func whatTheStorageRefusesIsAnsweredOnce() async throws {
        let free = Atomic<UInt64>(1 << 40)
        let served = try await ServedVolume(freeSpace: { free.load(ordering: .relaxed) })
        let (kernel, volume) = (served.kernel, served.volume)
        try await FakeKernel.onThread {
            try Self.ask(kernel, .wild, together: 32) { round in
                if round % 50 == 0 { free.store(round % 100 == 0 ? 0 : 1 << 40, ordering: .relaxed) }
                if round == Self.rounds / 2 { try volume.storage.close() }
            }
            let answer = try kernel.ask(FuseMessage(.getattr, [UInt8](words: [0, 0])))
            #expect(answer.error == -Errno.inputOutput.number, "seed \(Self.seed)")
        }
        let faults = try await served.end()
        #expect(faults == [], "seed \(Self.seed)")
    }

    /// Names and bytes are elsewhere; their source answers late, or not, or fails; signals come; and servers change.
    @Test(arguments: [false, true])
    func whatWaitsForItsSourceIsAnsweredOnce(changesServers: Bool) async throws {
        let directory = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try directory.make("owner"))
        let bytes = Array(repeating: Array("0123456789abcdef".utf8), count: 20_000).flatMap { $0 }
        for number in 0..<12 {
            let parent =
                number % 3 == 0
                ? try owner.fileSystem.makeDirectory(
                    Array("d\(number)".utf8), in: .root, permissions: 0o755, caller: .root
                ).inode : .root
            try owner.write(try owner.create("n\(number)", in: parent), at: 0, bytes)
        }
        let source = FakeSource({ _ in bytes }) {
            $0.catalog = owner.storage.catalog
            $0.listingByteCount = 100
            $0.answerByteCount = 4096
        }
        let served = try await ServedVolume(
            source: source,
            makeHead: { head in
                try TestVolume.makeArrivingHeir(of: owner.storage.catalog, in: head, byteCount: 100)
            })
        let kernel = served.kernel
        let asking = Task {
            try await FakeKernel.onThread {
                var generator = Generator(seed: Self.seed)
                try Self.ask(kernel, .wild, rounds: Self.rounds / 2, together: 24) { round in
                    guard round % 20 == 0 else { return }
                    let behaviours: [FakeSource.Behaviour] = [.answers, .answers, .fails, .isSilent]
                    let behaviour = generator.element(of: behaviours) ?? .answers
                    let delay = Duration.milliseconds(generator.next(below: 20))
                    source.set { ($0.behaviour, $0.delay) = (behaviour, delay) }
                }
            }
        }
        let isOver = Atomic(false)
        let changing = Task {
            var count = 0
            while changesServers, !isOver.load(ordering: .relaxed) {
                // With each server a wait begins anew: now and then one is left to see its end.
                try await Task.sleep(for: .milliseconds(count % 4 == 3 ? 300 : 20))
                try await served.replaceServer()
                count += 1
            }
            return count
        }
        let asked = await asking.result
        isOver.store(true, ordering: .relaxed)
        let changes = try await changing.value
        #expect(changes > 0 || !changesServers)
        try asked.get()
        source.set { ($0.behaviour, $0.delay) = (.answers, .zero) }
        try await FakeKernel.onThread { try Self.expectService(kernel) }
        // What waits when the session is over is answered as well.
        source.set { ($0.behaviour, $0.delay) = (.isSilent, .zero) }
        try await FakeKernel.onThread { try Self.sendReadsOfEverything(kernel) }
        let faults = try await served.end()
        #expect(faults == [], "seed \(Self.seed)")
        try await served.volume.close()
        try await owner.close()
    }

    private static func sendReadsOfEverything(_ kernel: FakeKernel) throws {
        for node in 2..<40 as Range<UInt64> {
            let place = [UInt8](words: [node, 0]) + [UInt8](halves: [60_000, 0]) + [UInt8](words: [0, 0])
            try kernel.send(FuseMessage(.read, node: node, place))
        }
    }

    // MARK: what only damage shows

    @Test func whatTheKernelNeverSendsChangesNothing() async throws {
        let served = try await ServedVolume()
        let kernel = served.kernel
        try await FakeKernel.onThread {
            let named = Array("kept".utf8) + [0]
            let made = try kernel.ask(FuseMessage(.create, [UInt8](halves: [2, 0o100644, 0, 0]) + named))
            let node = made.payload.word(at: 0)
            let negative = UInt64(bitPattern: -5)
            func write(at offset: UInt64, stated: UInt32, _ bytes: [UInt8]) throws -> Int32 {
                let head = [UInt8](words: [node, offset]) + [UInt8](halves: [stated, 0])
                return try kernel.ask(FuseMessage(.write, node: node, head + [UInt8](words: [0, 2]) + bytes))
                    .error
            }
            let text = Array("as it was".utf8)
            #expect(try write(at: 0, stated: UInt32(text.count), text) == 0)
            // More than there is, and before the start.
            #expect(try write(at: 0, stated: 1 << 20, text) == -Errno.inputOutput.number)
            #expect(try write(at: negative, stated: 3, [1, 2, 3]) == -Errno.fileTooBig.number)
            var attributes = [UInt8](words: [8, 0, negative]) + [UInt8](repeating: 0, count: 64)
            #expect(
                try kernel.ask(FuseMessage(.setattr, node: node, attributes)).error == -Errno.fileTooBig
                    .number)
            attributes.removeLast()
            #expect(
                try kernel.ask(FuseMessage(.setattr, node: node, attributes)).error == -Errno.inputOutput
                    .number)
            // Names and values that do not end, or are longer than they are.
            #expect(
                try kernel.ask(FuseMessage(.unlink, Array("kept".utf8))).error == -Errno.inputOutput.number)
            let value = [UInt8](halves: [100, 0]) + Array("user.a".utf8) + [0, 1, 2, 3]
            #expect(
                try kernel.ask(FuseMessage(.setxattr, node: node, value)).error == -Errno.inputOutput.number)
            // A listing from the end of the numbers, and one for which there is no memory.
            let listing =
                [UInt8](words: [0, 1 << 63]) + [UInt8](halves: [.max, 0]) + [UInt8](words: [0, 0])
            #expect(try kernel.ask(FuseMessage(.readdir, listing)).error == 0)
            let everything =
                [UInt8](words: [node, 0]) + [UInt8](halves: [.max, 0]) + [UInt8](words: [0, 0])
            #expect(try kernel.ask(FuseMessage(.read, node: node, everything)).payload == text)
            // Forgotten more often than found, which counts nowhere; and as often as no list is long.
            try kernel.send(FuseMessage(.forget, node: node, [UInt8](words: [.max])))
            try kernel.send(
                FuseMessage(.batchForget, [UInt8](halves: [.max, 0]) + [UInt8](words: [node, 1])))
            #expect(try kernel.ask(FuseMessage(.read, node: node, everything)).payload == text)
            try Self.expectService(kernel)
        }
        #expect(try await served.end() == [])
        #expect(try await served.check() == [])
    }

    /// Files of every fate: whatever the kernel has let go of takes no memory here.
    @Test func whatTheKernelForgetsIsForgotten() async throws {
        let served = try await ServedVolume()
        let (kernel, count) = (served.kernel, 400)
        let nodes = try await FakeKernel.onThread {
            try (0..<count).map { number in
                let named = Array("f\(number)".utf8) + [0]
                let made = try kernel.ask(FuseMessage(.create, [UInt8](halves: [2, 0o100644, 0, 0]) + named))
                let node = made.payload.word(at: 0)
                let head = [UInt8](words: [node, 0]) + [UInt8](halves: [3, 0]) + [UInt8](words: [0, 2])
                #expect(try kernel.ask(FuseMessage(.write, node: node, head + [1, 2, 3])).error == 0)
                if number % 2 == 0 { #expect(try kernel.ask(FuseMessage(.unlink, named)).error == 0) }
                return node
            }
        }
        #expect(served.rememberedInodeCount == count)
        #expect(served.volume.fileSystem.leave() != OpenFiles())
        try await FakeKernel.onThread {
            for node in nodes {
                let released = FuseMessage(.release, node: node, [UInt8](words: [node, 0, 0]))
                #expect(try kernel.ask(released).error == 0)
            }
            for node in nodes.prefix(count / 2) {
                try kernel.send(FuseMessage(.forget, node: node, [1, 0, 0, 0, 0, 0, 0, 0]))
            }
            let rest = nodes.suffix(count / 2).flatMap { [$0, UInt64(1)] }
            try kernel.send(
                FuseMessage(.batchForget, [UInt8](halves: [UInt32(count / 2), 0]) + [UInt8](words: rest)))
        }
        // Nobody answers these.
        for _ in 0..<500 where served.rememberedInodeCount > 0 {
            try await Task.sleep(for: .milliseconds(10))
        }
        #expect(served.rememberedInodeCount == 0)
        #expect(served.volume.fileSystem.leave() == OpenFiles())
        #expect(try await served.end() == [])
        #expect(try await served.check() == [])
    }

    @Test func whatIsLessThanAHeaderEndsTheSessionInOrder() async throws {
        let served = try await ServedVolume()
        let kernel = served.kernel
        try await FakeKernel.onThread {
            try Self.expectService(kernel)
            try kernel.sendFragment(byteCount: 39)
        }
        #expect(try await served.end() == [])
        #expect(try await served.check() == [])
    }

    /// The first request: an agreement, or none, and then no mount.
    @Test func damagedAgreementsAreRefusedOrServed() async throws {
        let directory = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try directory.make("head"))
        var mutator = Mutator(seed: Self.seed)
        var agreements = 0
        let rounds = 60 * Mutator.factor
        for round in 0..<rounds {
            let kernel = try FakeKernel()
            let message = FuseMessage(
                opcode: round % 10 == 0 ? FuseOpcode.lookup.rawValue : FuseOpcode.initialize.rawValue,
                rest: round == 1
                    ? FuseMessage.initialize().rest : mutator.damaged([FuseMessage.initialize().rest]))
            let mount = try await FakeKernel.onThread {
                try kernel.send(message)
                return try? FuseMount(
                    serving: kernel.serverDescriptor, fileSystem: volume.fileSystem, at: directory.path,
                    options: FuseMountOptions())
            }
            if let mount {
                agreements += 1
                try await FakeKernel.onThread { try Self.expectService(kernel, "of round \(round)") }
                #expect(
                    try await FakeKernel.onThread { try kernel.end() } == [],
                    "seed \(Self.seed), round \(round)")
                await mount.waitUntilUnmounted()
            }
        }
        #expect(agreements > 0 && agreements < rounds, "seed \(Self.seed)")
        try await volume.close()
    }
}
