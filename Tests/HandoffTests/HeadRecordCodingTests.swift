import Foundation
import Testing
import VolumeModel

@testable import Handoff

@Suite struct HeadRecordCodingTests {
    private func encode(_ record: HeadRecord) throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return try encoder.encode(record)
    }

    private func decode(_ text: String) throws -> HeadRecord {
        try JSONDecoder().decode(HeadRecord.self, from: Data(text.utf8))
    }

    /// One with everything in it.
    private var rich: HeadRecord {
        HeadRecord(
            site: london, role: .sealed(Epoch(4), grant: HandoffTableTests.given),
            spent: Epoch(5), headReign: Epoch(3),
            sources: [Source(site: tokyo, reign: Epoch(3), phase: .fetching)],
            retentions: [
                Retention(
                    grant: Grant(heir: Reign(tokyo, Epoch(2)), finalSequence: SequenceNumber(1)),
                    headReign: .first)
            ])
    }

    @Test func everyRoleIsReadAsItWasWritten() throws {
        var records = RoleKind.allCases.map(HandoffTableTests.record) + [rich]
        for holder in [
            Holder(node: "n1", pod: nil), Holder(node: "n1", pod: "db-0"),
            Holder(node: "n1", pod: nil, attachment: ""), Holder(node: "n1", pod: "db-0", attachment: "W"),
        ] {
            records.append(
                HeadRecord(
                    site: london, role: .owning(.first, holder: holder), spent: .first, headReign: .first))
        }
        records.append(
            HeadRecord(
                site: london, role: .owning(.first, holder: nil), spent: .first, headReign: .first,
                readers: [
                    Reader(member: london, node: "n1"), Reader(member: SiteID("n2.london")!, node: "N2"),
                ]))
        records.append(
            HeadRecord(
                site: london, role: .fenced(.first, by: Epoch(9), owner: nil),
                spent: Epoch(9), headReign: .first))
        for record in records {
            let read = try JSONDecoder().decode(HeadRecord.self, from: encode(record))
            #expect(read == record)
        }
    }

    /// Records on disk outlive programs: this text must stay readable.
    @Test func storedFormIsThis() throws {
        let text = """
            {"epoch":4,"finalSequence":9,"headReign":3,"heir":"sydney","heirEpoch":5,\
            "retentions":[{"finalSequence":1,"headReign":1,"heir":"tokyo","heirEpoch":2}],"role":"sealed","site":"london",\
            "sources":[{"phase":"fetching","reign":3,"site":"tokyo"}],"spent":5,"version":1}
            """
        #expect(try String(decoding: encode(rich), as: UTF8.self) == text)
        #expect(try decode(text) == rich)
    }

    /// Earlier releases wrote no attachment: it is as if the volume were mounted only.
    @Test func aHolderOfAnEarlierReleaseIsOneThatMountedIt() throws {
        let fields =
            #""headReign":1,"retentions":[],"role":"owning","site":"london","sources":[],"spent":1,"version":1"#
        let old = try decode(#"{"epoch":1,"node":"n1",\#(fields)}"#)
        #expect(old.role == .owning(.first, holder: Holder(node: "n1", pod: nil)))
        #expect(throws: HandoffError.self) { try decode(#"{"epoch":1,"attachment":"W",\#(fields)}"#) }
    }

    @Test func everyCutIsAnError() throws {
        let text = try String(decoding: encode(rich), as: UTF8.self)
        for length in 0..<text.count {
            #expect(throws: (any Error).self) { try decode(String(text.prefix(length))) }
        }
    }

    @Test func everyMissingFieldIsNamed() throws {
        for record in RoleKind.allCases.map(HandoffTableTests.record) + [rich] {
            let whole = try #require(try JSONSerialization.jsonObject(with: encode(record)) as? [String: Any])
            for field in whole.keys {
                // The owner of a fenced site may be unknown.
                if field == "owner", case .fenced = record.role { continue }
                var rest = whole
                rest[field] = nil
                let data = try JSONSerialization.data(withJSONObject: rest)
                let error = #expect(throws: HandoffError.self) {
                    try JSONDecoder().decode(HeadRecord.self, from: data)
                }
                #expect(
                    error.map { "\($0)".contains(field) } ?? false, "\(field): \(String(describing: error))")
            }
        }
    }

    @Test(arguments: [
        ("\"version\":1", "\"version\":2", "version: 2 is unknown"),
        ("\"version\":1", "\"version\":\"1\"", "version is of the wrong type"),
        ("\"role\":\"sealed\"", "\"role\":\"king\"", "role: no such role"),
        ("\"site\":\"london\"", "\"site\":\"../etc\"", "site: not the name of a site"),
        ("\"site\":\"london\"", "\"site\":\"sydney\"", "sealed for itself"),
        ("\"spent\":5", "\"spent\":4", "epoch 5 is promised but not spent"),
        ("\"spent\":5", "\"spent\":3", "epoch 4 is above 3, to which"),
        ("\"spent\":5", "\"spent\":-5", "spent: not a whole number"),
        ("\"spent\":5", "\"spent\":18446744073709551615", "is beyond"),
        ("\"epoch\":4", "\"epoch\":0", "epochs begin at 1"),
        ("\"epoch\":4", "\"epoch\":4.5", "epoch: not a whole number"),
        ("\"finalSequence\":9", "\"finalSequence\":-9", "sequence number -9"),
        ("\"phase\":\"fetching\"", "\"phase\":\"idle\"", "a source is malformed"),
        ("\"reign\":3", "\"reign\":-6", "a list is malformed"),
        ("\"headReign\":3", "\"headReign\":6", "a head of epoch 6"),
        ("\"headReign\":1", "\"headReign\":2", "a head of epoch 2 kept for"),
        ("\"reign\":3", "\"reign\":6", "which is not spent"),
        ("\"heir\":\"tokyo\"", "\"heir\":\"\"", "a retention is malformed"),
        ("\"heir\":\"tokyo\"", "\"heir\":\"london\"", "keeps bytes for itself"),
    ])
    func rubbishIsRefusedWithItsReason(_ old: String, _ new: String, _ reason: String) throws {
        let text = try String(decoding: encode(rich), as: UTF8.self)
        #expect(text.contains(old))
        let error = #expect(throws: HandoffError.self) {
            try decode(text.replacingOccurrences(of: old, with: new))
        }
        #expect(error.map { "\($0)".contains(reason) } ?? false, "\(String(describing: error))")
    }

    // MARK: room for what is to come

    /// What a release with leases could store: beside all that there is, and absent where there is no lease.
    private struct LeasedRecord: Codable, Equatable {
        struct Lease: Codable, Equatable {
            /// Whoever gave it does not overrule this reign before the time is over.
            let givers: [String]
            let epoch: UInt64
            let milliseconds: UInt64
        }

        var head: HeadRecord
        var lease: Lease?

        private enum Key: String, CodingKey { case lease }

        init(_ head: HeadRecord, _ lease: Lease?) {
            self.head = head
            self.lease = lease
        }

        init(from decoder: any Decoder) throws {
            head = try HeadRecord(from: decoder)
            lease = try decoder.container(keyedBy: Key.self).decodeIfPresent(Lease.self, forKey: .lease)
        }

        func encode(to encoder: any Encoder) throws {
            try head.encode(to: encoder)
            var fields = encoder.container(keyedBy: Key.self)
            try fields.encodeIfPresent(lease, forKey: .lease)
        }
    }

    /// In the same flat object, for every role: a later release reads today's records as ones without a lease, and
    /// today's reads what it may safely not understand.
    @Test func aRecordHasRoomForALeaseInEveryRole() throws {
        let lease = LeasedRecord.Lease(givers: ["sydney", "tokyo"], epoch: 4, milliseconds: 30_000)
        for record in RoleKind.allCases.map(HandoffTableTests.record) + [rich] {
            let old = try encode(record)
            #expect(try JSONDecoder().decode(LeasedRecord.self, from: old) == LeasedRecord(record, nil))
            let encoder = JSONEncoder()
            encoder.outputFormatting = .sortedKeys
            #expect(
                try encoder.encode(LeasedRecord(record, nil)) == old, "without a lease it is the same text")
            let new = try encoder.encode(LeasedRecord(record, lease))
            #expect(try JSONDecoder().decode(LeasedRecord.self, from: new) == LeasedRecord(record, lease))
            #expect(try JSONDecoder().decode(HeadRecord.self, from: new) == record)
        }
    }

    /// What must not be overlooked (who does not know of a lease would write on after its end) comes with a higher
    /// version, and is refused as a whole: nothing is decided on it.
    @Test func aRecordThatMustNotBeReadWithoutItsLeaseIsRefused() throws {
        let lease = LeasedRecord.Lease(givers: ["sydney"], epoch: 4, milliseconds: 30_000)
        let text = String(decoding: try JSONEncoder().encode(LeasedRecord(rich, lease)), as: UTF8.self)
            .replacingOccurrences(of: "\"version\":1", with: "\"version\":2")
        let error = #expect(throws: HandoffError.self) { try decode(text) }
        #expect(error.map { "\($0)".contains("2 is unknown; this program reads 1") } ?? false)
    }
}
