import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// Whoever has a volume tells what has changed since any state of it, at whichever sites; or that this is not known.
@Suite struct EarlierReignTests {
    private typealias Contents = [InodeNumber: [UInt8]]

    /// A volume that goes from owner to owner, each with a head of its own, at epochs 2, 3, 4…
    private struct Journey {
        private let began: ChangedBytesTests.Began
        var generator: Generator
        var model: Contents
        /// What each reign began with.
        private(set) var states: [Epoch: Contents]
        private(set) var volume: TestVolume
        private(set) var epoch = Epoch(2)
        private var source: FakeSource
        private var directory: String

        init(seed: UInt64) async throws {
            began = try await ChangedBytesTests.Began(seed: seed)
            generator = Generator(seed: seed ^ 0x5eed)
            model = began.contents
            states = [epoch: model]
            source = began.source
            directory = began.directory
            volume = try TestVolume(opening: directory, source: source)
        }

        mutating func change(times: Int) throws {
            for _ in 0..<times { try ChangedBytesTests.change(volume, &model, &generator) }
            guard let gone = model.keys.sorted().last, generator.next(below: 3) == 0 else { return }
            let name = began.contents.keys.sorted().firstIndex(of: gone).map { "f\($0)" }
            guard let name else { return }
            try volume.fileSystem.rename(
                Array(name.utf8), in: .root, to: Array("moved".utf8), in: .root, rule: .replace)
            try volume.fileSystem.unlink(Array("moved".utf8), in: .root)
            model[gone] = nil
        }

        mutating func reopen() async throws {
            try await volume.close()
            volume = try TestVolume(opening: directory, source: source)
        }

        /// Its process ends without having said so.
        mutating func crash() throws {
            try volume.storage.settle()
            volume.storage.catalog.abandon()
            volume = try TestVolume(opening: directory, source: source)
        }

        /// The next owner, who takes from the one before what that knows.
        mutating func move(isSealed: Bool = true, takes: Bool = true) async throws {
            let (last, next) = (volume, epoch.next)
            try last.storage.settle()
            if isSealed { _ = try last.storage.catalog.pin("heir at epoch \(next)", sealedFor: next) }
            directory = try began.temporary.make("heir \(next)")
            try await TestVolume.makeHeir(of: last.storage.catalog, in: directory, epoch: next)
            let all = model
            source = FakeSource { all[$0] ?? [] }
            epoch = next
            states[next] = model
            volume = try TestVolume(opening: directory, source: source)
            if takes { try await EarlierReignTests.take(volume, next, of: last) }
            try await last.close()
        }

        func known(since epoch: Epoch) throws -> ChangesSince {
            try ChangedBytesTests.changes(volume, since: epoch)
        }

        /// Whether all that differs from what a reign began with is said to have changed.
        func check(since epoch: Epoch) throws {
            let changes = try known(since: epoch)
            #expect(changes.kind == .exact, "since \(epoch)")
            let inodes = changes.inodes.map(\.inode)
            #expect(zip(inodes, inodes.dropFirst()).allSatisfy { $0 < $1 })
            #expect(inodes.allSatisfy { $0 < changes.firstNewInode })
            let before = try #require(states[epoch])
            #expect(ChangedBytesTests.missed(changes, before, model) == [], "since \(epoch)")
        }
    }

    /// As over the link, in small parts.
    private static func take(_ volume: TestVolume, _ reign: Epoch, of origin: TestVolume) async throws {
        try await volume.storage.catalog.takeEarlierReigns(before: reign) { heir, after in
            try origin.storage.catalog.performCommitting {
                try $0.changes(inReignBefore: heir, after: after, byteCount: 40)
            }
        }
    }

    @Test(arguments: 0..<10 as Range<UInt64>)
    func everyByteThatDiffersFromAnyEarlierStateIsSaidToHaveChanged(seed: UInt64) async throws {
        var journey = try await Journey(seed: seed)
        for reign in 2...5 as ClosedRange<UInt64> {
            if journey.generator.next(below: 2) == 0 { journey.volume.startHydration() }
            try journey.change(times: 8)
            if journey.generator.next(below: 2) == 0 { try await journey.reopen() }
            for epoch in 2...reign { try journey.check(since: Epoch(epoch)) }
            if reign < 5 { try await journey.move() }
        }
        #expect(try journey.known(since: Epoch(1)).kind == .unknown)
        #expect(try journey.known(since: Epoch(6)).kind == .unknown)
        try await journey.volume.close()
    }

    @Test func littleMoreThanWhatChangedInAnyReignIsSaidToHave() async throws {
        var journey = try await Journey(seed: 1)
        let inodes = journey.model.keys.sorted()
        try journey.volume.write(inodes[6], at: 100_000, [1])
        try await journey.move()
        try journey.volume.write(inodes[6], at: 400_000, [2])
        try journey.volume.write(inodes[5], at: 10, [3])
        try await journey.move()
        let made = try journey.volume.create("new")
        try journey.volume.write(made, at: 0, [4])
        func ranges(_ inode: InodeNumber, since epoch: UInt64) throws -> [ByteRange] {
            let changes = try journey.known(since: Epoch(epoch)).inodes.first { $0.inode == inode }
            return changes?.bytes.parts(of: ByteRange(0, 300_000)).filter(\.isChanged).map(\.range) ?? []
        }
        #expect(try ranges(inodes[6], since: 2) == [ByteRange(65_536, 131_072)])
        #expect(try ranges(inodes[6], since: 3) == [])
        #expect(try ranges(inodes[5], since: 3) == [ByteRange(0, 65_536)])
        #expect(try journey.known(since: Epoch(2)).inodes.map(\.inode) == [inodes[5], inodes[6]])
        #expect(try journey.known(since: Epoch(3)).inodes.map(\.inode) == [inodes[5], inodes[6]])
        #expect(try journey.known(since: Epoch(4)).inodes.isEmpty)
        for epoch in 2...4 as ClosedRange<UInt64> {
            #expect(try journey.known(since: Epoch(epoch)).firstNewInode == made)
        }
        try await journey.volume.close()
    }

    /// Of a reign with a crash nothing is known for sure, so nothing of what came before it either.
    @Test func whatCameBeforeACrashIsNotKnown() async throws {
        var journey = try await Journey(seed: 2)
        try journey.change(times: 3)
        try await journey.move()
        try journey.change(times: 3)
        try journey.crash()
        #expect(try journey.known(since: Epoch(2)).kind == .uncertain)
        #expect(try journey.known(since: Epoch(3)).kind == .uncertain)
        try await journey.move()
        try journey.change(times: 3)
        #expect(try journey.known(since: Epoch(2)).kind == .unknown)
        #expect(try journey.known(since: Epoch(3)).kind == .unknown)
        try journey.check(since: Epoch(4))
        // From then on it is known again.
        try await journey.move()
        #expect(try journey.known(since: Epoch(3)).kind == .unknown)
        try journey.check(since: Epoch(4))
        try await journey.volume.close()
    }

    /// Who begins by force was granted nothing: what it begins with is nobody's last state.
    @Test func whatCameBeforeATakeoverByForceIsNotKnown() async throws {
        var journey = try await Journey(seed: 3)
        try await journey.move()
        try await journey.move(isSealed: false)
        #expect(try journey.known(since: Epoch(2)).kind == .unknown)
        #expect(try journey.known(since: Epoch(3)).kind == .unknown)
        try journey.check(since: Epoch(4))
        try await journey.volume.close()
    }

    /// A site went back in time, and a number came twice: what is known since the one state is not said of the other.
    @Test func aStateOfTheSameNumberAndAnotherNameIsAnother() async throws {
        var journey = try await Journey(seed: 10)
        try journey.change(times: 3)
        let first = journey.volume.storage.catalog
        // What a site keeps that had the volume and gave it away.
        _ = try first.pin("heir at epoch 3", sealedFor: Epoch(3))
        let kept = try #require(try first.perform { try $0.sealedFor()?.name })
        #expect(try first.perform { try $0.sealedFor()?.name } == kept, "asked again")
        // In another life the same head is granted under the same number, and is another state.
        try first.perform { try $0.setEpoch(Epoch(2)) }
        try first.unpin("heir at epoch 3")
        try journey.change(times: 3)
        try await journey.move()
        try journey.change(times: 3)
        let told = try journey.known(since: Epoch(3))
        let present = try #require(told.sinceName)
        #expect(present != kept)
        #expect(told.kind == .exact && told.told(since: present).kind == .exact)
        #expect(told.told(since: kept).kind == .unknown)
        #expect(told.told(since: nil).kind == .unknown, "of a release without names")
        // And so it is over more sites, from the disk as well.
        try await journey.move()
        try await journey.reopen()
        let further = try journey.known(since: Epoch(3))
        #expect(further.kind == .exact && further.sinceName == present)
        #expect(further.told(since: kept).kind == .unknown)
        try await journey.volume.close()
    }

    /// A head that goes on by force is not what it was sealed as, but what is known of earlier reigns holds.
    @Test func aHeadThatGoesOnTellsItsHeirNothingOfItsReign() async throws {
        var journey = try await Journey(seed: 4)
        try journey.change(times: 3)
        try await journey.move()
        let catalog = journey.volume.storage.catalog
        _ = try catalog.pin("heir at epoch 4", sealedFor: Epoch(4))
        func kind(_ heir: UInt64) throws -> ChangesSince.Kind {
            try catalog.performCommitting {
                try $0.changes(inReignBefore: Epoch(heir), after: InodeNumber(0), byteCount: 1000).kind
            }
        }
        #expect(try kind(4) == .exact)
        try catalog.perform { try $0.setEpoch(Epoch(9)) }
        #expect(try kind(4) == .unknown)
        #expect(try kind(3) == .exact)
        try journey.change(times: 3)
        for epoch in 2...3 as ClosedRange<UInt64> { try journey.check(since: Epoch(epoch)) }
        try await journey.volume.close()
    }

    /// Nobody said what changed at the one in the middle.
    @Test func aGapIsNotPassedOver() async throws {
        var journey = try await Journey(seed: 5)
        try journey.change(times: 3)
        try await journey.move()
        try journey.change(times: 3)
        try await journey.move(takes: false)
        #expect(try journey.known(since: Epoch(3)).kind == .unknown)
        try await journey.move()
        #expect(try journey.known(since: Epoch(2)).kind == .unknown)
        #expect(try journey.known(since: Epoch(3)).kind == .unknown)
        try journey.check(since: Epoch(4))
        try await journey.volume.close()
    }

    /// A head that began under another epoch than it was granted (the first was not taken up) is not what it seems.
    @Test func nothingIsTakenForAHeadThatBeganOtherwise() async throws {
        let journey = try await Journey(seed: 6)
        try await journey.volume.storage.catalog.takeEarlierReigns(before: Epoch(3)) { _, _ in
            Issue.record("asked")
            return ChangesSince(kind: .unknown)
        }
        try await journey.volume.close()
    }

    @Test func aCopyOfTheCatalogKnowsNothingOfEarlierReigns() async throws {
        var journey = try await Journey(seed: 7)
        try await journey.move()
        let temporary = try TemporaryDirectory()
        try journey.volume.storage.catalog.copy(to: temporary.path)
        let copy = try Catalog(opening: temporary.path)
        for heir in 2...3 as ClosedRange<UInt64> {
            let kind = try copy.performCommitting {
                try $0.changes(inReignBefore: Epoch(heir), after: InodeNumber(0), byteCount: 1000).kind
            }
            #expect(kind == .unknown)
        }
        try copy.close()
        try await journey.volume.close()
    }

    // MARK: what an origin may say

    private struct Cut: Error {}

    /// What breaks off, or cannot be, counts for nothing, and does not stay in the way of a better answer.
    @Test func halfAReignIsNone() async throws {
        let journey = try await Journey(seed: 8)
        let catalog = journey.volume.storage.catalog
        let inodes = journey.model.keys.sorted()
        let changed = ChangedBytes(unchangedOf: 0)
        func part(
            _ inode: Int, kind: ChangesSince.Kind = .exact, since: UInt64? = 1, firstNew: UInt64 = 100,
            isComplete: Bool = false
        ) -> ChangesSince {
            ChangesSince(
                kind: kind, since: since.map { Epoch($0) }, firstNewInode: InodeNumber(firstNew),
                inodes: [(inodes[inode], changed)], isComplete: isComplete)
        }
        let answers: [[ChangesSince]] = [
            [part(0)], [part(0), part(1, kind: .unknown)], [part(0), part(1, kind: .uncertain)],
            [part(0), part(1, since: 2)], [part(0), part(1, since: nil, isComplete: true)],
            [part(0), part(1, firstNew: 99, isComplete: true)], [part(0), part(0)],
            [part(0, since: 2, isComplete: true)], [part(0, since: .max, isComplete: true)],
            [part(0, since: 0, isComplete: true)], [part(0, since: nil, isComplete: true)],
            [
                part(0),
                ChangesSince(kind: .exact, since: .first, firstNewInode: InodeNumber(100), isComplete: false),
            ],
        ]
        for (index, answer) in answers.enumerated() {
            var rest = answer[...]
            do {
                try await catalog.takeEarlierReigns(before: Epoch(2)) { _, _ in
                    guard let next = rest.popFirst() else { throw Cut() }
                    return next
                }
            } catch is Cut {}
            #expect(try journey.known(since: .first).kind == .unknown, "answer \(index)")
        }
        try await catalog.takeEarlierReigns(before: Epoch(2)) { heir, _ in
            heir == Epoch(2) ? part(3, isComplete: true) : ChangesSince(kind: .unknown)
        }
        let known = try journey.known(since: .first)
        #expect(known.kind == .exact)
        // Nor is anything left of it.
        #expect(known.inodes.map(\.inode) == [inodes[3]])
        try await journey.volume.close()
    }

    /// Who had the volume so briefly that it did not know the name of what it began with itself hears it later, and then
    /// those who have the volume from it.
    @Test func aNameThatTheOriginDidNotKnowIsAskedForAgain() async throws {
        var journey = try await Journey(seed: 11)
        let inodes = journey.model.keys.sorted()
        let (since, until) = (StateName(randomHigh: 1, randomLow: 2), StateName(randomHigh: 3, randomLow: 4))
        let london = try #require(SiteID("london"))
        var changed = ChangedBytes(unchangedOf: 300_000)
        _ = changed.insert(ByteRange(70_000, 70_001))
        func take(_ sinceName: StateName?, _ untilName: StateName? = nil) async throws {
            let catalog = journey.volume.storage.catalog
            try await catalog.takeEarlierReigns(before: Epoch(2)) { [changed] heir, after in
                guard heir == Epoch(2) else { return ChangesSince(kind: .unknown) }
                return ChangesSince(
                    kind: .exact, since: .first, sinceName: sinceName, untilName: untilName ?? until,
                    sinceKeeper: london, firstNewInode: inodes[6],
                    inodes: after < inodes[3] ? [(inodes[3], changed)] : [])
            }
        }
        func formerStates() throws -> [FormerState] {
            try journey.volume.storage.catalog.perform { $0.formerStates }
        }
        try await take(nil)
        #expect(try journey.known(since: .first).kind == .exact)
        #expect(try journey.known(since: .first).sinceName == nil)
        #expect(try journey.volume.storage.catalog.lacksNames())
        #expect(try formerStates() == [])
        // What another state of that number began with.
        try await take(since, StateName(randomHigh: 5, randomLow: 6))
        #expect(try formerStates() == [])
        try await take(since)
        try await journey.reopen()
        #expect(try journey.known(since: .first).sinceName == since)
        #expect(try !journey.volume.storage.catalog.lacksNames())
        let state = FormerState(heir: .first, name: since, keeper: london)
        #expect(try formerStates() == [state])

        // What is in that state as it was when this head began.
        func unchanged(_ inode: InodeNumber, since state: FormerState) throws -> [ByteRange] {
            try journey.volume.storage.catalog.perform {
                try $0.unchangedParts(
                    of: [Extent(inode: inode, range: ByteRange(10, 310_000))], since: state
                ).map(\.range)
            }
        }
        #expect(
            try unchanged(inodes[3], since: state) == [ByteRange(10, 65_536), ByteRange(131_072, 300_000)])
        #expect(try unchanged(inodes[2], since: state) == [ByteRange(10, 310_000)])
        #expect(try unchanged(inodes[6], since: state) == [], "it was made since")
        for other in [
            FormerState(heir: .first, name: until, keeper: london),
            FormerState(heir: Epoch(2), name: since, keeper: london),
        ] {
            #expect(try unchanged(inodes[2], since: other) == [], "\(other)")
        }
        try await journey.volume.close()
    }

    /// An origin that never ends: of inodes beyond what there is room for all counts as changed.
    @Test func changesWithoutEndAreCutOff() async throws {
        let journey = try await Journey(seed: 9)
        let inodes = journey.model.keys.sorted()
        let large = try #require(
            ChangedBytes(allFrom: 1 << 30, shift: 16, bits: [UInt8](repeating: 1, count: 8192)))
        var asked = 0
        try await journey.volume.storage.catalog.takeEarlierReigns(before: Epoch(2)) { heir, after in
            asked += 1
            guard heir == Epoch(2) else { return ChangesSince(kind: .unknown) }
            let first = max(after.number + 1, inodes[2].number)
            return ChangesSince(
                kind: .exact, since: .first, firstNewInode: InodeNumber(.max),
                inodes: (first..<first + 1000).map { (InodeNumber($0), large) }, isComplete: false)
        }
        #expect((4...5).contains(asked), "\(asked)")
        let known = try journey.known(since: .first)
        #expect(known.kind == .exact && known.firstNewInode.number < 10_000)
        #expect(known.inodes.map(\.inode) == Array(inodes[2...]))
        #expect(known.inodes.allSatisfy { $0.bytes == large })
        try await journey.volume.close()
    }

    @Test func reignsWithoutEndAreCutOff() async throws {
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory, epoch: Epoch(1000))
        try await owner.close()
        var volume = try TestVolume(opening: directory)
        var asked: [Epoch] = []
        for _ in 0..<2 {
            try await volume.storage.catalog.takeEarlierReigns(before: Epoch(1000)) { heir, _ in
                asked.append(heir)
                return ChangesSince(
                    kind: .exact, since: Epoch(heir.number - 1), firstNewInode: InodeNumber(7))
            }
            try await volume.close()
            volume = try TestVolume(opening: directory)
        }
        // The name of the first, which was not told, is asked for once more.
        #expect(asked == (937...1000).reversed().map { Epoch($0) } + [Epoch(1000)])
        #expect(try ChangedBytesTests.changes(volume, since: Epoch(936)).kind == .exact)
        #expect(try ChangedBytesTests.changes(volume, since: Epoch(935)).kind == .unknown)
        try await volume.close()
    }
}
