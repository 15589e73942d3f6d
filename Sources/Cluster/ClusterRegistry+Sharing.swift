internal import ClusterResources
internal import KubernetesAPI
package import Site
package import VolumeModel

/// What the members of the site know, and who they are.
extension ClusterRegistry {
    package func placements(of id: VolumeID) async throws(RegistryError) -> [Placement] {
        guard let resource = try await resource(id) else { return [] }
        return try Self.placements(resource)
    }

    package func placements(named name: String) async throws(RegistryError) -> [Placement] {
        guard let resource = try await find(VolumeResource.objectName(name)) else { return [] }
        return try Self.placements(resource)
    }

    /// An entry that cannot be read is its member's affair: whoever looks at all of them sees the others.
    package func placements() async throws(RegistryError) -> [Placement] {
        try await list(labels: nil).sorted { $0.spec.id < $1.spec.id }.flatMap { resource in
            resource.spec.members.keys.sorted().compactMap { name in
                guard let member = SiteID(name), let record = try? Self.record(resource, of: member) else {
                    return nil
                }
                return Placement(member: member, record: record.value)
            }
        }
    }

    private static func placements(_ resource: VolumeResource) throws(RegistryError) -> [Placement] {
        var placements: [Placement] = []
        for name in resource.spec.members.keys {
            guard let member = SiteID(name) else {
                throw .store("volume '\(resource.metadata.name ?? "")' has an entry of '\(name)'")
            }
            guard let record = try record(resource, of: member) else { continue }
            placements.append(Placement(member: member, record: record.value))
        }
        return placements.sorted { $0.member < $1.member }
    }

    package func abandon(_ placement: Placement) async throws(RegistryError) {
        let theirs = ClusterRegistry(client, member: placement.member, patience: patience)
        if let record = try await theirs.volume(placement.record.id) { try await theirs.remove(record) }
    }

    package func members() async throws(RegistryError) -> [Member] {
        let resources: [MemberResource]
        do throws(KubernetesError) {
            resources = try await client.list(MemberResource.self).items
        } catch {
            throw .store(error.description)
        }
        var members: [Member] = []
        for resource in resources {
            let name = resource.metadata.name ?? ""
            guard let id = SiteID(resource.spec.id) else {
                throw .store("member '\(name)' is called '\(resource.spec.id)'")
            }
            members.append(Member(id: id, node: name, address: resource.spec.address))
        }
        return members.sorted { $0.id < $1.id }
    }

    package func announce(_ member: Member) async throws(RegistryError) {
        let wanted = MemberResource.Spec(
            site: member.id.site.description, id: member.id.description, address: member.address,
            release: Release.current)
        do throws(KubernetesError) {
            guard let known = try await client.find(MemberResource.self, member.node) else {
                told.withLock { $0 = nil }
                do throws(KubernetesError) {
                    _ = try await client.create(MemberResource(node: member.node, spec: wanted))
                    return
                } catch {
                    // An earlier call whose answer was lost, of what this process is, or was.
                    guard case .alreadyExists = error else { throw error }
                }
                _ = try await client.patch(MemberResource.self, member.node, ["spec": wanted.patch])
                return
            }
            guard known.spec != wanted else { return }
            _ = try await client.patch(MemberResource.self, member.node, ["spec": wanted.patch])
        } catch {
            throw .store("member '\(member.node)': \(error.description)")
        }
    }

    package func tell(_ report: MemberReport, of member: Member) async throws(RegistryError) {
        var report = report
        let last = told.withLock { $0 }
        report.clockSeconds = client.clockDifference.map {
            MemberReport.clockSeconds(
                $0.seconds, tolerance: $0.tolerance, told: last?.report.clockSeconds)
        }
        if let last, !report.isDue(ContinuousClock.now - last.at, after: last.report) { return }
        report.updated = Timestamps.seconds(client.now)
        do throws(KubernetesError) {
            _ = try await client.patch(
                MemberResource.self, member.node, ["status": try Self.patch(report)], subresource: "status")
        } catch {
            throw .store("what member '\(member.node)' tells of itself: \(error.description)")
        }
        told.withLock { $0 = (report, .now) }
    }

    /// All of it, for a merge patch: what is not there is taken away.
    private static func patch(_ report: MemberReport) throws(KubernetesError) -> JSONValue {
        do {
            guard case .object(let present) = try JSONValue(encoding: report) else { return .null }
            let all = MemberReport.CodingKeys.allCases.map { ($0.rawValue, JSONValue.null) }
            return .object(present.merging(all) { present, _ in present })
        } catch {
            throw .invalid("a report that cannot be written: \(error)")
        }
    }
}
