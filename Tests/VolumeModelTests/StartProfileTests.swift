import Testing
import VolumeModel

@Suite struct StartProfileTests {
    private static func extent(_ inode: UInt64, _ pages: Range<UInt64>) -> Extent {
        Extent(
            inode: InodeNumber(inode), range: ByteRange(pages.lowerBound * 4096, pages.upperBound * 4096))
    }

    @Test func theLastStartGoesFirstAndOlderOnesFillIn() {
        var profile = StartProfile()
        profile.merge([Self.extent(5, 0..<10), Self.extent(3, 4..<6)], volumeByteCount: 1 << 40)
        profile.merge([Self.extent(7, 1..<2), Self.extent(5, 2..<4)], volumeByteCount: 1 << 40)
        #expect(
            profile.extents == [
                Self.extent(7, 1..<2), Self.extent(5, 2..<4), Self.extent(5, 0..<2), Self.extent(5, 4..<10),
                Self.extent(3, 4..<6),
            ])
    }

    @Test func whatThreeStartsHaveNotReadIsForgotten() {
        var profile = StartProfile()
        profile.merge([Self.extent(9, 0..<1)], volumeByteCount: 1 << 40)
        for round in 1...3 {
            profile.merge([Self.extent(UInt64(10 + round), 0..<1)], volumeByteCount: 1 << 40)
            #expect(profile.extents.contains(Self.extent(9, 0..<1)) == (round < 3))
        }
    }

    @Test func aLookForgetsNothingAndACopyIsNoStart() {
        var profile = StartProfile()
        profile.merge([Self.extent(9, 0..<100)], volumeByteCount: 1 << 40)
        for round in 1...5 {
            profile.merge([Self.extent(UInt64(20 + round), 0..<1)], volumeByteCount: 1 << 40)
        }
        #expect(profile.extents.contains(Self.extent(9, 0..<100)))
        let before = profile
        // 80 MiB of a volume of 100 MiB.
        profile.merge([Self.extent(50, 0..<20_480)], volumeByteCount: 100 << 20)
        profile.merge([], volumeByteCount: 1)
        #expect(profile == before)
        // Of a small volume, or a small part of a large one, everything counts.
        profile.merge([Self.extent(50, 0..<20_480)], volumeByteCount: 1 << 40)
        #expect(profile.extents.first == Self.extent(50, 0..<20_480))
    }

    @Test func theStoredFormGivesTheSameBack() throws {
        var profile = StartProfile()
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<3 {
            let start = (0..<300).map { index -> Extent in
                let first = UInt64.random(in: 0..<1 << 30, using: &generator)
                return Self.extent(UInt64(index + 1), first..<first + 1 + UInt64(index % 9))
            }
            profile.merge(start, volumeByteCount: .max)
        }
        #expect(try StartProfile(encoded: profile.encoded) == profile)
        #expect(try StartProfile(encoded: StartProfile().encoded) == StartProfile())
    }

    @Test func aLongStartKeepsItsBeginningWithinTheLimits() throws {
        var profile = StartProfile()
        profile.merge(
            (0..<50_000).map { Self.extent(UInt64($0 * 7919 % 100_000) + 1, UInt64($0)..<UInt64($0) + 1) },
            volumeByteCount: .max)
        #expect(profile.entries.count == StartProfile.entryLimit)
        #expect(profile.encoded.count <= 65_536)
        let kept = try StartProfile(encoded: profile.encoded).extents
        #expect(kept == Array(profile.extents.prefix(kept.count)) && kept.count > 4000)
        var large = StartProfile()
        large.merge((1...600).map { Self.extent($0, 0..<256) }, volumeByteCount: .max)
        #expect(large.byteCount == StartProfile.byteLimit)
    }

    @Test func damagedProfilesAreErrorsAndNeverTrap() throws {
        var profile = StartProfile()
        profile.merge((1...20).map { Self.extent($0 * 1000, 0..<$0) }, volumeByteCount: .max)
        let encoded = profile.encoded
        #expect(throws: NumberReader.Failure.self) { try StartProfile(encoded: []) }
        #expect(throws: NumberReader.Failure.self) { try StartProfile(encoded: [9] + encoded.dropFirst()) }
        for index in encoded.indices {
            for value: UInt8 in [0, 0x7f, 0x80, 0xff] {
                var damaged = encoded
                damaged[index] = value
                // Any profile or an error will do: its ranges are checked against the files when it is used.
                _ = try? StartProfile(encoded: damaged)
            }
            _ = try? StartProfile(encoded: Array(encoded[..<index]))
        }
        #expect(throws: NumberReader.Failure.self) {
            try StartProfile(encoded: [1] + [UInt8](repeating: 0xff, count: 30))
        }
    }

    /// A profile comes with a volume from another site: these would have overflowed a count when it was used.
    @Test func aProfileThatCannotBeCountedWithIsRefused() {
        let longest: [UInt8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03]
        for entry in [[2, 0, 1, 255], [2, 0, 1, 3], [2, 0] + longest + [0]] as [[UInt8]] {
            #expect(throws: NumberReader.Failure.malformed) { try StartProfile(encoded: [1] + entry) }
        }
        let half: [UInt8] = [2, 0, 0x80, 0x80, 0x04, 0]
        #expect((try? StartProfile(encoded: [1] + half + half))?.byteCount == StartProfile.byteLimit)
        #expect(throws: NumberReader.Failure.malformed) {
            try StartProfile(encoded: [1] + half + half + half)
        }
        let many = (0...StartProfile.entryLimit).flatMap { _ in [2, 0, 1, 0] as [UInt8] }
        #expect(throws: NumberReader.Failure.malformed) { try StartProfile(encoded: [1] + many) }
    }
}
