import Catalog
import EngineTestSupport
import Foundation
import Hydration
import KubernetesAPI
import VolumeModel

@testable import BlockHashes
@testable import Cluster
@testable import Compression
@testable import FuseMount
@testable import Handoff
@testable import PeerService
@testable import Site

/// What is read back from a disk or a registry, and compressed bytes.
enum StateTargets {
    static let all = [rows, profile, damage, records, compressed, catalog]

    private static let rows = FuzzTarget(
        "rows", "a batch of catalog rows",
        seeds: {
            CatalogSamples.rows.map { CatalogSamples.encoded([$0]) }
                + [CatalogSamples.encoded(CatalogSamples.rows)]
        },
        body: { bytes in
            let rows = try CatalogRowCoder.rows(of: bytes, limit: PeerLimits.rowCount)
            let again = try? CatalogRowCoder.rows(of: CatalogSamples.encoded(rows))
            try demand(again == rows, "\(rows) are \(again.map { "\($0)" } ?? "nothing") when read again")
            return true
        })

    private static let profile = FuzzTarget(
        "profile", "the profile of an application's starts, of which a peer may send one",
        seeds: {
            let extents = (1...30).map { number in
                Extent(
                    inode: InodeNumber(UInt64(number * 7919 % 101) + 1),
                    range: ByteRange(UInt64(number) * 4096, UInt64(number) * 8192))
            }
            var profile = StartProfile()
            profile.merge(extents, volumeByteCount: .max)
            var older = profile
            older.merge(Array(extents.prefix(9)), volumeByteCount: .max)
            return [profile.encoded, older.encoded, StartProfile().encoded]
        },
        body: { bytes in
            var read = try StartProfile(encoded: bytes)
            let start = [Extent(inode: InodeNumber(5), range: ByteRange(4096, 1 << 20))]
            for _ in 0..<3 {
                let again = try? StartProfile(encoded: read.encoded)
                try demand(again == read, "a profile is another one when read again")
                try demand(read.byteCount <= StartProfile.byteLimit, "a profile of \(read.byteCount) bytes")
                read.merge(start, volumeByteCount: .max)
            }
            return true
        })

    // MARK: hashes and known damage

    private static let damage = FuzzTarget(
        "damage", "files of hashes and of known damage", byteLimit: 2048,
        words: [
            "block ", "overwritten ", "no-block ", "not-overwritten ", "life ", "sum ", "godwit damage 2\n",
        ],
        kinds: [
            .text(Self.damageLines) { text in
                var entries = DamageEntries()
                let lines = text.split(separator: "\n")
                guard !lines.isEmpty, lines.allSatisfy({ entries.take($0) }) else { return false }
                // What it comes to is written, and read again.
                let known = entries.known
                var again = DamageEntries()
                for block in known.blocks {
                    try demand(again.take(DamageEntries.line(block).dropLast()), "a line that is none")
                }
                try demand(again.known.blocks == known.blocks, "\(known.blocks) are others when read again")
                _ = known.ranges
                return true
            },
            FuzzTarget.Kind(
                seeds: {
                    let directory = try TemporaryDirectory()
                    _ = try DamageCopy.write(
                        Self.damageLines.joined(separator: "\n") + "\n", life: "3", in: directory.path)
                    let file = FileManager.default.contents(atPath: DamageCopy.path(in: directory.path))
                    return [file.map(Array.init) ?? []]
                },
                body: { bytes in
                    _ = try DamageCopy.parse(bytes, of: "damage")
                    return true
                }),
            .text(["100 20 4f2a life", "0 0  "]) { text in
                guard let place = DamageCopy.Place(text: text) else { return false }
                try demand(DamageCopy.Place(text: place.text) == place, "\(place) is another when read again")
                return true
            },
            FuzzTarget.Kind(
                seeds: { [Self.part.bytes(of: Self.partID)] },
                body: { bytes in
                    guard let part = PartRecord(bytes, of: Self.partID) else { return false }
                    try demand(PartRecord(part.bytes(of: Self.partID), of: Self.partID) == part, "\(part)")
                    return true
                }),
        ])

    private static let damageLines = [
        "life 3", "block 5 0 65536 9 000102030405060708090a0b0c0d0e0f", "block 5 65536 65540 9 ",
        "overwritten 5 65536 131072", "no-block 5 0", "not-overwritten 6 4096",
    ]
    private static let partID = PartID(DataFileNumber(7), 3)
    private static let part: PartRecord = {
        // What a file's state is like matters to nobody here: it is 48 bytes.
        let content = [UInt8](repeating: 1, count: 48) + [2, 0, 0, 0] + [UInt8](repeating: 9, count: 32)
        let sum = PartRecord.sum(of: partID, content)
        return PartRecord(content + sum, of: partID)!
    }()

    // MARK: records

    private static let records = FuzzTarget(
        "records", "what is stored of a volume, a hand-off and a mount", byteLimit: 4096, rounds: 2000,
        words: ["null", "true", "9223372036854775807", "18446744073709551615", "-1", "1e300"],
        kinds: [
            FuzzTarget.Kind(
                seeds: { try HandoffSamples.records.map { Array(try HandoffSamples.stored($0)) } },
                body: { bytes in
                    let record = try HandoffSamples.read(Data(bytes))
                    let again = try? HandoffSamples.read(HandoffSamples.stored(record))
                    try demand(again == record, "\(record) is another when read again")
                    _ = record.actionsAfterRestart()
                    return true
                }),
            FuzzTarget.Kind(
                seeds: {
                    try HandoffSamples.records.map { head in
                        var record = VolumeRecord(
                            id: HandoffSamples.volume, name: "data",
                            limits: VolumeLimits(byteCount: 1 << 30, inodeCount: 9),
                            parameters: ["a": "b"], head: head, headNumber: 3,
                            retainedHeads: [Epoch(3): 2], lastHeadNumber: 4,
                            sharedWith: Set(HandoffSamples.sites), followedFrom: HandoffSamples.sites[1])
                        record.divergentHeads = [Epoch(1): 1]
                        return Array(try JSONEncoder().encode(StoredVolume(record)))
                    }
                },
                body: { bytes in
                    let stored = try JSONDecoder().decode(StoredVolume.self, from: Data(bytes))
                    try demandStorable(try stored.record(id: HandoffSamples.volume))
                    return true
                }),
            FuzzTarget.Kind(
                seeds: {
                    let request = FuseMessage.initialize().bytes(unique: 2)
                    let session = FuseSession(request: request, answer: [1, 2], waiting: [request])
                    return [Array(try JSONEncoder().encode(session))]
                },
                body: { bytes in
                    try JSONDecoder().decode(FuseSession.self, from: Data(bytes)).isWellFormed
                }),
        ])

    /// What is taken must be there after a restart, in either kind of registry.
    static func demandStorable(_ record: VolumeRecord) throws {
        let again = Result<VolumeRecord, any Error> {
            let bytes = try JSONEncoder().encode(StoredVolume(record))
            return try JSONDecoder().decode(StoredVolume.self, from: bytes).record(id: record.id)
        }
        try demand((try? again.get()) == record, "\(record) is \(again) when it is read again")
        let inCluster = Result<VolumeRecord, any Error> {
            let entry = try VolumeResource.Entry(record, revision: 1, writer: "")
            return try entry.record.decoded(as: StoredVolume.self).record(id: record.id)
        }
        try demand((try? inCluster.get()) == record, "\(record) is \(inCluster) when a cluster has kept it")
    }

    static func demandKept(_ policy: HydrationPolicy) throws {
        let again = Result<HydrationPolicy, any Error> {
            try JSONValue(encoding: policy).decoded(as: HydrationPolicy.self)
        }
        try demand((try? again.get()) == policy, "\(policy) is \(again) when a cluster has kept it")
    }

    // MARK: compressed bytes

    private static let compressed = FuzzTarget(
        "zstd", "compressed bytes, with what they are said to come to", byteLimit: 2048,
        seeds: {
            var generator = Generator(seed: 5)
            let contents: [[UInt8]] = [
                [UInt8](repeating: 7, count: 5000), generator.bytes(40) + [UInt8](repeating: 0, count: 9000),
                (0..<3000).map { UInt8($0 / 100) },
            ]
            return contents.compactMap { content in
                let size: [UInt8] = (0..<4).map { UInt8(truncatingIfNeeded: content.count >> (8 * $0)) }
                return Zstd.compressed(content).map { size + $0 }
            }
        },
        body: { bytes in
            var input = FuzzInput(bytes)
            let count = Int(input.number(byteCount: 4))
            let content = try Zstd.decompressed(input.all(), byteCount: count, limit: 1 << 20)
            try demand(content.count == count, "\(content.count) bytes in place of \(count)")
            guard let again = Zstd.compressed(content) else { return true }
            let same = try? Zstd.decompressed(again, byteCount: count, limit: 1 << 20)
            try demand(same == content, "\(count) bytes are others after both ways")
            return true
        })

    // MARK: a whole catalog

    /// An input is where in the file it is changed, and to what: the file itself is too long for libFuzzer to hit anything.
    private static let catalog = FuzzTarget(
        "catalog", "places of a catalog's file that are changed; it is checked, opened and listed",
        byteLimit: 96, rounds: 25,
        // The first byte of the file, and of its page's size, as they are.
        seeds: { [[0, 0, 0, 0x53], [16, 0, 0, 0x10]] },
        body: { bytes in
            var file = try soundCatalog.get()
            var input = FuzzInput(bytes)
            while !input.isAtEnd, !file.isEmpty {
                let place = Int(input.number(byteCount: 3)) % file.count
                file[place] = input.byte()
            }
            let directory = try TemporaryDirectory()
            try FileManager.default.createDirectory(
                atPath: directory.path + "/data", withIntermediateDirectories: true)
            try Data(file).write(to: URL(fileURLWithPath: directory.path + "/" + Catalog.fileName))
            _ = try? HeadCheck.run(directory.path, isInUse: false)
            let volume = try TestVolume(opening: directory.path)
            defer { volume.storage.catalog.abandon() }
            for inode in 1..<20 as Range<UInt64> {
                _ = try? volume.fileSystem.attributes(of: InodeNumber(inode))
                _ = try? volume.fileSystem.readDirectory(InodeNumber(inode), offset: 0, limit: 50)
                _ = try? volume.fileSystem.extendedAttributeNames(of: InodeNumber(inode))
            }
            _ = try? CatalogImage(volume.storage.catalog)
            _ = try? volume.create("new")
            try? volume.fileSystem.finish()
            try? volume.storage.close()
            return true
        })

    private static let soundCatalog = Result<[UInt8], any Error> {
        let directory = try TemporaryDirectory()
        let volume = try TestVolume.make(in: directory.path)
        for number in 0..<15 {
            let inode = try volume.create("file \(number)")
            try volume.fileSystem.setExtendedAttribute(
                Array("user.note".utf8), of: inode, value: [1, 2, 3], mustCreate: false, mustReplace: false,
                caller: .root)
        }
        try volume.fileSystem.finish()
        try volume.storage.close()
        return FileManager.default.contents(atPath: directory.path + "/" + Catalog.fileName)
            .map(Array.init) ?? []
    }
}
