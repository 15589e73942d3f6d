import CTestBed
import EngineTestSupport
import Foundation
import Glibc
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

@testable import TestBed

/// What programs rely on though they sync nothing: that a file which takes the place of another is there when the
/// other is not. On a real mount, and then on every disk that a power loss might leave, as in `PowerLossTests`.
@Suite(.serialized, .enabled(if: geteuid() == 0, "mounts need root"))
struct ReplacingTests {
    private static let environment = ProcessInfo.processInfo.environment
    /// Each takes some 20 ms.
    private static let momentCount = (environment["GODWIT_POWER_LOSSES"].flatMap { Int($0) } ?? 1000) / 8
    private static let seed =
        environment["GODWIT_POWER_LOSS_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0..<1_000_000)

    @Test func aFileThatReplacesAnotherIsWholeThoughNobodySyncedIt() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let site = try await RecordedSite.start(cleanup)
            let (log, below) = (site.log, site.head)
            var writer = ReplacingWriter(mountPoint: site.mountPoint, seed: Self.seed)
            try writer.makeAll()
            let first = try Self.byteCount(of: log)
            try await Self.replace(writer, beside: site.mountPoint)
            await site.kill()
            for names in [SimulatedDisk.Names.journalled, .bySyncOfTheirDirectory] {
                let disk = try SimulatedDisk(log: log, names: names)
                let broken = try await Self.firstFault(of: disk, since: first, below: below)
                #expect(broken == nil, "\(names), seed \(Self.seed)")
            }
            let bug = PlantedBug.replacingNotSynced
            let disk = try SimulatedDisk(
                log: log, names: .bySyncOfTheirDirectory, planting: bug, since: first)
            let broken = try await Self.firstFault(of: disk, since: first, below: below)
            print("\(bug): \(broken?.prefix(200) ?? "nothing was noticed")")
            #expect(broken != nil, "nobody noticed \(bug), seed \(Self.seed)")
        }
    }

    private static func byteCount(of path: String) throws -> UInt64 {
        var status = stat()
        guard stat(path, &status) == 0 else { throw LabError.systemCall("stat", detail: path, errno: errno) }
        return UInt64(status.st_size)
    }

    private final class Flag: Sendable {
        private let value = Atomic(false)
        var isSet: Bool { value.load(ordering: .acquiring) }
        func set() { value.store(true, ordering: .releasing) }
    }

    /// While somebody syncs another file, half of the time.
    private static func replace(_ writer: ReplacingWriter, beside mountPoint: String) async throws {
        let isOver = Flag()
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                defer { isOver.set() }
                try await DedicatedThread.run("replacing") {
                    var writer = writer
                    try writer.run(steps: 300)
                }
            }
            group.addTask {
                try await DedicatedThread.run("syncing") {
                    let other = open(mountPoint + "/other", O_WRONLY | O_CREAT, 0o644)
                    defer { close(other) }
                    var count: UInt8 = 0
                    while !isOver.isSet {
                        count &+= 1
                        guard pwrite(other, [count], 1, 0) == 1, fsync(other) == 0 else {
                            throw LabError.systemCall("fsync", detail: "other", errno: errno)
                        }
                        usleep(count & 16 == 0 ? 500 : 20_000)
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    /// - Returns: what is wrong, and when the power failed, the first time that anything is.
    private static func firstFault(
        of initial: SimulatedDisk, since first: UInt64, below: String
    ) async throws -> String? {
        var disk = initial
        let candidates = disk.moments.filter { $0 >= first }
        try #require(candidates.count > 300, "the workload was too small: \(candidates.count) moments")
        var generator = Generator(seed: seed)
        let chosen = (0..<momentCount).map { _ in candidates[generator.next(below: candidates.count)] }
            .sorted()
        let memory = try TemporaryDirectory(in: access("/dev/shm", W_OK) == 0 ? "/dev/shm" : nil)
        let head = memory.path + "/head"
        for moment in chosen {
            disk.advance(to: moment)
            try? FileManager.default.removeItem(atPath: head)
            try disk.write(
                to: head, below: below, leavingOut: { $0 == "lock" || $0.hasSuffix("-shm") }, &generator)
            let volume = try TestVolume(opening: head)
            let faults = await ReplacingWriter.faults(in: volume)
            try await volume.close()
            if !faults.isEmpty { return "\(faults), moment \(moment) of \(candidates.last ?? 0)" }
        }
        return nil
    }
}

/// Gives files new content in the ways in which programs do that sync nothing.
private struct ReplacingWriter {
    enum Way: String, CaseIterable {
        case renamed, exchanged, rewritten
    }

    private static let fileCount = 3
    private static let names = Way.allCases.flatMap { way in
        (0..<fileCount).map { (way: way, name: "\(way)\($0)") }
    }

    private let mountPoint: String
    private var generator: Generator
    private var generation: UInt32 = 0

    init(mountPoint: String, seed: UInt64) {
        self.mountPoint = mountPoint
        generator = Generator(seed: seed)
    }

    private func path(_ name: String) -> String { "\(mountPoint)/\(name)" }

    private func check(_ result: some BinaryInteger, _ call: String) throws {
        let number = errno
        guard result < 0 else { return }
        throw LabError.systemCall(call, detail: "replacing", errno: number)
    }

    /// The only content that is synced.
    mutating func makeAll() throws {
        for (_, name) in Self.names { try write(name, to: name) }
        for name in Self.names.map(\.name) + ["."] {
            let descriptor = open(path(name), O_RDONLY)
            try check(descriptor, "open")
            defer { close(descriptor) }
            try check(fsync(descriptor), "fsync")
        }
    }

    mutating func run(steps: Int) throws {
        for step in 0..<steps {
            let (way, name) = Self.names[generator.next(below: Self.names.count)]
            let temporary = "temporary\(step)"
            switch way {
            case .renamed:
                try write(name, to: temporary)
                try check(rename(path(temporary), path(name)), "rename")
            case .exchanged:
                try write(name, to: temporary)
                let result = tb_exchange(path(temporary), path(name))
                guard result == 0 else {
                    throw LabError.systemCall("renameat2", detail: name, errno: -result)
                }
                try check(unlink(path(temporary)), "unlink")
            case .rewritten: try write(name, to: name)
            }
            if generator.next(below: 4) == 0 { usleep(UInt32(generator.next(below: 8000))) }
        }
    }

    /// A whole content of a new generation.
    private mutating func write(_ name: String, to file: String) throws {
        generation += 1
        let descriptor = open(path(file), O_WRONLY | O_CREAT | O_TRUNC, 0o644)
        try check(descriptor, "open")
        defer { close(descriptor) }
        for index in 0..<Block.replacedCount {
            let block = Block.bytes(name, index, generation)
            let count = pwrite(descriptor, block, block.count, off_t(index * Block.byteCount))
            try check(count, "pwrite")
            guard count == block.count else { throw LabError.invalid("a write was cut short") }
        }
    }

    /// Of each name, whether it holds what one write has put there: all of it, or where a file was cut and written anew
    /// as much as there was at some moment.
    static func faults(in volume: TestVolume) async -> [String] {
        var faults: [String] = []
        for (way, name) in names {
            guard let blocks = await Block.read(name, volume) else {
                faults.append("\(name) is not there, or cannot be read")
                continue
            }
            let isCount =
                way == .rewritten ? blocks.count <= Block.replacedCount : blocks.count == Block.replacedCount
            let isOne = Set(blocks).count <= 1 && blocks.allSatisfy { $0 != nil && $0 != .max }
            if !isCount || !isOne {
                faults.append("\(name): \(blocks.map { $0.map(String.init) ?? "zeros" })")
            }
        }
        return faults
    }
}
