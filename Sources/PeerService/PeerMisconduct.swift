internal import Synchronization
package import VolumeModel

/// What peers sent that was refused because no sound site sends it, and connections that were too many: counted, and told
/// in the log, of each site once a minute at most, however much comes.
///
/// Not what is refused for the state that something is in: that happens to honest peers.
package final class PeerMisconduct: Sendable {
    private struct Seen {
        var count: UInt64 = 0
        var told: ContinuousClock.Instant?
        var untold: UInt64 = 0
    }

    private struct State {
        /// By sites as a whole: how many nodes one has is its own affair.
        var peers: [SiteID: Seen] = [:]
        var connections = Seen()
    }

    private let interval: Duration
    private let warn: @Sendable (String) -> Void
    private let state = Mutex(State())

    /// - Parameters:
    ///   - interval: for how long after a line about a peer there is no other one.
    ///   - warn: writes a line.
    package init(
        interval: Duration = .seconds(60), warn: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        (self.interval, self.warn) = (interval, warn)
    }

    /// A message was refused.
    ///
    /// - Parameters:
    ///   - peer: by its certificate.
    ///   - call: the method's name; any text.
    package func note(_ peer: SiteID, _ call: String, _ reason: String) {
        let untold = state.withLock { note(&$0.peers[peer.site, default: Seen()]) }
        guard let untold else { return }
        warn(
            "refused what site \(peer) sent, \(Self.plain(call, 64)): \(Self.plain(reason, 512))"
                + Self.more(untold))
    }

    /// A connection was closed because there were too many.
    package func noteRefusedConnection() {
        let untold = state.withLock { note(&$0.connections) }
        guard let untold else { return }
        warn(
            "a connection to the port for peers was closed: too many are open, or too many of one address without a call"
                + Self.more(untold))
    }

    /// Messages that were refused, by the sites that sent them.
    package var messageCounts: [SiteID: UInt64] { state.withLock { $0.peers.mapValues(\.count) } }

    package var connectionCount: UInt64 { state.withLock { $0.connections.count } }

    /// - Returns: how many came since the last line; nil: it is not time for another one.
    private func note(_ seen: inout Seen) -> UInt64? {
        seen.count += 1
        if let told = seen.told, ContinuousClock.now - told < interval {
            seen.untold += 1
            return nil
        }
        defer { seen.untold = 0 }
        seen.told = .now
        return seen.untold
    }

    private static func more(_ count: UInt64) -> String {
        count == 0 ? "" : " (and \(count) more since it was last told)"
    }

    /// What a peer has written may be in it: one line, of this length at most.
    private static func plain(_ text: String, _ limit: Int) -> String {
        var plain = String.UnicodeScalarView()
        for scalar in text.unicodeScalars.prefix(limit) {
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .unassigned:
                plain.append("?")
            default: plain.append(scalar)
            }
        }
        return String(plain)
    }
}
