internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import VolumeModel

/// Objects whose counterpart is gone.
struct LeftoverSight {
    var now: Date
    var members: [MemberResource]
    var volumes: [VolumeView]
    /// nil: the user may not look at them.
    var persistent: [PersistentVolume]?
    var claims: [PersistentVolumeClaim]?
    var migrations: [MigrationResource]?

    /// What is younger may be in the middle of being made, or taken away.
    private static let patience: TimeInterval = 600

    func findings() -> [Finding] {
        let found = ownerless() + strangers() + withoutVolume() + withoutClaim() + ofMigrations()
        guard found.isEmpty else { return found }
        return [Finding(.good, "no volume, claim or migration is left without its counterpart")]
    }

    private func isOld(_ time: String?) -> Bool {
        guard let date = time.flatMap(Examination.date) else { return false }
        return now.timeIntervalSince(date) > Self.patience
    }

    private func owner(of view: VolumeView) -> SiteID? { view.spec.summary?.owner.flatMap { SiteID($0) } }

    private var ownSites: Set<String> { Set(members.map(\.spec.site)) }

    // MARK: volumes

    /// Owned by members that were given up, or that somebody deleted by mistake while their nodes were off.
    private func ownerless() -> [Finding] {
        let known = Set(members.map(\.spec.id))
        return volumes.compactMap { view in
            guard let owner = owner(of: view), owner.node != nil,
                ownSites.contains(owner.site.description), !known.contains(owner.description)
            else { return nil }
            let name = view.metadata.name ?? ""
            return Finding(
                .broken, "volume \(name) is owned by \(owner), and there is no such member any more",
                "start node \(owner.node ?? "") if it is only off: it makes itself known again, with all it has. Only if its "
                    + "disk is gone: kubectl godwit takeover --volume \(name), where another node or site has something of "
                    + "it; else it is lost: delete its claim")
        }
    }

    /// Owned by sites that are not trusted: nothing of them comes.
    private func strangers() -> [Finding] {
        // Members trust the same sites; whoever has not told of late says nothing about that.
        let told = members.compactMap { $0.report(at: now)?.peers }
        guard !told.isEmpty else { return [] }
        let trusted = Set(told.flatMap { $0.map(\.site) }).union(ownSites)
        var bySite: [String: [String]] = [:]
        for view in volumes {
            guard let owner = owner(of: view)?.site.description, !trusted.contains(owner) else { continue }
            bySite[owner, default: []].append(view.metadata.name ?? "")
        }
        return bySite.sorted { $0.key < $1.key }.map { site, names in
            Finding(
                .warning,
                "\(Self.list("volume", names)) owned by site \(site), which is not trusted here: nothing of it arrives",
                "kubectl godwit trust, with the document of \(site); or, if that site is gone: kubectl godwit takeover"
            )
        }
    }

    private func withoutVolume() -> [Finding] {
        guard let persistent else {
            return [
                Finding(
                    .unknown, "persistent volumes: you may not look at them: those of no volume are not named"
                )
            ]
        }
        let ours = persistent.filter { $0.spec.csi?.driver == ClusterNames.driver }
        let known = Set(volumes.map(\.spec.id))
        var findings: [Finding] = []
        let lost = ours.filter {
            !known.contains($0.spec.csi?.volumeHandle ?? "") && isOld($0.metadata.creationTimestamp)
        }.compactMap(\.metadata.name)
        if !lost.isEmpty {
            findings.append(
                Finding(
                    .broken,
                    "\(Self.list("persistent volume", lost)) of a volume that the site does not know: its pods wait for ever",
                    "restore the registry, if it was restored from an older backup; else delete the claim and the persistent "
                        + "volume"))
        }
        let named = Set(ours.compactMap { $0.spec.csi?.volumeHandle })
        // What a provisioner has made; what people make by hand they use by hand.
        let spare = volumes.filter { view in
            guard let owner = owner(of: view), ownSites.contains(owner.site.description),
                view.metadata.name?.hasPrefix("pvc-") == true, view.spec.summary?.claim == nil
            else { return false }
            return !named.contains(view.spec.id) && isOld(view.metadata.creationTimestamp)
        }.compactMap(\.metadata.name)
        if !spare.isEmpty {
            findings.append(
                Finding(
                    .warning, "\(Self.list("volume", spare)) owned here, and of no persistent volume",
                    "a crash of the provisioner, or a persistent volume that was deleted and retained. If nobody needs it: "
                        + "godwit volume delete, in a pod of the site"))
        }
        return findings
    }

    /// Persistent volumes that are not deleted though their claim is gone.
    private func withoutClaim() -> [Finding] {
        guard let claims, let persistent else { return [] }
        let known = Set(claims.map { ($0.metadata.namespace ?? "") + "/" + ($0.metadata.name ?? "") })
        let stuck = persistent.filter { volume in
            guard volume.spec.csi?.driver == ClusterNames.driver, isOld(volume.metadata.deletionTimestamp)
            else { return false }
            guard let claim = volume.spec.claimRef else { return true }
            return !known.contains((claim.namespace ?? "") + "/" + (claim.name ?? ""))
        }.compactMap(\.metadata.name)
        guard !stuck.isEmpty else { return [] }
        return [
            Finding(
                .warning, "\(Self.list("persistent volume", stuck)) being deleted, for more than ten minutes",
                "kubectl describe pv \(stuck.sorted()[0]): its Events say what it waits for")
        ]
    }

    // MARK: migrations

    private func ofMigrations() -> [Finding] {
        (migrations ?? []).compactMap { migration in
            let (namespace, claim) = (migration.metadata.namespace ?? "", migration.spec.claim)
            let name = "migration \(namespace)/\(migration.metadata.name ?? "")"
            if migration.metadata.deletionTimestamp != nil {
                guard isOld(migration.metadata.deletionTimestamp) else { return nil }
                return Finding(
                    .warning,
                    "\(name) is being deleted, for more than ten minutes: site \(migration.spec.to) has not been told that "
                        + "nothing comes",
                    "it goes as soon as that site answers. If it never will: kubectl patch migrations.godwit.dev "
                        + "\(migration.metadata.name ?? "") -n \(namespace) --type merge -p "
                        + #"'{"metadata": {"finalizers": null}}'"#)
            }
            guard let claims, isOld(migration.metadata.creationTimestamp),
                !claims.contains(where: { $0.metadata.namespace == namespace && $0.metadata.name == claim })
            else { return nil }
            return Finding(
                .warning, "\(name) is of a claim that is gone",
                "kubectl delete migrations.godwit.dev \(migration.metadata.name ?? "") -n \(namespace)")
        }
    }

    /// `volume a is`, `3 volumes (a, b, …) are`: a bounded number of names.
    private static func list(_ what: String, _ names: [String]) -> String {
        let names = names.sorted()
        guard names.count > 1 else { return "\(what) \(names.first ?? "") is" }
        let shown = names.prefix(5).joined(separator: ", ") + (names.count > 5 ? ", …" : "")
        return "\(names.count) \(what)s (\(shown)) are"
    }
}
