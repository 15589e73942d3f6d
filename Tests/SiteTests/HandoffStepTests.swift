import Foundation
import Glibc
import Testing

@testable import TestBed

extension SiteTests {
    /// One of two real sites dies, stands still beyond the time-outs of the other, or is heard no more, at each step of a
    /// hand-off. Whatever it was: at most one owner at any time, every acknowledged record is there, and once the trouble
    /// is over the hand-off ends by itself, at the new owner or at the old one.
    ///
    /// Some steps meet one kind of trouble each, others and others with another seed. GODWIT_HANDOFF_STEPS sets how many
    /// of the 25 it are; with `all` each of them meets each kind. GODWIT_HANDOFF_SEED repeats a run; GODWIT_HANDOFF_PAUSE sets how many
    /// seconds it lasts.
    @Suite struct HandoffStepTests {
        @Test func aHandOffSurvivesTroubleAtEachOfItsSteps() async throws {
            let cases = HandoffTrouble.selection()
            print("seed \(HandoffTrouble.seed): \(cases.map(\.description).joined(separator: "; "))")
            let queue = HandoffQueue(cases)
            // While one waits for a time-out the others get on.
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<min(8, cases.count) {
                    group.addTask {
                        try await withSites { pair, cleanup in
                            while let next = await queue.next() {
                                try await HandoffUnderTrouble(next, pair, cleanup).run()
                            }
                            for site in pair.sites {
                                let check = try await site.run(["volume", "check"])
                                #expect(check.exit.isSuccess, "\(check.output)")
                            }
                        }
                    }
                }
                try await group.waitForAll()
            }
        }

        @Test(arguments: ["300 ms and 1 % loss", "100 kbit/s"])
        func aHandOffOverAPoorLinkLosesNothing(_ link: String) async throws {
            let line =
                link == "100 kbit/s"
                ? LineSettings(bitsPerSecond: 100_000, delay: .milliseconds(50))
                : LineSettings(bitsPerSecond: 20_000_000, delay: .milliseconds(150), loss: 0.01)
            try await withSites(LinkSettings(line)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let records = Records("records", acknowledgedIn: pair.directory)
                for (from, to) in [(pair.london, pair.sydney), (pair.sydney, pair.london)] {
                    let there = try await pair.mount("data", at: from, cleanup)
                    try await records.writeSome(in: there)
                    try await pair.unmount("data", at: from)
                    try await from.godwit(["migrate", "data", "--to", to.name, "--detach"])
                    let here = try await pair.mount("data", at: to, cleanup)
                    #expect(try records.damage(in: here) == nil)
                    try await records.writeSome(in: here)
                    try await pair.waitUntilReleased("data", at: to)
                    try await pair.unmount("data", at: to)
                }
                #expect(records.acknowledged >= 20)
            }
        }
    }
}

/// What happens to whom, and when.
struct HandoffTrouble: Sendable, CustomStringConvertible {
    enum Kind: CaseIterable, Sendable { case kill, stop, cutToTarget, cutToSource }
    enum Side: Sendable { case source, target }

    let number: Int
    let side: Side
    let step: String
    let kind: Kind
    /// Whether the target has a replica when the hand-off begins.
    let isFollowed: Bool
    /// Whether the volume is wanted back at the source afterwards.
    let isTakenBack: Bool

    var description: String {
        "\(kind) \(side) \(step)" + (isFollowed ? ", followed" : "") + (isTakenBack ? ", back" : "")
    }

    /// As the product names them (Sources/Site/TestStop.swift), in the order in which they come.
    private static let steps: [(Side, String)] = [
        (.target, "before acquiring"), (.target, "after acquiring"), (.target, "doing requestSeal"),
        (.source, "received sealRequested"), (.source, "before sealing"), (.source, "after sealing"),
        // Nothing is written any more; then all is flushed.
        (.source, "doing readTail"), (.source, "before sealed"), (.source, "after sealed"),
        (.source, "answering sealRequested"),
        (.target, "answered sealGranted"), (.target, "before receiving"), (.target, "after receiving"),
        (.target, "doing fetchTail"), (.target, "before owning"), (.target, "after owning"),
        (.target, "doing serve"), (.target, "doing announce"), (.target, "after mount"),
        (.source, "received ownerAnnounced"), (.source, "before retired"), (.source, "after retired"),
        (.target, "doing requestRelease"), (.source, "received releaseRequested"),
        (.source, "answering releaseRequested"),
    ]

    private static let environment = ProcessInfo.processInfo.environment
    static let seed = environment["GODWIT_HANDOFF_SEED"].flatMap { UInt64($0) } ?? .random(in: 0..<1_000_000)
    /// Longer than any call of a hand-off may take.
    static let pause = environment["GODWIT_HANDOFF_PAUSE"].flatMap { Int($0) } ?? 11

    static func selection() -> [HandoffTrouble] {
        var random = SplitMix(state: seed)
        let wanted = environment["GODWIT_HANDOFF_STEPS"]
        var all: [HandoffTrouble] = []
        for (index, (side, step)) in steps.enumerated() {
            let turn = (index + Int(seed % 4)) % 4
            for kind in wanted == "all" ? Kind.allCases : [Kind.allCases[turn]] {
                all.append(
                    HandoffTrouble(
                        number: all.count, side: side, step: step, kind: kind,
                        isFollowed: random.below(2) == 0, isTakenBack: random.below(3) == 0))
            }
        }
        guard wanted != "all" else { return all }
        return Array(all.shuffled(using: &random).prefix(wanted.flatMap { Int($0) } ?? 12))
    }
}

private actor HandoffQueue {
    private var left: ArraySlice<HandoffTrouble>
    init(_ cases: [HandoffTrouble]) { left = cases[...] }
    func next() -> HandoffTrouble? { left.popFirst() }
}

/// One volume that goes from london to sydney amid one kind of trouble.
private struct HandoffUnderTrouble {
    private let trouble: HandoffTrouble
    private let pair: SitePair
    private let cleanup: Cleanup
    private let volume: String
    private let records: Records
    private var source: SiteProcess { pair.london }
    private var target: SiteProcess { pair.sydney }
    private var victim: SiteProcess { trouble.side == .source ? source : target }

    init(_ trouble: HandoffTrouble, _ pair: SitePair, _ cleanup: Cleanup) {
        (self.trouble, self.pair, self.cleanup) = (trouble, pair, cleanup)
        volume = "v\(trouble.number)"
        records = Records(volume, acknowledgedIn: pair.directory)
    }

    func run() async throws {
        do {
            try await prepare()
            try await handOver()
            try await waitUntilOver()
            try await use(at: trouble.isTakenBack ? source : target)
        } catch {
            Issue.record("seed \(HandoffTrouble.seed), \(volume): \(trouble): \(error)")
            throw error
        }
    }

    private func prepare() async throws {
        try await source.godwit(["volume", "create", volume, "--capacity", "1Gi"])
        let mount = try await pair.mount(volume, at: source, cleanup)
        try writeRandomFile(mount + "/bytes", byteCount: 256 << 10)
        try await records.writeSome(in: mount)
        try await pair.unmount(volume, at: source)
        if trouble.isFollowed {
            // A connection that the case before has cut may turn out to be dead only now.
            try await SiteTests.wait("the replica") {
                try await source.run(["migrate", volume, "--to", target.name, "--prepare-only"]).exit
                    .isSuccess
            }
        }
    }

    /// What somebody asks for until it comes to the step. It may fail then, and nobody asks again.
    private func attempt() async {
        repeat {
            _ = try? await source.run(["migrate", volume, "--to", target.name, "--detach"])
            _ = try? await target.run(["volume", "mount", volume, pair.mountPoint(of: target)])
        } while victim.isArmed && !Task.isCancelled
    }

    private func handOver() async throws {
        try victim.arm(trouble.kind == .kill ? SIGKILL : SIGSTOP, at: trouble.step)
        defer { victim.disarm() }
        try cleanup.add(mountAt: pair.mountPoint(of: target))
        let attempt = Task { await self.attempt() }
        do {
            try await SiteTests.wait("'\(trouble.step)'") { !victim.isArmed }
        } catch {
            attempt.cancel()
            await attempt.value
            throw error
        }
        if trouble.kind != .kill {
            try await SiteTests.wait("\(victim.name) to stop") { await victim.isStopped }
        }
        switch trouble.kind {
        case .kill:
            await victim.kill()
            try await victim.start()
        case .stop:
            try await Task.sleep(for: .seconds(HandoffTrouble.pause))
            await victim.signal(SIGCONT)
        case .cutToTarget, .cutToSource:
            try await pair.link.cut([trouble.kind == .cutToTarget ? .aToB : .bToA])
            await victim.signal(SIGCONT)
            let end = ContinuousClock.now + .seconds(HandoffTrouble.pause)
            while ContinuousClock.now < end {
                try await checkOwners()
                try await Task.sleep(for: .seconds(1))
            }
            try await pair.link.cut([])
        }
        await attempt.value
    }

    @discardableResult
    private func checkOwners() async throws -> [String] {
        // A site that does not know the volume yet owns nothing.
        async let atSource = (try? source.inspect(volume))?["role"] as? String ?? "unknown"
        async let atTarget = (try? target.inspect(volume))?["role"] as? String ?? "unknown"
        let roles = await [atSource, atTarget]
        try #require(roles != ["owning", "owning"], "two owners")
        return roles
    }

    /// Nobody does anything: the sites find to each other.
    private func waitUntilOver() async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            let roles = try await checkOwners()
            if roles.contains("owning"), !Set(roles).isDisjoint(with: ["following", "retired", "unknown"]) {
                return
            }
            try #require(ContinuousClock.now < deadline, "the hand-off does not end: \(roles)")
            try await Task.sleep(for: .milliseconds(500))
        }
    }

    private func use(at site: SiteProcess) async throws {
        // Where the attempt got so far that it is mounted.
        let mounted = try await target.inspect(volume)["mounts"] as? [String] ?? []
        if !mounted.isEmpty {
            #expect(try records.damage(in: pair.mountPoint(of: target)) == nil)
            try await records.writeSome(in: pair.mountPoint(of: target))
            try await pair.unmount(volume, at: target)
        }
        let path = pair.mountPoint(of: site)
        var last = ""
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            let outcome = try await site.run(["volume", "mount", volume, path])
            if outcome.exit.isSuccess { break }
            last = outcome.output
            try #require(ContinuousClock.now < deadline, "it cannot be mounted at \(site.name): \(last)")
            try await Task.sleep(for: .milliseconds(300))
        }
        try cleanup.add(mountAt: path)
        try await checkOwners()
        #expect(try records.damage(in: path) == nil)
        try await records.writeSome(in: path)
        #expect(try records.damage(in: path) == nil)
        // With every byte, from wherever it has to come.
        #expect(try bytes(path + "/bytes").count == 256 << 10)
        try await pair.unmount(volume, at: site)
    }
}
