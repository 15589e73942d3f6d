package import ClusterResources

/// What the site says of a volume.
package struct VolumeSituation: Hashable, Sendable {
    package var id: String
    /// Who owns it, or is to: of what is sealed, for whom it is.
    package var owner: String
    /// Whether it is sealed, and nobody has told yet that the one for whom it is owns it: nobody serves it.
    package var isSealed: Bool
    package var isPaused: Bool
    /// 0: no limit.
    package var bytesPerSecond: UInt64

    package init(
        id: String, owner: String, isSealed: Bool = false, isPaused: Bool = false, bytesPerSecond: UInt64 = 0
    ) {
        self.id = id
        self.owner = owner
        self.isSealed = isSealed
        self.isPaused = isPaused
        self.bytesPerSecond = bytesPerSecond
    }
}

/// What is to be done for one claim now, decided from what is there and nothing else: the same situation gives the
/// same decision however often it is met.
package struct ClaimDecision: Hashable, Sendable {
    package enum Move: Hashable, Sendable {
        /// Nothing was asked for, or it is done.
        case nothing
        /// Prepare the target, or ask it how far it is if it owns the volume already.
        case advance(MigrationResource.Spec)
        /// Cannot be tried: written down and looked at again.
        case fail(MigrationResource.Spec, reason: String, message: String)
        /// The wish was withdrawn before the target took over.
        case cancel
        /// The wish was fulfilled, or has been overtaken because the volume came home: it is taken away, so that a
        /// later one is known to be new.
        case close
    }

    package struct Hydration: Hashable, Sendable {
        package var isPaused: Bool?
        package var bytesPerSecond: UInt64?
    }

    package var move: Move
    /// nil: as it is.
    package var hydration: Hydration?
    package var badValues: [ClaimWishes.BadValue]
    /// The site to which the volume goes first, whatever is wished for now: it is sealed for it. nil: nothing waits for that.
    package var goesFirst: String?
    /// What the claim says of its move.
    package var note: MoveNote.Change

    /// Whether all is as it is wished.
    var isNothing: Bool { move == .nothing && hydration == nil && note == .leave }

    /// - Parameters:
    ///   - volume: what the site says of the claim's volume; nil: it does not know it.
    ///   - present: the migration that is written down, if any.
    ///   - arrival: what the site says of the volume's way here.
    package init(
        claim: String, volumeID: String, annotations: [String: String], volume: VolumeSituation?,
        site: String, peers: Set<String>, present: MigrationResource?, arrival: MoveNote.Arrival
    ) {
        note = MoveNote.change(
            present, arrival, owner: volume?.owner, present: annotations[MoveNote.annotation])
        let wishes = ClaimWishes(annotations: annotations)
        badValues = wishes.badValues
        if let volume, let first = Self.underWay(volume, site, present) {
            move = .advance(first)
            if annotations[ClaimWishes.migrateTo] != first.to { goesFirst = first.to }
        } else {
            move = Self.move(claim, volumeID, wishes, annotations, volume, site, peers, present)
        }
        guard let volume else { return }
        let paused = wishes.isPaused.flatMap { $0 == volume.isPaused ? nil : $0 }
        let rate = wishes.bytesPerSecond.flatMap { $0 == volume.bytesPerSecond ? nil : $0 }
        if paused != nil || rate != nil { hydration = Hydration(isPaused: paused, bytesPerSecond: rate) }
    }

    /// What is sealed for the target of a wish goes there first, or comes home again: only then is it known what becomes of
    /// another wish, or of none.
    private static func underWay(
        _ volume: VolumeSituation, _ site: String, _ present: MigrationResource?
    ) -> MigrationResource.Spec? {
        guard volume.isSealed, volume.owner != site, let present, !present.hasEnded,
            present.spec.volume == volume.id, present.spec.to == volume.owner
        else { return nil }
        return present.spec
    }

    private static func move(
        _ claim: String, _ volumeID: String, _ wishes: ClaimWishes, _ annotations: [String: String],
        _ volume: VolumeSituation?, _ site: String, _ peers: Set<String>, _ present: MigrationResource?
    ) -> Move {
        func spec(_ to: String) -> MigrationResource.Spec {
            // Where it came from stays what it was: the owner changes while it moves.
            let isSame = present?.spec.to == to && present?.spec.volume == volumeID
            let known = volume.map { $0.isSealed ? site : $0.owner } ?? site
            let from = isSame ? present?.spec.from ?? site : known
            return .init(claim: claim, volume: volumeID, from: from, to: to)
        }
        if let bad = wishes.badValues.first(where: { $0.annotation == ClaimWishes.migrateTo }) {
            // By what the API counts: a character may be many of these.
            let text = String((annotations[ClaimWishes.migrateTo] ?? "").unicodeScalars.prefix(253))
            return .fail(spec(text), reason: "BadValue", message: bad.message)
        }
        guard let target = wishes.target?.description else {
            return withoutWish(volume, site, present)
        }
        guard let volume else {
            return .fail(
                spec(target), reason: "UnknownVolume",
                message: "site \(site) does not know the claim's volume, \(volumeID)")
        }
        if target == site {
            if volume.owner == site {
                // Already here; an older wish that led nowhere is withdrawn by that.
                return present?.concernsTarget ?? false ? .cancel : .nothing
            }
            return .fail(
                spec(target), reason: "OwnedElsewhere",
                message: "site \(volume.owner) owns the volume: annotate the claim there to bring it here")
        }
        guard peers.contains(target) else {
            return .fail(
                spec(target), reason: "UnknownSite",
                message:
                    "site '\(target)' is not joined to \(site): 'kubectl godwit trust' its document first")
        }
        guard volume.owner == site || volume.owner == target else {
            return .fail(
                spec(target), reason: "OwnedElsewhere",
                message: volume.isSealed
                    ? "the volume is being handed to site \(volume.owner)"
                    : "site \(volume.owner) owns the volume: annotate the claim there")
        }
        guard let status = present?.currentStatus, present?.spec == spec(target), !(status.closed ?? false)
        else {
            let isThere = present?.currentStatus?.phase == .done && volume.owner == target
            return isThere && present?.spec == spec(target) ? .nothing : .advance(spec(target))
        }
        switch status.phase {
        case .done: return .close
        // Home again, while the old wish was still there.
        case .handedOver, .hydrating: return volume.owner == site ? .close : .advance(spec(target))
        // Not moved before the target owns it: at home again, it is prepared anew.
        case .preparing, .ready, .handingOver, .failed, .cancelled: return .advance(spec(target))
        }
    }

    private static func withoutWish(
        _ volume: VolumeSituation?, _ site: String, _ present: MigrationResource?
    ) -> Move {
        guard let present else { return .nothing }
        switch present.currentStatus?.phase {
        case .preparing?, .ready?, .failed?, nil:
            // Taken over before anybody saw that the wish was gone: it is too late.
            let isTooLate = volume?.owner == present.spec.to && present.spec.to != site
            return isTooLate ? .advance(present.spec) : .cancel
        // Handed over meanwhile, or home again.
        case .handingOver?: return volume?.owner == site ? .cancel : .advance(present.spec)
        // Handed over: it cannot be withdrawn, only brought home from there.
        case .handedOver?, .hydrating?:
            return volume?.owner == site ? .close : .advance(present.spec)
        case .done?: return present.currentStatus?.closed == true ? .nothing : .close
        case .cancelled?: return .nothing
        }
    }
}
