import Testing
import VolumeModel

@Suite struct VolumeModelTests {
    @Test(arguments: 0..<40 as Range<UInt64>)
    func rangeSetsAgreeWithABitmap(_ seed: UInt64) {
        var generator = Generator(state: seed)
        var set = RangeSet()
        var bitmap = [Bool](repeating: false, count: 200)
        for step in 0..<300 {
            let start = generator.next(below: 200)
            let end = start + generator.next(below: 200 - start + 1)
            let range = ByteRange(UInt64(start), UInt64(end))
            let inserts = generator.next(below: 2) == 0
            if inserts { set.insert(range) } else { set.remove(range) }
            for index in start..<end { bitmap[index] = inserts }
            let present = set.ranges.flatMap { Array($0.start..<$0.end) }
            #expect(
                present == bitmap.indices.filter { bitmap[$0] }.map { UInt64($0) },
                "seed \(seed) step \(step)")
            #expect(set.byteCount == UInt64(present.count))
            let absent = set.gaps(in: ByteRange(0, 200)).flatMap { Array($0.start..<$0.end) }
            #expect(absent == bitmap.indices.filter { !bitmap[$0] }.map { UInt64($0) })
            let from = UInt64(generator.next(below: 200))
            let gap = set.firstGap(from: from, upTo: 200)
            #expect(gap?.start == absent.first { $0 >= from })
            if let gap { #expect(set.intersection(gap).isEmpty && set.gaps(in: gap) == [gap]) }
        }
    }

    private static let rows: [CatalogRow] = {
        let time = FileTime(seconds: -5, nanoseconds: 999_999_999)
        let attributes = FileAttributes(
            inode: InodeNumber(77), kind: .regular, permissions: 0o4755, linkCount: 3, uid: .max, gid: 5,
            device: 0, size: 1 << 40, blockCount: 12, accessTime: time, modificationTime: .zero,
            changeTime: time)
        return [
            .inode(InodeRecord(attributes: attributes, backedByteCount: 1 << 40)),
            .removedInode(InodeNumber(99)),
            .entry(
                DirectoryEntryRecord(
                    parent: .root, cookie: 1 << 40, name: [0xff, 1, 0x2e], inode: InodeNumber(9),
                    kind: .socket)),
            .removedEntry(parent: .root, cookie: 3),
            .attribute(InodeNumber(4), name: Array("user.x".utf8), value: [0, 1, 2]),
            .removedAttribute(InodeNumber(4), name: Array("user.x".utf8)),
        ]
    }()

    @Test func catalogRowsSurviveTheWire() throws {
        for row in Self.rows {
            var one: [UInt8] = []
            CatalogRowCoder.append(row, to: &one)
            #expect((try? CatalogRowCoder.rows(of: one)) == [row], "\(row)")
        }
        for row in Self.rows {
            var one: [UInt8] = []
            CatalogRowCoder.append(row, to: &one)
            #expect((try? CatalogRowCoder.rows(of: one)) == [row])
        }
        var bytes: [UInt8] = []
        for row in Self.rows { CatalogRowCoder.append(row, to: &bytes) }
        #expect(try CatalogRowCoder.rows(of: bytes) == Self.rows)
    }

    @Test func moreRowsThanMayBeAreRefused() throws {
        var bytes: [UInt8] = []
        for row in Self.rows { CatalogRowCoder.append(row, to: &bytes) }
        #expect(try CatalogRowCoder.rows(of: bytes, limit: Self.rows.count) == Self.rows)
        #expect(throws: CatalogRowCoder.Failure.malformed) {
            try CatalogRowCoder.rows(of: bytes, limit: Self.rows.count - 1)
        }
    }

    @Test func quantitiesAreReadAsKubernetesWritesThem() {
        let good: [(String, UInt64)] = [
            ("1", 1), ("4096", 4096), ("1k", 1000), ("1Ki", 1024), ("10Mi", 10 << 20), ("5G", 5_000_000_000),
            ("2T", 2_000_000_000_000), ("9223372036854775807", UInt64(Int64.max)), ("007M", 7_000_000),
        ]
        for (text, count) in good { #expect(ByteQuantity.parse(text) == count, "\(text)") }
        let bad = [
            "", "0", "0Gi", "Ki", "k", "1K", "1ki", "1 Ki", "-1", "+1", "+1Ki", "1.5Gi", "1e3", "1Kib",
            "1KiKi",
            "9223372036854775808", "18446744073709551616", "8388608Ti", "1\u{212a}i", "\u{661}Ki",
            "1Ki\u{301}",
        ]
        for text in bad { #expect(ByteQuantity.parse(text) == nil, "\(text)") }
    }

    @Test func rowsCutAnywhereAreRefused() throws {
        for row in Self.rows {
            var bytes: [UInt8] = []
            CatalogRowCoder.append(row, to: &bytes)
            for length in 1..<bytes.count {
                #expect(throws: CatalogRowCoder.Failure.self) {
                    try CatalogRowCoder.rows(of: Array(bytes.prefix(length)))
                }
            }
        }
    }

    @Test func rubbishIsNoCatalogAndNeverTraps() {
        var generator = Generator(state: 1)
        for _ in 0..<20_000 {
            let bytes = (0..<generator.next(below: 60)).map { _ in
                UInt8(
                    truncatingIfNeeded: generator.next(below: 4) == 0
                        ? generator.next(below: 7) : generator.next(below: 256))
            }
            _ = try? CatalogRowCoder.rows(of: bytes)
        }
    }

    @Test func onlyCanonicalIdentifiersAreAccepted() {
        #expect(VolumeID("12345678-9abc-4def-8012-3456789abcde") != nil)
        for text in [
            "", ".", "..", "../../etc", "12345678-9ABC-4def-8012-3456789abcde", "/etc/passwd",
            "12345678-9abc-4def-8012-3456789abcde\n", "12345678-9abc-4def-8012-3456789abcd\0",
            "12345678/9abc/4def/8012/3456789abcde",
        ] {
            #expect(VolumeID(text) == nil, "\(text)")
        }
        #expect(SiteID("london-2") != nil)
        let long = String(repeating: "a", count: 64)
        for text in [
            "", "-a", "a-", "A", "a/b", long, ".a", "a.", "a..b", "a.-b", "é", long.dropLast() + ".a/b",
        ] {
            #expect(SiteID(text) == nil, "\(text)")
        }
    }

    @Test func aNodeOfASiteHasTheSitesNameInItsOwn() throws {
        let london = try #require(SiteID("london"))
        #expect(london.node == nil && london.site == london)
        let worker = try #require(SiteID(node: "Worker-1.example", of: london))
        #expect(worker.description == "worker-1.example.london" && worker.node == "worker-1.example")
        #expect(worker.site == london && worker != london)
        #expect(SiteID(node: "other", of: worker)?.description == "other.london")
        #expect(SiteID(site: "london") == london && SiteID(site: worker.description) == nil)
        #expect(SiteID(node: "under_score", of: london) == nil)
        #expect(SiteID(node: String(repeating: "a.", count: 95) + "a", of: london) == nil)
    }

    @Test func percentilesAreWithinTheirBucket() {
        var histogram = LatencyHistogram()
        for milliseconds in 1...1000 { histogram.record(.milliseconds(milliseconds)) }
        let median = histogram.percentile(0.5) ?? .zero
        let last = histogram.percentile(0.99) ?? .zero
        #expect(median >= .milliseconds(500) && median <= .milliseconds(600), "\(median)")
        #expect(last >= .milliseconds(990) && last <= .milliseconds(1200), "\(last)")
        #expect(LatencyHistogram().percentile(0.5) == nil)
    }
}

/// SplitMix64.
struct Generator {
    var state: UInt64

    mutating func next(below bound: Int) -> Int {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return Int((value ^ (value >> 31)) % UInt64(max(1, bound)))
    }
}
