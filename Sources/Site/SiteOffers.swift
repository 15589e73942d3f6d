internal import Glibc
internal import Handoff
internal import Synchronization
internal import VolumeModel

/// How much each other site may leave here of volumes that it offered and that this site never owned.
///
/// Whoever is trusted may offer, without anybody here having asked for it: it must leave room for the others.
package struct OfferLimits: Sendable {
    /// Volumes.
    package var volumeCount = 4096
    /// Bytes of their names, parameters and claims, as they came.
    package var recordByteCount = 32 << 20
    /// Bytes that their names take on the disk; nil: a quarter of it.
    package var replicaByteCount: UInt64?
    /// For how long an offer of which nothing has come is kept without being repeated.
    package var patience: Duration = .seconds(7 * 86_400)

    package init() {}
}

/// What other sites have offered and this site never owned, site by site.
final class SiteOffers: Sendable {
    private struct Offered {
        let site: SiteID
        var recordByteCount: Int
        var replicaByteCount: UInt64 = 0
        /// When it was last offered; after a restart, when this process began.
        var last = ContinuousClock.now
    }

    private let limits: OfferLimits
    private let state: StateDirectory
    private let own: SiteID
    private let all = Mutex<[VolumeID: Offered]>([:])

    init(_ limits: OfferLimits, in state: StateDirectory, of own: SiteID) {
        (self.limits, self.state, self.own) = (limits, state, own.site)
    }

    /// Who has offered a volume that counts; nil: none other, or it was owned here.
    private func offerer(of record: VolumeRecord) -> SiteID? {
        guard record.isGuest, let site = record.head.knownReign?.owner.site, site != own else { return nil }
        return site
    }

    /// Notes what is here already.
    func note(_ record: VolumeRecord) {
        guard let site = offerer(of: record) else { return forget(record.id) }
        all.withLock { all in
            var offered = all[record.id] ?? Offered(site: site, recordByteCount: 0)
            offered.recordByteCount = record.offeredByteCount(with: record.claim?.facts)
            if record.headNumber != 0 {
                offered.replicaByteCount = size(ofHead: record.headNumber, of: record.id)
            }
            all[record.id] = offered
        }
    }

    /// Before a volume that is offered becomes known here, and before a claim of it is kept.
    ///
    /// - Parameter claim: the one that comes with the offer, if it is another than the record's.
    /// - Throws: `.exhausted` when its site has too much here already; nothing is noted then. A volume that is known already is
    ///   none more.
    func admit(_ record: VolumeRecord, with claim: ClaimFacts? = nil) throws(SiteError) {
        guard let site = offerer(of: record) else { return }
        let byteCount = record.offeredByteCount(with: claim ?? record.claim?.facts)
        try all.withLock { all throws(SiteError) in
            let theirs = all.filter { $0.value.site == site && $0.key != record.id }.values
            guard all[record.id] != nil || theirs.count < limits.volumeCount else {
                throw refusal(of: site, "\(theirs.count) volumes that it offered and nobody took over")
            }
            let present = theirs.reduce(0) { $0 + $1.recordByteCount }
            guard present + byteCount <= limits.recordByteCount else {
                throw refusal(
                    of: site,
                    "\(present) bytes of parameters and claims of what it offered; another \(byteCount)")
            }
            var offered = all[record.id] ?? Offered(site: site, recordByteCount: 0)
            offered.recordByteCount = byteCount
            all[record.id] = offered
        }
    }

    /// Before more of a replica's names are stored.
    ///
    /// - Parameter arrived: bytes of them that came in this go, and are about to be stored.
    /// - Throws: `.exhausted` when those of its site take too much already.
    func checkRoom(forHead number: UInt64, of id: VolumeID, adding arrived: UInt64) throws(SiteError) {
        guard all.withLock({ $0[id] != nil }) else { return }
        let stored = size(ofHead: number, of: id)
        let size = max(arrived, stored)
        let limit = if let set = limits.replicaByteCount { set } else { try state.space().total / 4 }
        try all.withLock { all throws(SiteError) in
            guard let site = all[id]?.site else { return }
            all[id]?.replicaByteCount = size
            let present = all.values.reduce(UInt64(0)) { $0 + ($1.site == site ? $1.replicaByteCount : 0) }
            guard present < limit else {
                // What came in this go is not kept, and is in nobody else's way.
                all[id]?.replicaByteCount = stored
                throw refusal(of: site, "\(present) bytes of names of what it offered")
            }
        }
    }

    /// It was offered again.
    func renew(_ id: VolumeID) { all.withLock { $0[id]?.last = .now } }

    func forget(_ id: VolumeID) { all.withLock { $0[id] = nil } }

    /// What has not been offered for long.
    func stale() -> [VolumeID] {
        let now = ContinuousClock.now
        return all.withLock { all in all.filter { now - $0.value.last >= limits.patience }.map(\.key) }
    }

    private func refusal(of site: SiteID, _ what: String) -> SiteError {
        .exhausted(
            "site \(own) keeps \(what), and takes no more from site \(site): take some back there ('kubectl annotate pvc "
                + "… godwit.dev/migrate-to-', or 'godwit volume delete' at \(own))")
    }

    /// What the catalog of a head takes on the disk.
    private func size(ofHead number: UInt64, of id: VolumeID) -> UInt64 {
        ["catalog.db", "catalog.db-wal"].reduce(0) { sum, name in
            var status = stat()
            guard stat(state.head(number, of: id) + "/" + name, &status) == 0 else { return sum }
            return sum + UInt64(max(0, status.st_size))
        }
    }
}

extension VolumeRecord {
    /// What another site has made this one keep by offering it.
    fileprivate func offeredByteCount(with facts: ClaimFacts?) -> Int {
        var count = name.utf8.count + parameters.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count }
        if let facts {
            count += facts.labels.reduce(facts.name.utf8.count + facts.namespace.utf8.count) {
                $0 + $1.key.utf8.count + $1.value.utf8.count
            }
        }
        return count
    }
}

extension Site {
    /// Forgets what was offered long ago and not since, as if the offer had been taken back, if nothing of it is here: a
    /// replica may be all that there is, and stays until somebody says otherwise.
    func forgetStaleOffers() async {
        for id in context.offers.stale() {
            do {
                guard let owner = try await agent(id).emptyHandedOfferer() else { continue }
                if try await withdraw(id, by: owner, at: nil) {
                    context.logger.notice(
                        "volume \(id), which site \(owner) offered long ago and not since, is forgotten: nothing of it is here"
                    )
                }
            } catch {
                context.logger.debug("what was offered long ago stays: \(error)")
            }
        }
    }
}

extension VolumeAgent {
    /// Who has offered this volume, of which nothing is here; nil: it is not so.
    func emptyHandedOfferer() throws -> SiteID? {
        guard case .following(let reign) = record.head.role, record.isGuest, !isFollowing,
            reign.owner.site != context.site.site, record.claim?.report?.isMade != true,
            try followedSequence(of: reign.owner) ?? .zero == .zero
        else { return nil }
        return reign.owner
    }
}

extension CatalogRow {
    /// What it takes in a catalog, about.
    var storedByteCount: Int {
        switch self {
        case .inode: 100
        case .entry(let entry): 40 + entry.name.count
        case .attribute(_, let name, let value): 40 + name.count + value.count
        case .removedInode, .removedEntry, .removedAttribute: 0
        }
    }
}
