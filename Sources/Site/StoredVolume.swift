internal import Handoff
internal import Hydration
package import VolumeModel

/// The stored form of a record, in whatever store: plain text and numbers, checked when read.
package struct StoredVolume: Codable, Hashable, Sendable {
    var name: String
    var capacity: UInt64
    var inodeLimit: UInt64
    var parameters: [String: String]
    var head: HeadRecord
    var headNumber: UInt64
    var retainedHeads: [String: UInt64]
    var divergentHeads: [String: UInt64]?
    var copies: [String: KeptCopy]?
    var reading: StoredReadHead?
    var lastHeadNumber: UInt64
    var sharedWith: [String]
    var followedFrom: String?
    var hydration: HydrationPolicy
    var claim: ForeignClaim?
    var isGuest: Bool?

    package init(_ record: VolumeRecord) {
        name = record.name
        capacity = record.limits.byteCount
        inodeLimit = record.limits.inodeCount
        parameters = record.parameters
        head = record.head
        headNumber = record.headNumber
        retainedHeads = Dictionary(
            uniqueKeysWithValues: record.retainedHeads.map { (String($0.key.number), $0.value) })
        divergentHeads =
            record.divergentHeads.isEmpty
            ? nil
            : Dictionary(
                uniqueKeysWithValues: record.divergentHeads.map { (String($0.key.number), $0.value) })
        copies =
            record.copies.isEmpty
            ? nil
            : Dictionary(uniqueKeysWithValues: record.copies.map { (String($0.key.number), $0.value) })
        reading = record.reading.map(StoredReadHead.init)
        lastHeadNumber = record.lastHeadNumber
        sharedWith = record.sharedWith.map(\.description).sorted()
        followedFrom = record.followedFrom?.description
        hydration = record.hydration
        claim = record.claim
        isGuest = record.isGuest ? true : nil
    }

    package func record(id: VolumeID) throws -> VolumeRecord {
        func byEpoch<Value>(_ stored: [String: Value]) throws -> [Epoch: Value] {
            var numbers: [Epoch: Value] = [:]
            for (epoch, number) in stored {
                guard let epoch = UInt64(epoch) else {
                    throw RegistryError.malformed(id, "an epoch that is no number")
                }
                numbers[Epoch(epoch)] = number
            }
            return numbers
        }
        var record = VolumeRecord(
            id: id, name: name, limits: VolumeLimits(byteCount: capacity, inodeCount: inodeLimit),
            parameters: parameters, head: head,
            headNumber: headNumber, retainedHeads: try byEpoch(retainedHeads), lastHeadNumber: lastHeadNumber,
            sharedWith: Set(sharedWith.compactMap { SiteID($0) }),
            followedFrom: followedFrom.flatMap { SiteID($0) })
        record.divergentHeads = try byEpoch(divergentHeads ?? [:])
        record.copies = try byEpoch(copies ?? [:])
        record.lastHeadNumber = max(
            record.lastHeadNumber, record.divergentHeads.values.max() ?? 0,
            record.copies.values.map(\.number).max() ?? 0, reading?.number ?? 0)
        record.reading = try reading?.head(of: id)
        guard record.limits.isCountable, record.lastHeadNumber < UInt64(Int64.max) else {
            throw RegistryError.malformed(id, "a number that cannot be counted on from")
        }
        record.hydration = hydration
        record.claim = claim
        record.isGuest = isGuest ?? false
        return record
    }
}

struct StoredReadHead: Codable, Hashable {
    var owner: String
    var epoch: UInt64
    var number: UInt64

    init(_ head: ReadHead) {
        (owner, epoch, number) = (head.reign.owner.description, head.reign.epoch.number, head.number)
    }

    func head(of id: VolumeID) throws -> ReadHead {
        guard let owner = SiteID(owner) else {
            throw RegistryError.malformed(id, "what is read of it here is no site's")
        }
        return ReadHead(of: Reign(owner, Epoch(epoch)), number: number)
    }
}
