import Foundation
import PeerProtocol
import VolumeModel

@testable import Handoff
@testable import Site

/// Records and messages of a hand-off between three sites, to begin with.
enum HandoffSamples {
    static let here = SiteID("london")!
    static let sites = ["london", "sydney", "tokyo"].compactMap { SiteID($0) }
    static let volume = VolumeID(randomHigh: 1, randomLow: 2)

    /// One record of each role, with everything in it.
    static let records: [HeadRecord] = {
        let (sydney, tokyo) = (sites[1], sites[2])
        let theirs = Reign(sydney, Epoch(4))
        let given = Grant(heir: Reign(sydney, Epoch(5)), finalSequence: SequenceNumber(9))
        let taken = Grant(heir: Reign(here, Epoch(5)), finalSequence: SequenceNumber(9))
        let roles: [(Role, UInt64)] = [
            (.following(theirs), 4), (.acquiring(from: theirs, wanted: Epoch(5)), 4),
            (.receiving(from: theirs, grant: taken), 4), (.declining(from: theirs, declined: Epoch(5)), 5),
            (.owning(Epoch(4), holder: nil), 4),
            (.owning(Epoch(4), holder: Holder(node: "n1", pod: "db-0")), 4),
            (.sealing(Epoch(4), heir: given.heir), 5), (.sealed(Epoch(4), grant: given), 5),
            (.reclaiming(Epoch(4), grant: given), 5), (.retired(theirs), 4),
            (.fenced(Epoch(2), by: Epoch(4), owner: sydney), 4),
            (.fenced(Epoch(2), by: Epoch(4), owner: nil), 4),
        ]
        return roles.map { role, spent in
            HeadRecord(
                site: here, role: role, spent: Epoch(spent), headReign: Epoch(2), handover: Epoch(2),
                handedTo: tokyo, takenBack: [Epoch(3)], doubtedThrough: .first,
                sources: [
                    Source(
                        site: tokyo, reign: Epoch(2), phase: .fetching,
                        claim: Source.Claim(after: Epoch(1), through: SequenceNumber(3)))
                ],
                retentions: [
                    Retention(
                        grant: Grant(heir: Reign(tokyo, Epoch(3)), finalSequence: SequenceNumber(1)),
                        headReign: .first, mayHaveChanged: true, unknownAfter: Epoch(2))
                ], divergences: [Divergence(epoch: Epoch(1), headReign: .first)])
        }
    }()

    /// Every message that a site can send about these epochs.
    static func messages() throws -> [[UInt8]] {
        let (sydney, tokyo) = (sites[1], sites[2])
        var actions: [Action] = []
        for epoch in [UInt64(2), 4, 5, 6, 1 << 40, Epoch.highest.number] {
            let reign = Reign(sydney, Epoch(epoch))
            let mine = Reign(here, Epoch(epoch))
            actions += [
                .requestSeal(of: Reign(here, Epoch(4)), wanted: Epoch(epoch)),
                .grantSeal(after: Epoch(4), Grant(heir: mine, finalSequence: SequenceNumber(9))),
                .requestDecline(heir: mine, after: Epoch(4)), .tellDeclined(Epoch(epoch), to: here),
                .announce(reign, to: here), .announce(Reign(tokyo, Epoch(epoch)), to: here),
                .claim(from: here, heir: reign, after: Epoch(2), through: SequenceNumber(3)),
                .answerClaim(of: mine, isKept: epoch % 2 == 0),
                .requestRelease(of: here, reign: Epoch(epoch)), .confirmRelease(to: mine),
            ]
        }
        var messages = actions.compactMap { HandoffCoding.message(of: $0, volume: volume)?.1 }
        let request = messages[0]
        let refusals: [SealRefusal] = [
            .inUse(Holder(node: "n1", pod: nil)), .inUse(Holder(node: "n1", pod: nil, attachment: "")),
            .reigning(Reign(tokyo, Epoch(6))),
            .spent(through: Epoch(7)),
            .promised(to: Reign(tokyo, Epoch(6))), .overruled(by: Epoch(9)), .tooManyRetentions(limit: 64),
        ]
        messages += refusals.map { HandoffCoding.message(of: $0, to: request, volume: volume) }
        return try messages.map { try $0.serializedBytes() }
    }

    static func stored(_ record: HeadRecord) throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return try encoder.encode(record)
    }

    static func read(_ data: Data) throws -> HeadRecord {
        try JSONDecoder().decode(HeadRecord.self, from: data)
    }
}
