internal import Catalog
internal import ControlProtocol
package import Handoff
internal import Hydration
internal import PeerProtocol
internal import VolumeFileSystem
internal import VolumeModel

/// What people and programs are told of a volume.
struct VolumeSummary: Sendable {
    var record: VolumeRecord
    var totalByteCount: UInt64 = 0
    var missingByteCount: UInt64 = 0
    var inodeCount: UInt64 = 0
    var allocatedByteCount: UInt64 = 0
    var progress: HydrationProgress?
    /// Whether the figures of bytes and files are known: those of a head that is open.
    var isOpen = false
    var mounts: [String] = []
    var namesAreArriving = false
    var prefetchedByteCount: UInt64 = 0
    var aheadByteCount: UInt64 = 0
    /// Why no bytes are taken ahead of a hand-over although they are to be; nil: they are.
    var aheadObstacle: String?
    var prefetchedReadByteCount: UInt64 = 0
    /// What is wrong with the disk, the head or a mount here; nil: nothing is.
    var trouble: String?
    /// What was wrong with bytes and was put right last; nil: nothing.
    var healed: String?

    /// Bytes that came from elsewhere, or from a copy here, because applications waited for them, or before they did and
    /// that they have read since.
    var neededByteCount: UInt64 { (progress?.neededByteCount ?? 0) + prefetchedReadByteCount }

    var roleName: String { record.head.role.name }

    /// The reign that is, or is to be, as far as this site knows.
    func reign(at site: SiteID) -> (owner: SiteID?, epoch: Epoch) {
        switch record.head.role {
        case .following(let reign), .acquiring(let reign, _), .receiving(let reign, _),
            .declining(let reign, _), .retired(let reign):
            (reign.owner, reign.epoch)
        case .owning(let epoch, _): (site, epoch)
        case .sealing(_, let heir): (heir.owner, heir.epoch)
        case .sealed(_, let grant), .reclaiming(_, let grant): (grant.heir.owner, grant.heir.epoch)
        case .fenced(_, let by, let owner): (owner, by)
        }
    }

    var waitingReason: String {
        if case .waiting(let reason)? = progress?.phase { return reason }
        return aheadObstacle.map { "no bytes are taken ahead: \($0)" } ?? ""
    }

    /// Whether the head that is, or was last, owned here depends on no other site. A replica's depends on its owner.
    var isReleased: Bool {
        switch record.head.role {
        case .following, .acquiring, .receiving, .declining: false
        case .owning, .sealing, .sealed, .reclaiming, .retired, .fenced: record.head.sources.isEmpty
        }
    }

    func controlMessage(site: SiteID) -> Godwit_Control_V1_Volume {
        var message = Godwit_Control_V1_Volume()
        let reign = reign(at: site)
        message.id = record.id.description
        message.name = record.name
        message.capacity = record.capacity
        message.role = roleName
        message.epoch = reign.epoch.number
        message.owner = reign.owner?.description ?? ""
        message.origin = record.head.origin?.site.description ?? ""
        message.totalByteCount = totalByteCount
        message.missingByteCount = missingByteCount
        message.inodeCount = inodeCount
        message.receivedByteCount = progress?.receivedByteCount ?? 0
        message.savedByteCount = progress?.savedByteCount ?? 0
        message.neededByteCount = neededByteCount
        message.keptCopies = record.copies.sorted { $0.key < $1.key }.map { epoch, copy in
            var kept = Godwit_Control_V1_KeptCopy()
            kept.epoch = epoch.number
            kept.byteCount = copy.byteCount
            kept.since = copy.since
            return kept
        }
        message.faultCount = progress?.faultCount ?? 0
        message.faultP50Microseconds = microseconds(0.5)
        message.faultP99Microseconds = microseconds(0.99)
        message.waitingReason = waitingReason
        message.mounts = mounts.sorted()
        message.released = isReleased
        message.allocatedByteCount = allocatedByteCount
        message.inodeLimit = record.limits.inodeCount
        message.hydrationPaused = record.hydration.isPaused
        message.hydrationBytesPerSecond = record.hydration.bytesPerSecond ?? 0
        message.hydrationPrefetch = record.hydration.prefetch.rawValue
        message.hydrationAhead = record.hydration.isAhead
        message.aheadByteCount = aheadByteCount
        message.prefetchedByteCount = prefetchedByteCount
        message.prefetchedUnreadByteCount = prefetchedByteCount - prefetchedReadByteCount
        message.trouble = trouble ?? ""
        message.healed = healed ?? ""
        message.namesArriving = namesAreArriving
        message.sharedWith = record.sharedWith.map(\.description).sorted()
        message.divergences = record.head.divergences.map(\.epoch.number)
        if let claim = record.claim {
            message.claim = ClaimCoding.control(claim.facts)
            if let report = claim.report { message.claimReport = ClaimCoding.control(report) }
        }
        return message
    }

    func peerMessage(site: SiteID) -> Godwit_Peer_V1_VolumeStatus {
        var message = Godwit_Peer_V1_VolumeStatus()
        message.role = roleName
        message.epoch = reign(at: site).epoch.number
        message.totalByteCount = totalByteCount
        message.missingByteCount = missingByteCount
        message.inodeCount = inodeCount
        message.receivedByteCount = progress?.receivedByteCount ?? 0
        message.faultCount = progress?.faultCount ?? 0
        message.faultP50Microseconds = microseconds(0.5)
        message.faultP99Microseconds = microseconds(0.99)
        message.waitingReason = waitingReason
        message.savedByteCount = progress?.savedByteCount ?? 0
        message.neededByteCount = neededByteCount
        message.released = isReleased
        message.complete = missingByteCount == 0 && !namesAreArriving
        message.namesArriving = namesAreArriving
        if let report = record.claim?.report { message.claim = ClaimCoding.peer(report) }
        return message
    }

    private func microseconds(_ fraction: Double) -> UInt64 {
        guard let latency = progress?.faultLatency.percentile(fraction) else { return 0 }
        return UInt64(clamping: latency.components.seconds) &* 1_000_000
            &+ UInt64(clamping: latency.components.attoseconds / 1_000_000_000_000)
    }
}

extension VolumeAgent {
    func summary() -> VolumeSummary { withTrouble(ofStorage()) }

    /// The same, of what is open anyway.
    func observed() -> VolumeSummary { withTrouble(ofOpenStorage()) }

    /// The head that is told of: the present one, or what is read here of another node's.
    private var shownHeadNumber: UInt64 {
        isReadingPresent ? record.reading?.number ?? record.headNumber : record.headNumber
    }

    /// How full the present head is.
    func usage() throws -> VolumeUsage {
        // To be asked about is no use.
        let head = try heads[shownHeadNumber] ?? openHead(shownHeadNumber)
        return try head.storage.usage()
    }

    /// The gravest comes first: what is wrong with the record, with the reign, with the disk, with bytes.
    private func withTrouble(_ summary: VolumeSummary) -> VolumeSummary {
        var summary = summary
        summary.trouble =
            obstacle ?? overruledText ?? contestText ?? newerReplicaText ?? summary.trouble
            ?? damageText
        summary.healed = healed
        summary.aheadByteCount = ahead.bytes?.byteCount ?? 0
        summary.aheadObstacle = ahead.obstacle
        return summary
    }

    /// That an owner was overruled of which a mount is left, or does not know by whom; nil: neither.
    var overruledText: String? {
        if case .fenced(let epoch, let by, nil) = record.head.role {
            return
                "epoch \(epoch), under which this site owned the volume, was overruled by epoch \(by), and who owns "
                + "that is not known here yet: nothing of the volume is served. If nobody does, because the state of this "
                + "site went back in time, 'godwit volume takeover \(record.name)' tells how to go on with what is here"
        }
        guard let (path, mount) = mounts.first(where: { !$0.value.isBorrowed && !isServed($0.value) }) else {
            return nil
        }
        let owner = record.head.knownReign.map { "\($0)" } ?? "epoch \(record.head.knownEpoch)"
        return
            "overruled: the volume is mounted at \(path) under epoch \(mount.epoch), and is owned by \(owner). "
            + "Every use of this mount fails (ESTALE), and what was written here is kept as a divergence: end what "
            + "uses it, and unmount it"
    }

    private func ofStorage() -> VolumeSummary {
        var summary = VolumeSummary(record: record)
        summary.mounts = Array(mounts.keys)
        guard shownHeadNumber != 0 else { return summary }
        if addResting(to: &summary) { return summary }
        do {
            // To be asked about is no use.
            let head = try heads[shownHeadNumber] ?? openHead(shownHeadNumber)
            summary.add(head)
        } catch {
            summary.trouble = "\(error)"
        }
        return summary
    }

    private func ofOpenStorage() -> VolumeSummary {
        var summary = VolumeSummary(record: record)
        summary.mounts = Array(mounts.keys)
        if addResting(to: &summary) { return summary }
        if let head = heads[shownHeadNumber] { summary.add(head) }
        return summary
    }

    /// What was known of the present head when it was closed, if it rests.
    private func addResting(to summary: inout VolumeSummary) -> Bool {
        guard let resting, resting.number == record.headNumber, heads[resting.number] == nil else {
            return false
        }
        let record = summary.record
        summary = resting.summary
        summary.record = record
        return true
    }
}

extension VolumeSummary {
    /// Of a head that was not opened: nothing of it is elsewhere.
    mutating func add(_ head: QuietHead) {
        isOpen = true
        totalByteCount = head.counters.byteCount
        inodeCount = head.counters.inodeCount
        allocatedByteCount = head.counters.allocatedByteCount
    }

    fileprivate mutating func add(_ head: OpenHead) {
        isOpen = true
        trouble = head.storage.trouble
        let counts = try? head.storage.catalog.perform { ($0.counters, $0.missingByteCount) }
        totalByteCount = counts?.0.byteCount ?? 0
        inodeCount = counts?.0.inodeCount ?? 0
        allocatedByteCount = counts?.0.allocatedByteCount ?? 0
        missingByteCount = counts?.1 ?? 0
        namesAreArriving = head.storage.catalog.isArriving
        progress = head.hydrator?.progress()
        if let prefetched = head.hydrator?.prefetched.counts {
            (prefetchedByteCount, prefetchedReadByteCount) = prefetched
        }
    }
}

extension Role {
    var isFenced: Bool { if case .fenced = self { true } else { false } }

    /// As people read it.
    package var name: String {
        switch self {
        case .following: "following"
        case .acquiring: "acquiring"
        case .receiving: "receiving"
        case .declining: "declining"
        case .owning: "owning"
        case .sealing: "sealing"
        case .sealed: "sealed"
        case .reclaiming: "reclaiming"
        case .retired: "retired"
        case .fenced: "fenced"
        }
    }
}
