import Cluster
import Handoff
import Site
import SiteTestSupport
import Testing
import VolumeModel

/// What every registry of a site with several members keeps, beside what each member's own keeps (`RegistryContract`).
struct SharedRegistryContract {
    let first: SiteID
    let second: SiteID
    let one: any SharedSiteRegistry
    let two: any SharedSiteRegistry

    /// - Parameter registry: of a member, on a store that is empty and the same for all.
    static func check(_ registry: (SiteID) throws -> any SharedSiteRegistry) async throws {
        let contract = try Self(registry)
        try await contract.recordsAreOfOneMemberAlone()
        try await namesAreUnique(contract)
        try await changesOfBothMembersAllSucceed(contract)
        try await whatOneRemovesTheOtherKeeps(contract)
        try await placementsAreInTheOrderOfNames(contract)
        try await whoeverInsertsWhileTheOtherRemovesIsNotLost(contract)
        try await whoeverInsertsTheSameVolumeAtOnceSucceeds(contract)
        try await fiftyOperationsAtOnceLeaveWhatEachThinks(contract)
        try await contract.whatAMemberHadCanBeGivenUp()
        try await membersMakeThemselvesKnown(contract)
    }

    private init(_ registry: (SiteID) throws -> any SharedSiteRegistry) throws {
        first = try #require(SiteID("worker-1.london"))
        second = try #require(SiteID("worker-2.london"))
        one = try registry(first)
        two = try registry(second)
    }

    /// The record of a member that owns the volume, or of one that knows it because it was offered.
    private static func record(
        _ name: String, at member: SiteID, following: VolumeRecord? = nil
    ) throws -> VolumeRecord {
        if let following {
            let reign = Reign(following.head.site, .first)
            return VolumeRecord(
                id: following.id, name: name, limits: following.limits, parameters: following.parameters,
                head: try HeadRecord(followerAt: member, of: reign))
        }
        let template = try RegistryContract.record(name)
        return VolumeRecord(
            id: template.id, name: name, limits: template.limits, parameters: template.parameters,
            head: HeadRecord(newAt: member), headNumber: 1)
    }

    private static func use(_ number: UInt64, in record: inout VolumeRecord) {
        record.headNumber = number
        record.lastHeadNumber = max(record.lastHeadNumber, number)
    }

    /// A volume that both members know.
    private func shared(
        _ name: String
    ) async throws -> (one: Versioned<VolumeRecord>, two: Versioned<VolumeRecord>) {
        let stored = try await one.insert(try Self.record(name, at: first))
        return (
            stored, try await two.insert(try Self.record(name, at: second, following: stored.value))
        )
    }

    private func whatAMemberHadCanBeGivenUp() async throws {
        let both = try await shared("given up")
        let placements = try await one.placements(named: "given up")
        for _ in 0..<2 { try await one.abandon(try #require(placements.last)) }
        #expect(try await one.placements(named: "given up").map(\.member) == [first])
        #expect(try await one.volume(both.one.value.id)?.value == both.one.value)
        await expect(.conflict(both.two.value.id)) { () async throws(RegistryError) in
            _ = try await two.update(both.two)
        }
        try await one.remove(both.one)
    }

    private func recordsAreOfOneMemberAlone() async throws {
        let mine = try await one.insert(try Self.record("separate", at: first))
        #expect(try await two.volumes().isEmpty)
        #expect(try await two.volume(mine.value.id) == nil)
        #expect(try await two.volume(named: "separate") == nil)
        await expect(.conflict(mine.value.id)) { () async throws(RegistryError) in
            _ = try await two.update(mine)
        }
        await expect(.conflict(mine.value.id)) { () async throws(RegistryError) in
            try await two.remove(mine)
        }
        let theirs = try await two.insert(
            try Self.record("separate", at: second, following: mine.value))
        #expect(try await one.volume(mine.value.id)?.value == mine.value)
        #expect(try await two.volume(named: "separate")?.value == theirs.value)
        #expect(theirs.value.id == mine.value.id && theirs.value != mine.value)
        #expect(try await one.volumes().map(\.value) == [mine.value])
        #expect(try await two.volumes().map(\.value) == [theirs.value])
    }

    private static func namesAreUnique(_ contract: Self) async throws {
        let mine = try await contract.one.insert(try record("unique", at: contract.first))
        let another = try record("unique", at: contract.second)
        await contract.expect(.nameTaken("unique")) { () async throws(RegistryError) in
            _ = try await contract.two.insert(another)
        }
        // Nor is a volume known under two names.
        let renamed = try record("unique too", at: contract.second, following: mine.value)
        await contract.expect(.nameTaken("unique too")) { () async throws(RegistryError) in
            _ = try await contract.two.insert(renamed)
        }
        // Nor twice to one member.
        await contract.expect(.nameTaken("unique")) { () async throws(RegistryError) in
            _ = try await contract.one.insert(mine.value)
        }
        #expect(try await contract.two.volume(another.id) == nil)
        #expect(try await contract.one.placements(named: "unique").map(\.member) == [contract.first])
        // Of all that ask for a name at once one gets it, wherever they are.
        let winners = await withTaskGroup(of: VolumeID?.self) { group in
            for number in 0..<8 {
                group.addTask {
                    let (registry, member) =
                        number % 2 == 0 ? (contract.one, contract.first) : (contract.two, contract.second)
                    guard let record = try? record("wanted by all", at: member) else { return nil }
                    return (try? await registry.insert(record)).map(\.value.id)
                }
            }
            return await group.reduce(into: []) { $0 += $1.map { [$0] } ?? [] }
        }
        #expect(winners.count == 1)
        #expect(try await contract.two.placements(named: "wanted by all").map(\.record.id) == winners)
    }

    private static func changesOfBothMembersAllSucceed(_ contract: Self) async throws {
        let both = try await contract.shared("written by both")
        @Sendable func write(
            _ registry: any SharedSiteRegistry, _ stored: Versioned<VolumeRecord>, _ first: UInt64
        ) async throws -> Versioned<VolumeRecord> {
            var stored = stored
            for number in first..<(first + 25) {
                use(number, in: &stored.value)
                stored = try await registry.update(stored)
            }
            return stored
        }
        async let mine = write(contract.one, both.one, 100)
        async let theirs = write(contract.two, both.two, 200)
        let last = try await (mine, theirs)
        #expect(last.0.revision == both.one.revision + 25 && last.1.revision == both.two.revision + 25)
        let id = both.one.value.id
        #expect(try await contract.one.volume(id)?.value == last.0.value)
        #expect(try await contract.two.volume(id)?.value == last.1.value)
        #expect(
            try await contract.one.placements(of: id).map(\.record.headNumber) == [124, 224])
    }

    private static func whatOneRemovesTheOtherKeeps(_ contract: Self) async throws {
        let both = try await contract.shared("removed by one")
        let id = both.one.value.id
        try await contract.one.remove(both.one)
        #expect(try await contract.one.volume(id) == nil)
        await contract.expect(.conflict(id)) { () async throws(RegistryError) in
            try await contract.one.remove(both.one)
        }
        #expect(try await contract.two.volume(id)?.value == both.two.value)
        // The name is still taken.
        let another = try record("removed by one", at: contract.first)
        await contract.expect(.nameTaken("removed by one")) { () async throws(RegistryError) in
            _ = try await contract.one.insert(another)
        }
        try await contract.two.remove(both.two)
        #expect(try await contract.one.placements(of: id).isEmpty)
        _ = try await contract.one.insert(another)
    }

    private static func placementsAreInTheOrderOfNames(_ contract: Self) async throws {
        let stored = try await contract.two.insert(try record("placed", at: contract.second))
        let other = try await contract.one.insert(
            try record("placed", at: contract.first, following: stored.value))
        let expected = [
            Placement(member: contract.first, record: other.value),
            Placement(member: contract.second, record: stored.value),
        ]
        for registry in [contract.one, contract.two] {
            #expect(try await registry.placements(of: stored.value.id) == expected)
            #expect(try await registry.placements(named: "placed") == expected)
            let all = try await registry.placements()
            #expect(all.filter { $0.record.id == stored.value.id } == expected)
            #expect(all.map(\.record.id) == all.map(\.record.id).sorted())
            let unknown = VolumeID(randomHigh: 1, randomLow: 2)
            #expect(try await registry.placements(of: unknown).isEmpty)
            #expect(try await registry.placements(named: "never heard of").isEmpty)
        }
    }

    /// The last entry and its object go together, unless there is another entry by then.
    private static func whoeverInsertsWhileTheOtherRemovesIsNotLost(_ contract: Self) async throws {
        for round in 0..<30 {
            let name = "passed on \(round)"
            let stored = try await contract.one.insert(try record(name, at: contract.first))
            let follower = try record(name, at: contract.second, following: stored.value)
            // Both take some milliseconds: so that either comes before, amid and after the other.
            async let removed: Void = {
                try await Task.sleep(for: .milliseconds(round / 2))
                try await contract.one.remove(stored)
            }()
            async let inserted = contract.two.insert(follower)
            try await removed
            let kept = try await inserted
            #expect(try await contract.two.volume(follower.id)?.value == kept.value)
            #expect(try await contract.one.placements(named: name).map(\.member) == [contract.second])
            try await contract.two.remove(kept)
            #expect(try await contract.one.placements(named: name).isEmpty)
        }
    }

    /// Of the two that find no object one makes it, and the other is not told that the name is taken.
    private static func whoeverInsertsTheSameVolumeAtOnceSucceeds(_ contract: Self) async throws {
        for round in 0..<10 {
            let mine = try record("made by both \(round)", at: contract.first)
            let theirs = try record("made by both \(round)", at: contract.second, following: mine)
            async let one = contract.one.insert(mine)
            async let two = contract.two.insert(theirs)
            let inserted = try await [one.value, two.value]
            #expect(try await contract.one.placements(of: mine.id).map(\.record) == inserted)
        }
    }

    private static func fiftyOperationsAtOnceLeaveWhatEachThinks(_ contract: Self) async throws {
        // Five volumes, each used by ten tasks, which belong to the two members by turns.
        var owned: [VolumeRecord] = []
        for number in 0..<5 { owned.append(try record("mixed \(number)", at: contract.first)) }
        let volumes = owned
        await withTaskGroup(of: Void.self) { group in
            for task in 0..<50 {
                group.addTask {
                    let isFirst = task % 2 == 0
                    let registry = isFirst ? contract.one : contract.two
                    let volume = volumes[task / 10]
                    await mixedOperations(
                        registry, isFirst ? contract.first : contract.second, volume, task)
                }
            }
        }
        // What each member has is what everybody is shown, and one more change of it is accepted.
        var expected: Set<Placement> = []
        for (registry, member) in [(contract.one, contract.first), (contract.two, contract.second)] {
            for volume in volumes {
                guard var stored = try await registry.volume(volume.id) else { continue }
                #expect(stored.value.head.site == member && stored.value.name == volume.name)
                use(stored.value.headNumber + 1, in: &stored.value)
                let updated = try await registry.update(stored)
                #expect(updated.revision == stored.revision + 1)
                expected.insert(Placement(member: member, record: updated.value))
            }
        }
        let ids = Set(volumes.map(\.id))
        let shown = try await contract.two.placements().filter { ids.contains($0.record.id) }
        #expect(Set(shown) == expected && shown.count == expected.count)
    }

    /// Of one member and volume: what another task of the member was faster with is refused as such, and nothing else is.
    private static func mixedOperations(
        _ registry: any SharedSiteRegistry, _ member: SiteID, _ volume: VolumeRecord, _ task: Int
    ) async {
        for step in 0..<4 {
            do throws(RegistryError) {
                guard var stored = try await registry.volume(volume.id) else {
                    var mine = volume
                    if member != volume.head.site {
                        guard let follower = try? record(volume.name, at: member, following: volume) else {
                            Issue.record("no record for \(member)")
                            return
                        }
                        mine = follower
                    }
                    _ = try await registry.insert(mine)
                    continue
                }
                if (task + step) % 5 == 0 {
                    try await registry.remove(stored)
                } else {
                    use(UInt64(1000 + 10 * task + step), in: &stored.value)
                    let updated = try await registry.update(stored)
                    #expect(updated.revision == stored.revision + 1)
                }
            } catch {
                switch error {
                case .conflict, .nameTaken: continue
                case .notFound, .store, .malformed: Issue.record("\(member), task \(task): \(error)")
                }
            }
        }
    }

    private static func membersMakeThemselvesKnown(_ contract: Self) async throws {
        #expect(try await contract.one.members().isEmpty)
        let later = Member(id: contract.second, node: "worker-2", address: "10.0.0.2:7443")
        let sooner = Member(id: contract.first, node: "worker-1", address: nil)
        try await contract.two.announce(later)
        try await contract.one.announce(sooner)
        try await contract.one.announce(sooner)
        #expect(try await contract.one.members() == [sooner, later])
        let moved = Member(id: contract.first, node: "worker-1", address: "10.0.0.9:7443")
        try await contract.one.announce(moved)
        #expect(try await contract.two.members() == [moved, later])
        try await contract.one.announce(sooner)
        #expect(try await contract.two.members() == [sooner, later])
    }

    private func expect(
        _ expected: RegistryError, _ body: () async throws(RegistryError) -> Void
    ) async {
        do throws(RegistryError) {
            try await body()
            Issue.record("\(expected) was expected")
        } catch {
            #expect(error == expected)
        }
    }
}

@Suite struct MemoryRegistryTests {
    @Test func theRegistryInMemoryKeepsTheContract() async throws {
        let cluster = MemoryCluster()
        let member = try #require(SiteID("worker-1.london"))
        try await RegistryContract.check(cluster.registry(of: member)) { cluster.registry(of: member) }
    }

    @Test func theRegistryInMemoryKeepsTheContractOfSeveralMembers() async throws {
        let cluster = MemoryCluster()
        try await SharedRegistryContract.check { cluster.registry(of: $0) }
    }
}
