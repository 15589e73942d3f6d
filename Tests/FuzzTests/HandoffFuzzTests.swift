import EngineTestSupport
import Foundation
import PeerProtocol
import Testing
import VolumeModel

@testable import Handoff
@testable import Site

/// The stored record and the messages of a hand-off, damaged; and the machine under whatever can still be read.
@Suite struct HandoffFuzzTests {
    private static let here = SiteID("london")!
    private static let sites = ["london", "sydney", "tokyo"].compactMap { SiteID($0) }
    private static let volume = VolumeID(randomHigh: 1, randomLow: 2)

    // MARK: the record

    /// One record of each role, with everything in it.
    private static func records() -> [HeadRecord] {
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
                site: here, role: role, spent: Epoch(spent), headReign: Epoch(2),
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
    }

    private static func stored(_ record: HeadRecord) throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return try encoder.encode(record)
    }

    private static func read(_ data: Data) throws -> HeadRecord {
        try JSONDecoder().decode(HeadRecord.self, from: data)
    }

    @Test func damagedRecordsAreErrorsOrOtherRecords() throws {
        var mutator = Mutator(11)
        let inputs = try Self.records().map { Array(try Self.stored($0)) }
        for (record, input) in zip(Self.records(), inputs) { #expect(try Self.read(Data(input)) == record) }
        var readable = 0
        for round in 0..<4000 * Mutator.factor {
            var bytes = mutator.damaged(inputs)
            // Half of the time only a number changes: what is still JSON comes further.
            if round % 2 == 0, let input = mutator.generator.element(of: inputs) {
                bytes = Self.withAnotherNumber(input, &mutator.generator)
            }
            guard let record = try? Self.read(Data(bytes)) else { continue }
            readable += 1
            #expect(try Self.read(Self.stored(record)) == record, "round \(round)")
            _ = record.actionsAfterRestart()
        }
        #expect(readable > 0)
    }

    private static func withAnotherNumber(_ bytes: [UInt8], _ generator: inout Generator) -> [UInt8] {
        let digits = bytes.indices.filter { (0x30...0x39).contains(bytes[$0]) }
        guard let position = generator.element(of: digits) else { return bytes }
        let numbers = [
            "0", "1", "2", "5", "6", "4611686018427387904", "4611686018427387905", "9223372036854775807",
            "18446744073709551615", "18446744073709551616", "-1", "1e300", "null", "true",
        ]
        let number = generator.element(of: numbers) ?? "0"
        return Array(bytes[..<position]) + Array(number.utf8) + Array(bytes[(position + 1)...])
    }

    // MARK: messages

    /// Every message that a site can send about these epochs.
    private static func messages() throws -> [[UInt8]] {
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
        let request = try #require(HandoffCoding.message(of: actions[0], volume: volume)?.1)
        let refusals: [SealRefusal] = [
            .inUse(Holder(node: "n1", pod: nil)), .inUse(Holder(node: "n1", pod: nil, attachment: "")),
            .reigning(Reign(tokyo, Epoch(6))),
            .spent(through: Epoch(7)),
            .promised(to: Reign(tokyo, Epoch(6))), .overruled(by: Epoch(9)), .tooManyRetentions(limit: 64),
        ]
        messages += refusals.map { HandoffCoding.message(of: $0, to: request, volume: volume) }
        return try messages.map { try $0.serializedBytes() }
    }

    private static func wishes(_ generator: inout Generator) -> Event {
        let holder = Holder(node: "n\(generator.next(below: 3))", pod: nil)
        let epoch = generator.element(of: [Epoch(4), Epoch(5), Epoch(6), .highest, Epoch(.max)]) ?? .first
        let site = generator.element(of: Self.sites) ?? Self.here
        let sequence = SequenceNumber(generator.element(of: [0, 9, 10, -1, .max, .min]) ?? 0)
        let events: [Event] = [
            .prepare(Reign(site, epoch)), .takeOver, .abort, .leave, .forgetDivergence(epoch),
            .attach(holder),
            .attach(Holder(node: holder.node, pod: nil, attachment: "W")),
            .unmounted(node: holder.node), .detach(node: holder.node), .evict(node: holder.node),
            .admit(Reader(member: Self.here, node: holder.node)),
            .tailRead(heir: Reign(site, epoch), finalSequence: sequence),
            .caughtUp(wanted: epoch, sequence: sequence), .flattened(reign: epoch),
            .divergenceKept(under: epoch),
            .overrule(
                Epoch(4), wanted: Epoch.takeover(after: epoch, salt: 7) ?? epoch,
                base: .followed(through: sequence)),
            .overrule(epoch, wanted: epoch, base: .kept(headReign: Epoch(2))),
        ]
        return generator.element(of: events) ?? .takeOver
    }

    /// A peer may say anything, in any order. The machine refuses it or takes it, and what it stores can be read.
    @Test func whateverPeersSayTheRecordStaysOneThatCanBeRead() throws {
        var mutator = Mutator(12)
        let inputs = try Self.messages()
        let peers = Self.sites.filter { $0 != Self.here }
        var (decoded, accepted) = (0, 0)
        for round in 0..<300 * Mutator.factor {
            let start = mutator.generator.element(of: Self.records())
            var record = try #require(start)
            for step in 0..<40 {
                var event: Event?
                if mutator.generator.next(below: 3) == 0 {
                    event = Self.wishes(&mutator.generator)
                } else {
                    let isWhole = mutator.generator.next(below: 2) == 0
                    let bytes =
                        isWhole ? mutator.generator.element(of: inputs) ?? [] : mutator.damaged(inputs)
                    let message = try? Godwit_Peer_V1_HandoffMessage(serializedBytes: bytes)
                    let peer = mutator.generator.element(of: peers) ?? Self.here
                    event = message.flatMap {
                        try? HandoffCoding.event(of: $0, from: peer, self: Self.here)
                    }
                }
                guard let event else { continue }
                decoded += 1
                let before = record
                guard (try? record.apply(event)) != nil else {
                    #expect(record == before, "round \(round) step \(step): refused, but changed")
                    continue
                }
                accepted += 1
                guard record != before else { continue }
                let again = Result { try Self.read(Self.stored(record)) }
                #expect(
                    (try? again.get()) == record, "round \(round) step \(step): \(event), \(before), \(again)"
                )
                _ = record.actionsAfterRestart()
            }
        }
        #expect(accepted > 0 && accepted < decoded)
    }
}
