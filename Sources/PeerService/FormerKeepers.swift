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

    private let origin: any ByteSource
    private let catalog: Catalog
    private let volume: VolumeID
    private let site: SiteID
    private let log: @Sendable (String) -> Void
    private let client: @Sendable (SiteID) throws -> PeerClient
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
    ///   - client: the connections to a site, which may be others each time.
    package init(
        behind origin: any ByteSource, of catalog: Catalog, volume: VolumeID, at site: SiteID,
        log: @escaping @Sendable (String) -> Void, client: @escaping @Sendable (SiteID) throws -> PeerClient
    ) {
        self.origin = origin
        self.catalog = catalog
        self.volume = volume
        self.site = site
        self.log = log
        self.client = client
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
        let wasSilent = isSilent
        if wasSilent, let pieces = await readElsewhere(extents, urgency, until: deadline) { return pieces }
        let share = urgency == .urgent ? Self.urgentShare : Self.share
        // Whoever could help is a reason to wait less long.
        let helps = !wasSilent && !formerStates().isEmpty
        do {
            let pieces = try await origin.read(
                extents, urgency: urgency,
                timeout: helps
                    ? timeout * share.numerator / share.denominator : deadline - ContinuousClock.now)
            state.withLock { $0.silentUntil = nil }
            return pieces
        } catch {
            try Task.checkCancellation()
            if Self.isSilence(error) { state.withLock { $0.silentUntil = .now + Self.silence } }
            guard helps, let pieces = await readElsewhere(extents, urgency, until: deadline) else {
                throw error
            }
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

    /// The newest first.
    private func formerStates() -> [FormerState] {
        let all = (try? catalog.perform { $0.formerStates }) ?? []
        return all.filter { $0.keeper != site }
    }

    /// What of some extents is in a former state as it is here.
    private func unchanged(_ extents: [Extent], since state: FormerState) throws -> [Extent] {
        let parts = try catalog.perform { catalog in
            try extents.flatMap { extent in
                try catalog.unchangedParts(of: extent.range, of: extent.inode, since: state)
                    .map { Extent(inode: extent.inode, range: $0) }
            }
        }
        return Array(parts.prefix(PeerLimits.extentCount))
    }

    /// - Returns: nil: nobody else gives any of it.
    private func readElsewhere(
        _ extents: [Extent], _ urgency: Urgency, until deadline: ContinuousClock.Instant
    ) async -> [Piece]? {
        let silent = state.withLock { $0.silentKeepers.filter { ContinuousClock.now < $0.value } }
        let states = formerStates().filter { silent[$0.keeper] == nil }
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
                let pieces = try await client(state.keeper).read(
                    parts, of: volume, reign: state.heir, state: state.name, urgency: urgency,
                    timeout: timeout)
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
                let parts = try catalog.unchangedParts(of: piece.range, of: piece.inode, since: state)
                guard let first = parts.first, first.start == piece.range.start else { return nil }
                return Piece(inode: piece.inode, range: first, content: .zeros)
            }
        }
    }

    private func noteHelp(of keeper: SiteID) {
        guard state.withLock({ $0.named.insert(keeper).inserted }) else { return }
        log("\(origin.name) cannot give all bytes: what has not changed since comes from site \(keeper)")
    }
}
