internal import VolumeModel

/// The stored form: flat fields and a version, so that a person can read it and a newer release can tell.
extension HeadRecord: Codable {
    private static let version = 1

    private enum Key: String, CodingKey {
        case version, site, role, epoch, owner, wanted, finalSequence, node, pod, by, spent, reigned,
            sources, retentions
    }

    private struct StoredSource: Codable {
        var site: String
        var reign: UInt64
        var phase: String
    }

    private struct StoredReign: Codable {
        var owner: String
        var epoch: UInt64
    }

    package func encode(to encoder: any Encoder) throws {
        var fields = encoder.container(keyedBy: Key.self)
        try fields.encode(Self.version, forKey: .version)
        try fields.encode(site.description, forKey: .site)
        try fields.encode(spent.number, forKey: .spent)
        try fields.encode(reigned.number, forKey: .reigned)
        try fields.encode(
            sources.map {
                StoredSource(site: $0.site.description, reign: $0.reign.number, phase: $0.phase.rawValue)
            }, forKey: .sources)
        try fields.encode(
            retentions.sorted { ($0.epoch, $0.owner) < ($1.epoch, $1.owner) }.map {
                StoredReign(owner: $0.owner.description, epoch: $0.epoch.number)
            }, forKey: .retentions)
        func put(_ name: String, _ epoch: Epoch, owner: SiteID? = nil) throws {
            try fields.encode(name, forKey: .role)
            try fields.encode(epoch.number, forKey: .epoch)
            try fields.encodeIfPresent(owner?.description, forKey: .owner)
        }
        func put(_ grant: Grant) throws {
            try fields.encode(grant.heir.owner.description, forKey: .owner)
            try fields.encode(grant.heir.epoch.number, forKey: .wanted)
            try fields.encode(grant.finalSequence.number, forKey: .finalSequence)
        }
        switch role {
        case .following(let reign): try put("following", reign.epoch, owner: reign.owner)
        case .acquiring(let reign, let wanted):
            try put("acquiring", reign.epoch, owner: reign.owner)
            try fields.encode(wanted.number, forKey: .wanted)
        case .receiving(let reign, let grant):
            try put("receiving", reign.epoch, owner: reign.owner)
            try fields.encode(grant.heir.epoch.number, forKey: .wanted)
            try fields.encode(grant.finalSequence.number, forKey: .finalSequence)
        case .declining(let reign, let declined):
            try put("declining", reign.epoch, owner: reign.owner)
            try fields.encode(declined.number, forKey: .wanted)
        case .owning(let epoch, let holder):
            try put("owning", epoch)
            try fields.encodeIfPresent(holder?.node, forKey: .node)
            try fields.encodeIfPresent(holder?.pod, forKey: .pod)
        case .sealing(let epoch, let heir):
            try put("sealing", epoch, owner: heir.owner)
            try fields.encode(heir.epoch.number, forKey: .wanted)
        case .sealed(let epoch, let grant):
            try put("sealed", epoch)
            try put(grant)
        case .reclaiming(let epoch, let grant):
            try put("reclaiming", epoch)
            try put(grant)
        case .retired(let reign): try put("retired", reign.epoch, owner: reign.owner)
        case .fenced(let epoch, let by, let owner):
            try put("fenced", epoch, owner: owner)
            try fields.encode(by.number, forKey: .by)
        }
    }

    package init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: Key.self)
        let version = try fields.decode(Int.self, forKey: .version)
        guard version == Self.version else {
            throw HandoffError.unreadableRecord(
                "it has version \(version), this release knows \(Self.version): use the release that wrote it"
            )
        }
        func site(_ text: String) throws -> SiteID {
            guard let site = SiteID(text) else {
                throw HandoffError.unreadableRecord("'\(text)' is no name of a site")
            }
            return site
        }
        func epoch(_ key: Key) throws -> Epoch { Epoch(try fields.decode(UInt64.self, forKey: key)) }
        func owner() throws -> SiteID { try site(try fields.decode(String.self, forKey: .owner)) }
        func reign() throws -> Reign { Reign(try owner(), try epoch(.epoch)) }
        let own = try site(try fields.decode(String.self, forKey: .site))
        func grant(to heir: SiteID) throws -> Grant {
            Grant(
                heir: Reign(heir, try epoch(.wanted)),
                finalSequence: SequenceNumber(try fields.decode(Int64.self, forKey: .finalSequence)))
        }
        let name = try fields.decode(String.self, forKey: .role)
        let role: Role
        switch name {
        case "following": role = .following(try reign())
        case "acquiring": role = .acquiring(from: try reign(), wanted: try epoch(.wanted))
        case "receiving": role = .receiving(from: try reign(), grant: try grant(to: own))
        case "declining": role = .declining(from: try reign(), declined: try epoch(.wanted))
        case "owning":
            let node = try fields.decodeIfPresent(String.self, forKey: .node)
            let pod = try fields.decodeIfPresent(String.self, forKey: .pod)
            role = .owning(try epoch(.epoch), holder: node.map { Holder(node: $0, pod: pod) })
        case "sealing": role = .sealing(try epoch(.epoch), heir: Reign(try owner(), try epoch(.wanted)))
        case "sealed": role = .sealed(try epoch(.epoch), grant: try grant(to: try owner()))
        case "reclaiming": role = .reclaiming(try epoch(.epoch), grant: try grant(to: try owner()))
        case "retired": role = .retired(try reign())
        case "fenced":
            let overruler = try fields.decodeIfPresent(String.self, forKey: .owner)
            role = .fenced(try epoch(.epoch), by: try epoch(.by), owner: try overruler.map { try site($0) })
        default: throw HandoffError.unreadableRecord("there is no role '\(name)'")
        }
        let sources = try fields.decode([StoredSource].self, forKey: .sources).map {
            guard let phase = Source.Phase(rawValue: $0.phase) else {
                throw HandoffError.unreadableRecord("there is no phase '\($0.phase)'")
            }
            return Source(site: try site($0.site), reign: Epoch($0.reign), phase: phase)
        }
        let retentions = try fields.decode([StoredReign].self, forKey: .retentions).map {
            Reign(try site($0.owner), Epoch($0.epoch))
        }
        self.init(
            site: own, role: role, spent: try epoch(.spent), reigned: try epoch(.reigned), sources: sources,
            retentions: Set(retentions))
    }
}
