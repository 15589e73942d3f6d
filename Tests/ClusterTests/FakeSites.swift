import ClusterResources
import Synchronization
import VolumeModel

@testable import Cluster

/// Two sites and one volume as their controllers see them, without disks and links: the same answers as the real ones
/// give, and faults where a test wants them.
final class FakeSites: Sendable {
    static let volume = "0b0e7f6c-5b58-4c3c-8a43-5a2e9d0c7a11"

    struct State: Sendable {
        var owner = "london"
        /// The site for which the owner has sealed it, and which does not own it yet.
        var heir: String?
        /// Who has a record of the volume.
        var known: Set<String> = ["london"]
        /// Who has ever owned it: what was there stays.
        var used: Set<String> = ["london"]
        var claims: [String: ForeignClaim] = [:]
        /// Who has been offered it and does not own it.
        var following: Set<String> = []
        var missing: UInt64 = 0
        var isReleased = true
        var isPaused = false
        var bytesPerSecond: UInt64 = 0
        /// What each call of this name answers instead, at either site.
        var failures: [String: SiteControlError] = [:]
        /// What a takeover by force comes to; nil: it is refused.
        var takeover: TakeoverAnswer?
        /// Preparing a target does not end while this is so.
        var isHeld = false
        /// How many preparations are under way, and how many were given up.
        var preparing = 0
        var givenUp = 0
        var calls: [String] = []
    }

    /// Asked of each call that changes something, before and after it: what it throws is the outcome.
    typealias Gate = @Sendable (_ isDone: Bool) throws(SiteControlError) -> Void

    private let state = Mutex(State())

    subscript<Value: Sendable>(_ path: KeyPath<State, Value> & Sendable) -> Value {
        state.withLock { $0[keyPath: path] }
    }

    func change(_ body: (inout State) -> Void) { state.withLock { body(&$0) } }

    func control(of site: String, gate: Gate? = nil) -> any SiteControl {
        FakeSite(name: site, sites: self, gate: gate)
    }

    /// A pod starts at a site, which takes the volume over; all its bytes arrive at once unless some are to be missing.
    func startPod(at site: String, missing: UInt64 = 0) {
        change { state in
            guard state.owner != site else { return }
            state.owner = site
            state.heir = nil
            state.following = []
            state.known.insert(site)
            state.used.insert(site)
            state.missing = missing
            state.isReleased = missing == 0
        }
    }

    fileprivate func use<Value: Sendable>(
        _ call: String, _ body: (inout State) throws(SiteControlError) -> Value
    ) throws(SiteControlError) -> Value {
        try state.withLock { state throws(SiteControlError) in
            state.calls.append(call)
            if let failure = state.failures[call] { throw failure }
            return try body(&state)
        }
    }
}

/// How often something happened.
final class Tally: Sendable {
    private let number = Mutex(0)

    var count: Int { number.withLock { $0 } }
    func add() { number.withLock { $0 += 1 } }
}

private struct FakeSite: SiteControl {
    let name: String
    let sites: FakeSites
    let gate: FakeSites.Gate?

    /// What changes something.
    private func alter<Value: Sendable>(
        _ call: String, _ body: (inout FakeSites.State) throws(SiteControlError) -> Value
    ) throws(SiteControlError) -> Value {
        try gate?(false)
        let value = try sites.use(call, body)
        try gate?(true)
        return value
    }

    private static func refused(_ text: String) -> SiteControlError {
        SiteControlError(text, isTransient: false)
    }

    func info() async throws(SiteControlError) -> (site: String, peers: Set<String>) {
        try sites.use("info") { _ in (name, Set(["london", "sydney", "tokyo"]).subtracting([name])) }
    }

    func volume(_ id: String) async throws(SiteControlError) -> VolumeSituation? {
        try sites.use("volume") { state in
            guard id == FakeSites.volume, state.known.contains(name) else { return nil }
            let heir = state.owner == name ? state.heir : nil
            return VolumeSituation(
                id: id, owner: heir ?? state.owner, isSealed: heir != nil, isPaused: state.isPaused,
                bytesPerSecond: state.bytesPerSecond)
        }
    }

    func setHydration(_ id: String, _ wanted: ClaimDecision.Hydration) async throws(SiteControlError) {
        try alter("setHydration") { state in
            if let isPaused = wanted.isPaused { state.isPaused = isPaused }
            if let rate = wanted.bytesPerSecond { state.bytesPerSecond = rate }
        }
    }

    func advance(
        _ id: String, to target: String, claim: ClaimFacts
    ) async throws(SiteControlError) -> MoveProgress {
        if sites[\.owner] == target { return try progress() }
        sites.change { $0.preparing += 1 }
        defer { sites.change { $0.preparing -= 1 } }
        while sites[\.isHeld] {
            guard (try? await Task.sleep(for: .milliseconds(5))) != nil else {
                sites.change { $0.givenUp += 1 }
                throw SiteControlError("cancelled", isTransient: true)
            }
        }
        return try alter("advance") { state throws(SiteControlError) in
            guard state.owner == name else {
                throw Self.refused("volume is owned by \(state.owner): ask there")
            }
            if let heir = state.heir {
                guard heir == target else { throw Self.refused("volume was handed to \(heir): ask there") }
                var progress = MoveProgress(phase: .handingOver)
                progress.waitingReason = "the link is cut"
                return progress
            }
            let isAnew = state.claims[target] == nil
            state.known.insert(target)
            state.following.insert(target)
            if isAnew || state.claims[target]?.facts != claim {
                state.claims[target] = ForeignClaim(facts: claim)
            }
            var progress = MoveProgress(phase: .ready)
            progress.claim = state.claims[target]?.report
            return progress
        }
    }

    private func progress() throws(SiteControlError) -> MoveProgress {
        try sites.use("advance") { state in
            var progress = MoveProgress(phase: state.isReleased ? .done : .hydrating)
            progress.epoch = 2
            progress.totalBytes = 1000
            progress.missingBytes = state.missing
            progress.claim = state.claims[state.owner]?.report
            return progress
        }
    }

    func withdraw(_ id: String, from target: String) async throws(SiteControlError) {
        try alter("withdraw") { state throws(SiteControlError) in
            guard state.owner == name, state.heir == nil else {
                throw Self.refused(
                    "volume was handed over to site \(state.heir ?? state.owner) already")
            }
            state.claims[target] = nil
            state.following.remove(target)
            if !state.used.contains(target) { state.known.remove(target) }
        }
    }

    func foreignVolumes() async throws(SiteControlError) -> [ForeignVolume] {
        try sites.use("foreignVolumes") { state in
            guard state.known.contains(name), let claim = state.claims[name] else { return [] }
            var volume = ForeignVolume(
                id: FakeSites.volume, name: "pvc-1", owner: state.owner, claim: claim)
            if state.owner == name {
                volume.phase = state.isReleased ? .done : .hydrating
            } else if state.following.contains(name) {
                volume.phase = .ready
            }
            return [volume]
        }
    }

    func report(_ report: ClaimReport, of id: String) async throws(SiteControlError) {
        try alter("report") { state in state.claims[name]?.report = report }
    }

    func takeOver(_ id: String, _ order: TakeoverOrder?) async throws(SiteControlError) -> TakeoverAnswer {
        try alter("takeOver") { state throws(SiteControlError) in
            guard let answer = state.takeover else { throw Self.refused("no takeovers here") }
            return answer
        }
    }
}
