internal import VolumeModel

/// The stored form: one flat object, so that it reads well as a custom resource and changes of it can
/// be seen. A higher version is refused rather than guessed at.
extension HeadRecord: Codable {
    package static let storedVersion = 1

    private enum Key: String, CodingKey {
        case version, site, spent, headReign, sources, retentions, divergences, readers
        case role, owner, epoch, wanted, declined, heir, heirEpoch, finalSequence, overruledBy, node, pod
        case attachment, handover, handedTo, takenBack, doubtedThrough, grantHandover
    }

    private enum RoleName: String {
        case following, acquiring, receiving, declining, owning, sealing, sealed, reclaiming, retired, fenced
    }

    package init(from decoder: any Decoder) throws {
        do {
            self = try Fields(decoder.container(keyedBy: Key.self)).record()
            try validate()
        } catch let error as DecodingError {
            throw HandoffError.unreadableRecord(Self.reason(error))
        } catch let error as HandoffError {
            throw error
        } catch {
            throw HandoffError.unreadableRecord("a list is malformed: \(error)")
        }
    }

    private static func reason(_ error: DecodingError) -> String {
        func path(_ context: DecodingError.Context) -> String {
            context.codingPath.map(\.stringValue).joined(separator: ".")
        }
        return switch error {
        case .keyNotFound(let key, _): "\(key.stringValue) is missing"
        case .valueNotFound(_, let context): "\(path(context)) is empty"
        case .typeMismatch(_, let context): "\(path(context)) is of the wrong type"
        case .dataCorrupted(let context): "\(path(context)): \(context.debugDescription)"
        @unknown default: String(describing: error)
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var fields = encoder.container(keyedBy: Key.self)
        try fields.encode(Self.storedVersion, forKey: .version)
        try fields.encode(site.description, forKey: .site)
        try fields.encode(spent.number, forKey: .spent)
        try fields.encode(headReign.number, forKey: .headReign)
        try fields.encodeIfPresent(handover?.number, forKey: .handover)
        try fields.encodeIfPresent(handedTo?.description, forKey: .handedTo)
        if !takenBack.isEmpty { try fields.encode(takenBack.map(\.number), forKey: .takenBack) }
        try fields.encodeIfPresent(doubtedThrough?.number, forKey: .doubtedThrough)
        try encodeRole(&fields)
        try fields.encode(sources.map(StoredSource.init), forKey: .sources)
        try fields.encode(retentions.map(StoredRetention.init), forKey: .retentions)
        if !divergences.isEmpty {
            try fields.encode(divergences.map(StoredDivergence.init), forKey: .divergences)
        }
        if !readers.isEmpty { try fields.encode(readers.map(StoredReader.init), forKey: .readers) }
    }

    private func encodeRole(_ fields: inout KeyedEncodingContainer<Key>) throws {
        func put(_ name: RoleName, _ epoch: Epoch, owner: SiteID? = nil) throws {
            try fields.encode(name.rawValue, forKey: .role)
            try fields.encode(epoch.number, forKey: .epoch)
            try fields.encodeIfPresent(owner?.description, forKey: .owner)
        }
        func put(heir: Reign) throws {
            try fields.encode(heir.owner.description, forKey: .heir)
            try fields.encode(heir.epoch.number, forKey: .heirEpoch)
        }
        func put(rest grant: Grant) throws {
            try fields.encode(grant.finalSequence.number, forKey: .finalSequence)
            try fields.encodeIfPresent(grant.handover?.number, forKey: .grantHandover)
        }
        switch role {
        case .following(let reign): try put(.following, reign.epoch, owner: reign.owner)
        case .retired(let reign): try put(.retired, reign.epoch, owner: reign.owner)
        case .acquiring(let from, let wanted):
            try put(.acquiring, from.epoch, owner: from.owner)
            try fields.encode(wanted.number, forKey: .wanted)
        case .receiving(let from, let grant):
            try put(.receiving, from.epoch, owner: from.owner)
            try fields.encode(grant.heir.epoch.number, forKey: .wanted)
            try put(rest: grant)
        case .declining(let from, let declined):
            try put(.declining, from.epoch, owner: from.owner)
            try fields.encode(declined.number, forKey: .declined)
        case .owning(let epoch, let holder):
            try put(.owning, epoch)
            try fields.encodeIfPresent(holder?.node, forKey: .node)
            try fields.encodeIfPresent(holder?.pod, forKey: .pod)
            try fields.encodeIfPresent(holder?.attachment, forKey: .attachment)
        case .sealing(let epoch, let heir):
            try put(.sealing, epoch)
            try put(heir: heir)
        case .sealed(let epoch, let grant), .reclaiming(let epoch, let grant):
            let isSealed = if case .sealed = role { true } else { false }
            try put(isSealed ? .sealed : .reclaiming, epoch)
            try put(heir: grant.heir)
            try put(rest: grant)
        case .fenced(let epoch, let by, let owner):
            try put(.fenced, epoch, owner: owner)
            try fields.encode(by.number, forKey: .overruledBy)
        }
    }

    // MARK: reading

    private struct Fields {
        let container: KeyedDecodingContainer<Key>

        init(_ container: KeyedDecodingContainer<Key>) { self.container = container }

        func record() throws -> HeadRecord {
            let version: Int = try number(.version)
            guard version == storedVersion else {
                throw corrupt(.version, "\(version) is unknown; this program reads \(storedVersion)")
            }
            let site = try self.site(.site)
            return HeadRecord(
                site: site, role: try role(at: site), spent: try epoch(.spent),
                headReign: try epoch(.headReign), handover: try epochIfPresent(.handover),
                handedTo: container.contains(.handedTo) ? try self.site(.handedTo) : nil,
                takenBack: try container.decodeIfPresent([UInt64].self, forKey: .takenBack)?.map { Epoch($0) }
                    ?? [],
                doubtedThrough: try epochIfPresent(.doubtedThrough),
                sources: try container.decode([StoredSource].self, forKey: .sources).map { try $0.source },
                retentions: try container.decode([StoredRetention].self, forKey: .retentions).map {
                    try $0.retention
                },
                divergences: try container.decodeIfPresent([StoredDivergence].self, forKey: .divergences)?
                    .map(\.divergence) ?? [],
                readers: try container.decodeIfPresent([StoredReader].self, forKey: .readers)?
                    .map { try $0.reader } ?? []
            )
        }

        private func role(at site: SiteID) throws -> Role {
            let text = try container.decode(String.self, forKey: .role)
            guard let name = RoleName(rawValue: text) else { throw corrupt(.role, "no such role") }
            let epoch = try epoch(.epoch)
            switch name {
            case .following: return .following(Reign(try self.site(.owner), epoch))
            case .retired: return .retired(Reign(try self.site(.owner), epoch))
            case .acquiring:
                return .acquiring(from: Reign(try self.site(.owner), epoch), wanted: try self.epoch(.wanted))
            case .receiving:
                let grant = try grant(for: Reign(site, try self.epoch(.wanted)))
                return .receiving(from: Reign(try self.site(.owner), epoch), grant: grant)
            case .declining:
                let from = Reign(try self.site(.owner), epoch)
                return .declining(from: from, declined: try self.epoch(.declined))
            case .owning: return .owning(epoch, holder: try holder())
            case .sealing: return .sealing(epoch, heir: try heir())
            case .sealed: return .sealed(epoch, grant: try grant(for: try heir()))
            case .reclaiming: return .reclaiming(epoch, grant: try grant(for: try heir()))
            case .fenced:
                let owner = container.contains(.owner) ? try self.site(.owner) : nil
                return .fenced(epoch, by: try self.epoch(.overruledBy), owner: owner)
            }
        }

        private func holder() throws -> Holder? {
            let pod = try container.decodeIfPresent(String.self, forKey: .pod)
            // Of earlier releases, which did not tell: as if it were mounted only.
            let attachment = try container.decodeIfPresent(String.self, forKey: .attachment)
            guard let node = try container.decodeIfPresent(String.self, forKey: .node) else {
                guard pod == nil else { throw corrupt(.pod, "a pod without a node") }
                guard attachment == nil else { throw corrupt(.attachment, "attached to no node") }
                return nil
            }
            return Holder(node: node, pod: pod, attachment: attachment)
        }

        private func heir() throws -> Reign { Reign(try site(.heir), try epoch(.heirEpoch)) }

        private func grant(for heir: Reign) throws -> Grant {
            Grant(
                heir: heir, finalSequence: SequenceNumber(try number(.finalSequence)),
                handover: try epochIfPresent(.grantHandover))
        }

        /// Earlier releases wrote none.
        private func epochIfPresent(_ key: Key) throws -> Epoch? {
            container.contains(key) ? try epoch(key) : nil
        }

        private func epoch(_ key: Key) throws -> Epoch {
            Epoch(try number(key))
        }

        /// A decoder may report a number that does not fit in its own way, without the field's name.
        private func number<Number: FixedWidthInteger & Decodable>(_ key: Key) throws -> Number {
            do {
                return try container.decode(Number.self, forKey: key)
            } catch let error as DecodingError {
                throw error
            } catch {
                throw corrupt(key, "not a whole number in range")
            }
        }

        private func site(_ key: Key) throws -> SiteID {
            guard let site = SiteID(try container.decode(String.self, forKey: key)) else {
                throw corrupt(key, "not the name of a site")
            }
            return site
        }

        private func corrupt(_ key: Key, _ reason: String) -> DecodingError {
            DecodingError.dataCorruptedError(forKey: key, in: container, debugDescription: reason)
        }
    }
}

private struct StoredSource: Codable {
    let site: String
    let reign: UInt64
    let phase: String
    let claimAfter: UInt64?
    let claimThrough: Int64?

    init(_ source: Source) {
        site = source.site.description
        reign = source.reign.number
        phase = source.phase.rawValue
        claimAfter = source.claim?.after.number
        claimThrough = source.claim?.through.number
    }

    var source: Source {
        get throws {
            guard let site = SiteID(site), let phase = Source.Phase(rawValue: phase) else {
                throw HandoffError.unreadableRecord("a source is malformed")
            }
            var source = Source(site: site, reign: Epoch(reign), phase: phase)
            if let claimAfter, let claimThrough {
                source.claim = Source.Claim(
                    after: Epoch(claimAfter), through: SequenceNumber(claimThrough))
            }
            return source
        }
    }
}

private struct StoredRetention: Codable {
    let heir: String
    let heirEpoch: UInt64
    let finalSequence: Int64
    let headReign: UInt64
    let mayHaveChanged: Bool?
    let unknownAfter: UInt64?
    let grantHandover: UInt64?

    init(_ retention: Retention) {
        heir = retention.grant.heir.owner.description
        heirEpoch = retention.grant.heir.epoch.number
        finalSequence = retention.grant.finalSequence.number
        headReign = retention.headReign.number
        mayHaveChanged = retention.mayHaveChanged ? true : nil
        unknownAfter = retention.unknownAfter?.number
        grantHandover = retention.grant.handover?.number
    }

    var retention: Retention {
        get throws {
            guard let heir = SiteID(heir) else {
                throw HandoffError.unreadableRecord("a retention is malformed")
            }
            let grant = Grant(
                heir: Reign(heir, Epoch(heirEpoch)), finalSequence: SequenceNumber(finalSequence),
                handover: grantHandover.map { Epoch($0) })
            return Retention(
                grant: grant, headReign: Epoch(headReign), mayHaveChanged: mayHaveChanged ?? false,
                unknownAfter: unknownAfter.map { Epoch($0) })
        }
    }
}

private struct StoredDivergence: Codable {
    let epoch: UInt64
    let headReign: UInt64

    init(_ divergence: Divergence) {
        epoch = divergence.epoch.number
        headReign = divergence.headReign.number
    }

    var divergence: Divergence { Divergence(epoch: Epoch(epoch), headReign: Epoch(headReign)) }
}

private struct StoredReader: Codable {
    let member: String
    let node: String

    init(_ reader: Reader) {
        member = reader.member.description
        node = reader.node
    }

    var reader: Reader {
        get throws {
            guard let member = SiteID(member) else {
                throw HandoffError.unreadableRecord("a reader is malformed")
            }
            return Reader(member: member, node: node)
        }
    }
}
