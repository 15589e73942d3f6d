package import Catalog
package import Hydration
internal import RPC
internal import Synchronization
package import VolumeModel

/// The origin of a head, and behind it those who had the volume before it: where the origin cannot be reached, or has not
/// got some bytes itself, what has not changed since a former state is asked of whoever keeps that.
///
/// What it relies on: `FormerState`. Its keeper gives bytes of the state of that very name and of no other, and what it may
/// be asked for is only what is known for sure not to have changed. What did change is at the origin alone, and waits for it.
package final class FormerKeepers: ByteSource {
    /// For so long after the origin was silent others are asked first.
    private static let silence: Duration = .seconds(10)
    /// Of the time that there is the origin has this share where others could be asked instead. Somebody waits for a fault.
    private static let urgentShare = (numerator: 1, denominator: 3)
    private static let share = (numerator: 2, denominator: 3)
    private static let leastTurn: Duration = .seconds(5)

    /// Reads bytes of a former state from its keeper, within the time that is given.
    package typealias Keeper =
        @Sendable (_ state: FormerState, [Extent], Urgency, _ timeout: Duration) async throws -> [Piece]

    private let origin: any ByteSource
    private let catalog: Catalog
    private let site: SiteID
    private let log: @Sendable (String) -> Void
    private let keeper: Keeper
    private let state = Mutex(State())

    private struct State {
        var silentUntil: ContinuousClock.Instant?
        /// Those of whom it was said that they help, and those who were silent themselves.
        var named: Set<SiteID> = []
        var silentKeepers: [SiteID: ContinuousClock.Instant] = [:]
    }

    /// - Parameters:
    ///   - catalog: of the head that the bytes are for.
    ///   - site: this one, which is not asked.
    ///   - log: takes a line for a person, once for each site that helps.
    ///   - keeper: asks the site that keeps a state.
    package init(
        behind origin: any ByteSource, of catalog: Catalog, at site: SiteID,
        log: @escaping @Sendable (String) -> Void, keeper: @escaping Keeper
    ) {
        self.origin = origin
        self.catalog = catalog
        self.site = site
        self.log = log
        self.keeper = keeper
    }

    package var name: String { origin.name }

    package func linkByteCount(of extents: [Extent]) async throws -> UInt64 {
        guard !isSilent else { return extents.reduce(0) { $0 + $1.range.byteCount } }
        return try await origin.linkByteCount(of: extents)
    }

    package func read(
        _ extents: [Extent], urgency: Urgency, timeout: Duration
    ) async throws -> [Piece] {
        let deadline = ContinuousClock.now + timeout
        let helpers = states(with: extents)
        let wasSilent = isSilent
        if wasSilent {
            // It may be back by now, and they away: most of the time is the origin's.
            let turn = timeout * Self.urgentShare.numerator / Self.urgentShare.denominator
            let pieces = await readElsewhere(extents, of: helpers, urgency, until: .now + turn)
            if let pieces { return pieces }
        }
        let share = urgency == .urgent ? Self.urgentShare : Self.share
        // Whoever could help is a reason to wait less long.
        let helps = !wasSilent && !helpers.isEmpty
        let left = deadline - ContinuousClock.now
        let turn = max(
            .milliseconds(1), helps ? min(left, timeout * share.numerator / share.denominator) : left)
        do {
            let pieces = try await origin.read(extents, urgency: urgency, timeout: turn)
            state.withLock { $0.silentUntil = nil }
            return pieces
        } catch {
            try Task.checkCancellation()
            // Whoever had no time to answer is not silent.
            if Self.isSilence(error), turn >= timeout / 4 {
                state.withLock { $0.silentUntil = .now + Self.silence }
            }
            guard helps,
                let pieces = await readElsewhere(extents, of: helpers, urgency, until: deadline)
            else { throw error }
            return pieces
        }
    }

    private var isSilent: Bool { state.withLock { $0.silentUntil.map { ContinuousClock.now < $0 } ?? false } }

    /// Whether it tells of who was asked, and not of what was asked for.
    private static func isSilence(_ error: any Error) -> Bool {
        switch error {
        case PeerError.call(_, _, let status):
            status.code == .unavailable || status.code == .deadlineExceeded
        case PeerError.notTrusted, PeerError.refused: true
        default: false
        }
    }

    // MARK: who else has it

    /// The states that may be asked for, the newest first; none where nothing of these extents is in any as it is here.
    private func states(with extents: [Extent]) -> [FormerState] {
        let silent = state.withLock { $0.silentKeepers.filter { ContinuousClock.now < $0.value } }
        let all = (try? catalog.perform { $0.formerStates }) ?? []
        let states = all.filter { $0.keeper != site && silent[$0.keeper] == nil }
        // What has changed since one has changed since any that is older.
        guard let newest = states.first, let parts = try? unchanged(extents, since: newest), !parts.isEmpty
        else { return [] }
        return states
    }

    /// What of some extents is in a former state as it is here.
    private func unchanged(_ extents: [Extent], since state: FormerState) throws -> [Extent] {
        let parts = try catalog.perform { try $0.unchangedParts(of: extents, since: state) }
        return Array(parts.prefix(PeerLimits.extentCount))
    }

    /// - Returns: nil: nobody else gives any of it.
    private func readElsewhere(
        _ extents: [Extent], of states: [FormerState], _ urgency: Urgency,
        until deadline: ContinuousClock.Instant
    ) async -> [Piece]? {
        for (index, state) in states.enumerated() {
            let now = ContinuousClock.now
            guard now < deadline, !Task.isCancelled else { return nil }
            do {
                let parts = try unchanged(extents, since: state)
                // What has changed since has changed since any that is older.
                guard !parts.isEmpty else { return nil }
                // Who follows is to have a turn.
                let left = deadline - now
                let timeout = min(left, max(Self.leastTurn, left / (states.count - index)))
                let pieces = try await keeper(state, parts, urgency, timeout)
                let ours = try clip(pieces, state)
                guard !ours.isEmpty else { continue }
                noteHelp(of: state.keeper)
                return ours
            } catch {
                guard Self.isSilence(error) else { continue }
                self.state.withLock { $0.silentKeepers[state.keeper] = .now + Self.silence }
            }
        }
        return nil
    }

    /// A hole reaches as far as it does there; here only as far as nothing of it has changed.
    private func clip(_ pieces: [Piece], _ state: FormerState) throws -> [Piece] {
        try catalog.perform { catalog in
            try pieces.compactMap { piece -> Piece? in
                guard piece.content == .zeros else { return piece }
                let whole = Extent(inode: piece.inode, range: piece.range)
                guard let first = try catalog.unchangedParts(of: [whole], since: state).first?.range,
                    first.start == piece.range.start
                else { return nil }
                return Piece(inode: piece.inode, range: first, content: .zeros)
            }
        }
    }

    private func noteHelp(of keeper: SiteID) {
        guard state.withLock({ $0.named.insert(keeper).inserted }) else { return }
        log("\(origin.name) cannot give all bytes: what has not changed since comes from site \(keeper)")
    }
}
