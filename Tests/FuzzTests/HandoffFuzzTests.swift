import EngineTestSupport
import Foundation
import PeerProtocol
import Testing
import VolumeModel

@testable import Handoff
@testable import Site

/// The stored record and the messages of a hand-off, damaged; and the machine under whatever can still be read.
@Suite struct HandoffFuzzTests {
    private typealias Samples = HandoffSamples

    // MARK: the record

    @Test func damagedRecordsAreErrorsOrOtherRecords() throws {
        var mutator = Mutator(11)
        let inputs = try Samples.records.map { Array(try Samples.stored($0)) }
        for (record, input) in zip(Samples.records, inputs) {
            #expect(try Samples.read(Data(input)) == record)
        }
        var readable = 0
        for round in 0..<4000 * Mutator.factor {
            var bytes = mutator.damaged(inputs)
            // Half of the time only a number changes: what is still JSON comes further.
            if round % 2 == 0, let input = mutator.generator.element(of: inputs) {
                bytes = Self.withAnotherNumber(input, &mutator.generator)
            }
            guard let record = try? Samples.read(Data(bytes)) else { continue }
            readable += 1
            #expect(try Samples.read(Samples.stored(record)) == record, "round \(round)")
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

    private static func wishes(_ generator: inout Generator) -> Event {
        let holder = Holder(node: "n\(generator.next(below: 3))", pod: nil)
        let epoch = generator.element(of: [Epoch(4), Epoch(5), Epoch(6), .highest, Epoch(.max)]) ?? .first
        let site = generator.element(of: Samples.sites) ?? Samples.here
        let sequence = SequenceNumber(generator.element(of: [0, 9, 10, -1, .max, .min]) ?? 0)
        let events: [Event] = [
            .prepare(Reign(site, epoch)), .takeOver, .abort, .leave, .forgetDivergence(epoch),
            .attach(holder),
            .attach(Holder(node: holder.node, pod: nil, attachment: "W")),
            .unmounted(node: holder.node), .detach(node: holder.node), .evict(node: holder.node),
            .admit(Reader(member: Samples.here, node: holder.node)),
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
        let inputs = try Samples.messages()
        let peers = Samples.sites.filter { $0 != Samples.here }
        var (decoded, accepted) = (0, 0)
        for round in 0..<300 * Mutator.factor {
            let start = mutator.generator.element(of: Samples.records)
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
                    let peer = mutator.generator.element(of: peers) ?? Samples.here
                    event = message.flatMap {
                        try? HandoffCoding.event(of: $0, from: peer, self: Samples.here)
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
                let again = Result { try Samples.read(Samples.stored(record)) }
                #expect(
                    (try? again.get()) == record, "round \(round) step \(step): \(event), \(before), \(again)"
                )
                _ = record.actionsAfterRestart()
            }
        }
        #expect(accepted > 0 && accepted < decoded)
    }
}
