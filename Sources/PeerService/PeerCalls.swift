internal import RPC
internal import Synchronization
internal import VolumeModel

/// Counts what each peer has open, and refuses what would be more than `PeerLimits` allows.
final class PeerCalls: Sendable {
    /// Calls that hold more than a request.
    enum Kind: Hashable, Sendable {
        case follow
        case read(isUrgent: Bool)
        case restore
    }

    private struct Open {
        var calls = 0
        var connections: [String: Connection] = [:]
        var follows = 0
        var reads = 0
        var backgroundReads = 0
        var restores = 0
    }

    private struct Connection {
        var calls = 0
        /// When a request came over it.
        var heard: ContinuousClock.Instant?
    }

    private let limits: PeerLimits
    private let open = Mutex<[SiteID: Open]>([:])
    /// Answers that are left to gRPC and not sent yet.
    private let unsent = Mutex<[SiteID: Int]>([:])
    /// What was asked for in vain in the minute that began then.
    private let misses = Mutex<[SiteID: (since: ContinuousClock.Instant, count: Int)]>([:])

    init(limits: PeerLimits) { self.limits = limits }

    /// Calls of all peers.
    var count: Int { open.withLock { $0.values.reduce(0) { $0 + $1.calls } } }

    /// - Parameter connection: the address at its other end.
    func begin(by site: SiteID, over connection: String) throws(RPCStatus) {
        try change(site) { (open) throws(RPCStatus) in
            try Self.check(open.calls, limits.callCount, site, "calls")
            if open.connections[connection] == nil {
                try Self.check(open.connections.count, limits.connectionCount, site, "connections")
            }
            open.calls += 1
            open.connections[connection, default: Connection()].calls += 1
        }
    }

    func end(by site: SiteID, over connection: String) {
        open.withLock { all in
            all[site]?.calls -= 1
            all[site]?.connections[connection]?.calls -= 1
            if all[site]?.connections[connection]?.calls == 0 { all[site]?.connections[connection] = nil }
            if all[site]?.calls == 0 { all[site] = nil }
        }
    }

    /// The request of a call has come, while that is open.
    func noteRequest(by site: SiteID, over connection: String) {
        open.withLock { $0[site]?.connections[connection]?.heard = .now }
    }

    /// When a request last came over a connection that has a call; nil: none did since it last had no call.
    func lastRequest(by site: SiteID, over connection: String) -> ContinuousClock.Instant? {
        open.withLock { $0[site]?.connections[connection]?.heard }
    }

    func begin(_ kind: Kind, by site: SiteID) throws(RPCStatus) {
        try change(site) { (open) throws(RPCStatus) in
            switch kind {
            case .follow:
                try Self.check(open.follows, limits.followCount, site, "streams of changes")
                open.follows += 1
            case .read(let isUrgent):
                try Self.check(open.reads, limits.readCount, site, "reads")
                if !isUrgent {
                    try Self.check(
                        open.backgroundReads, limits.backgroundReadCount, site, "reads in the background")
                    open.backgroundReads += 1
                }
                open.reads += 1
            case .restore:
                try Self.check(open.restores, limits.restoreCount, site, "searches for blocks")
                let missed = misses.withLock { $0[site] }
                if let missed, ContinuousClock.now - missed.since < .seconds(60) {
                    try Self.check(missed.count, limits.missCount, site, "searches in vain")
                }
                open.restores += 1
            }
        }
    }

    /// A block was asked for that is not here.
    func noteMiss(by site: SiteID) {
        let now = ContinuousClock.now
        misses.withLock { misses in
            if let missed = misses[site], now - missed.since < .seconds(60) {
                misses[site] = (missed.since, missed.count + 1)
            } else {
                misses[site] = (now, 1)
            }
        }
    }

    /// Within a call that goes on.
    func end(_ kind: Kind, by site: SiteID) {
        open.withLock { all in
            switch kind {
            case .follow: all[site]?.follows -= 1
            case .read(let isUrgent):
                all[site]?.reads -= 1
                if !isUrgent { all[site]?.backgroundReads -= 1 }
            case .restore: all[site]?.restores -= 1
            }
        }
    }

    /// Before an answer is left to gRPC, which sends it when the peer takes it.
    ///
    /// - Returns: whether the peer has so few of them that this may be.
    func beginUnsent(by site: SiteID) -> Bool {
        unsent.withLock { unsent in
            guard unsent[site, default: 0] < PeerLimits.unsentAnswerCount else { return false }
            unsent[site, default: 0] += 1
            return true
        }
    }

    /// It is sent, or lost.
    func endUnsent(by site: SiteID) {
        unsent.withLock { unsent in
            unsent[site, default: 1] -= 1
            if unsent[site] == 0 { unsent[site] = nil }
        }
    }

    /// Refused, nothing is changed.
    private func change(
        _ site: SiteID, _ body: (inout Open) throws(RPCStatus) -> Void
    ) throws(RPCStatus) {
        try open.withLock { all throws(RPCStatus) in
            var changed = all[site] ?? Open()
            try body(&changed)
            all[site] = changed
        }
    }

    private static func check(
        _ count: Int, _ limit: Int, _ site: SiteID, _ what: String
    ) throws(RPCStatus) {
        guard count < limit else {
            throw RPCStatus(.resourceExhausted, "site \(site) has \(limit) \(what) here already")
        }
    }
}
