internal import Foundation
package import VolumeModel

/// What a claim's annotations ask for.
package struct ClaimWishes: Hashable, Sendable {
    package static let migrateTo = "godwit.dev/migrate-to"
    package static let rateLimit = "godwit.dev/rate-limit"
    package static let pause = "godwit.dev/pause"

    /// Why an annotation cannot be followed.
    package struct BadValue: Hashable, Sendable {
        package var annotation: String
        package var message: String
    }

    package var target: SiteID?
    /// 0: no limit; nil: as it is.
    package var bytesPerSecond: UInt64?
    /// nil: as it is.
    package var isPaused: Bool?
    package var badValues: [BadValue] = []

    package init(annotations: [String: String]) {
        if let text = annotations[Self.migrateTo], !text.isEmpty {
            target = SiteID(text)
            if target == nil {
                refuse(Self.migrateTo, text, "a site's name: letters a to z, digits and '-'")
            }
        }
        if let text = annotations[Self.rateLimit], !text.isEmpty {
            bytesPerSecond = text == "none" ? 0 : Self.bytes(text)
            if bytesPerSecond == nil {
                refuse(Self.rateLimit, text, "bytes a second, such as 10Mi, or 'none'")
            }
        }
        if let text = annotations[Self.pause], !text.isEmpty {
            isPaused = ["true": true, "false": false][text]
            if isPaused == nil { refuse(Self.pause, text, "'true' or 'false'") }
        }
    }

    private mutating func refuse(_ annotation: String, _ text: String, _ wanted: String) {
        let shown = text.count > 60 ? text.prefix(60) + "…" : text[...]
        badValues.append(
            BadValue(
                annotation: annotation,
                message: "annotation \(annotation) is '\(shown)': it must be \(wanted)"))
    }

    /// A quantity of at least one byte, as Kubernetes writes them, without fractions.
    static func bytes(_ text: String) -> UInt64? {
        let units: [(String, UInt64)] = [
            ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("k", 1000), ("M", 1_000_000),
            ("G", 1_000_000_000), ("T", 1_000_000_000_000),
        ]
        let unit = units.first { text.hasSuffix($0.0) }
        let digits = text.dropLast(unit?.0.count ?? 0)
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt64(digits) else {
            return nil
        }
        let (product, overflow) = number.multipliedReportingOverflow(by: unit?.1 ?? 1)
        return overflow || product == 0 || product > UInt64(Int64.max) ? nil : product
    }
}

/// What the site says of a volume.
package struct VolumeSituation: Hashable, Sendable {
    package var id: String
    package var owner: String
    package var isPaused: Bool
    /// 0: no limit.
    package var bytesPerSecond: UInt64

    package init(id: String, owner: String, isPaused: Bool = false, bytesPerSecond: UInt64 = 0) {
        self.id = id
        self.owner = owner
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

    /// - Parameters:
    ///   - volume: what the site says of the claim's volume; nil: it does not know it.
    ///   - present: the migration that is written down, if any.
    package init(
        claim: String, volumeID: String, annotations: [String: String], volume: VolumeSituation?,
        site: String, peers: Set<String>, present: MigrationResource?
    ) {
        let wishes = ClaimWishes(annotations: annotations)
        badValues = wishes.badValues
        move = Self.move(claim, volumeID, wishes, annotations, volume, site, peers, present)
        guard let volume else { return }
        let paused = wishes.isPaused.flatMap { $0 == volume.isPaused ? nil : $0 }
        let rate = wishes.bytesPerSecond.flatMap { $0 == volume.bytesPerSecond ? nil : $0 }
        if paused != nil || rate != nil { hydration = Hydration(isPaused: paused, bytesPerSecond: rate) }
    }

    private static func move(
        _ claim: String, _ volumeID: String, _ wishes: ClaimWishes, _ annotations: [String: String],
        _ volume: VolumeSituation?, _ site: String, _ peers: Set<String>, _ present: MigrationResource?
    ) -> Move {
        func spec(_ to: String) -> MigrationResource.Spec {
            // Where it came from stays what it was: the owner changes while it moves.
            let isSame = present?.spec.to == to && present?.spec.volume == volumeID
            let from = isSame ? present?.spec.from ?? site : volume.map(\.owner) ?? site
            return .init(claim: claim, volume: volumeID, from: from, to: to)
        }
        if let bad = wishes.badValues.first(where: { $0.annotation == ClaimWishes.migrateTo }) {
            let text = String((annotations[ClaimWishes.migrateTo] ?? "").prefix(253))
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
                switch present?.status?.phase {
                case .preparing?, .ready?, .failed?: return .cancel
                case .handedOver?, .hydrating?, .done?, .cancelled?, nil: return .nothing
                }
            }
            return .fail(
                spec(target), reason: "OwnedElsewhere",
                message: "site \(volume.owner) owns the volume: annotate the claim there to bring it here")
        }
        guard peers.contains(target) else {
            return .fail(
                spec(target), reason: "UnknownSite",
                message: "site '\(target)' is not joined to \(site): 'godwit pki trust' its document first")
        }
        guard volume.owner == site || volume.owner == target else {
            return .fail(
                spec(target), reason: "OwnedElsewhere",
                message: "site \(volume.owner) owns the volume: annotate the claim there")
        }
        guard let status = present?.status, present?.spec == spec(target), !(status.closed ?? false) else {
            let isThere = present?.status?.phase == .done && volume.owner == target
            return isThere && present?.spec == spec(target) ? .nothing : .advance(spec(target))
        }
        switch status.phase {
        case .done: return .close
        // Home again, while the old wish was still there.
        case .handedOver, .hydrating: return volume.owner == site ? .close : .advance(spec(target))
        case .preparing, .ready, .failed, .cancelled: return .advance(spec(target))
        }
    }

    private static func withoutWish(
        _ volume: VolumeSituation?, _ site: String, _ present: MigrationResource?
    ) -> Move {
        guard let present else { return .nothing }
        switch present.status?.phase {
        case .preparing?, .ready?, .failed?, nil:
            // Taken over before anybody saw that the wish was gone: it is too late.
            let isTooLate = volume?.owner == present.spec.to && present.spec.to != site
            return isTooLate ? .advance(present.spec) : .cancel
        // Handed over: it cannot be withdrawn, only brought home from there.
        case .handedOver?, .hydrating?:
            return volume?.owner == site ? .close : .advance(present.spec)
        case .done?: return present.status?.closed == true ? .nothing : .close
        case .cancelled?: return .nothing
        }
    }
}
