import Catalog
import EngineTestSupport
import Hydration
import PeerService
import RPC
import Synchronization
import Testing
import VolumeModel

/// How long the origin of a head and those who had the volume before are waited for, and what they are asked.
@Suite struct KeeperTimeTests {
    private struct Failure: Error {}

    private final class Counter: Sendable {
        private let count = Mutex(0)
        var value: Int { count.withLock { $0 } }

        func next() -> Int {
            count.withLock { count in
                count += 1
                return count
            }
        }

        func reset() { count.withLock { $0 = 0 } }
    }

    /// Tells for how long it was to be waited for, and fails as it is told, or gives zeros.
    private final class Origin: ByteSource {
        let name = "site elsewhere"
        let state = Mutex((failure: (any Error)?.none, timeouts: [Duration]()))

        func fail(_ failure: (any Error)?) { state.withLock { $0.failure = failure } }

        func read(_ extents: [Extent], urgency: Urgency, timeout: Duration) async throws -> [Piece] {
            let failure = state.withLock { state in
                state.timeouts.append(timeout)
                return state.failure
            }
            if let failure { throw failure }
            return extents.map { Piece(inode: $0.inode, range: $0.range, content: .zeros) }
        }

        func linkByteCount(of extents: [Extent]) async throws -> UInt64 { 0 }

        func lastTimeout() throws -> Duration { try #require(state.withLock { $0.timeouts.last }) }
    }

    private let began: ChangedBytesTests.Began
    private let volume: TestVolume
    private let origin = Origin()
    private let london: SiteID
    private let unavailable: PeerError
    /// A file that london has as it is, and one of which all has changed since.
    private let same: Extent
    private let changed: Extent

    init() async throws {
        began = try await ChangedBytesTests.Began(seed: 20)
        volume = try TestVolume(opening: began.directory, source: began.source)
        let london = try #require(SiteID("london"))
        self.london = london
        unavailable = .call(site: london, method: "Read", RPCStatus(.unavailable, "nobody is there"))
        let inodes = began.contents.keys.sorted()
        let range = ByteRange(0, 65_536)
        (same, changed) = (Extent(inode: inodes[2], range: range), Extent(inode: inodes[3], range: range))
        var bytes = ChangedBytes(unchangedOf: 300_000)
        _ = bytes.insert(ByteRange(0, 300_000))
        try await volume.storage.catalog.takeEarlierReigns(before: Epoch(2)) { [bytes] heir, after in
            guard heir == Epoch(2) else { return ChangesSince(kind: .unknown) }
            return ChangesSince(
                kind: .exact, since: .first, sinceName: StateName(randomHigh: 1, randomLow: 2),
                untilName: StateName(randomHigh: 3, randomLow: 4), sinceKeeper: london,
                firstNewInode: inodes[6], inodes: after < inodes[3] ? [(inodes[3], bytes)] : [])
        }
        try #require(try volume.storage.catalog.perform { $0.formerStates.map(\.keeper) } == [london])
    }

    private func make(_ keeper: @escaping FormerKeepers.Keeper) throws -> FormerKeepers {
        FormerKeepers(
            behind: origin, of: volume.storage.catalog, at: try #require(SiteID("sydney")), log: { _ in },
            keeper: keeper)
    }

    /// What only the origin has it has all the time for.
    @Test func theOriginHasLessTimeOnlyForWhatAnotherHas() async throws {
        let keepers = try make { _, extents, _, _ in
            extents.map {
                Piece(inode: $0.inode, range: $0.range, content: .bytes(Array(repeating: 1, count: 65_536)))
            }
        }
        origin.fail(Failure())
        await #expect(throws: Failure.self) {
            _ = try await keepers.read([changed], urgency: .urgent, timeout: .seconds(30))
        }
        #expect(try origin.lastTimeout() > .seconds(29))
        let pieces = try await keepers.read([same], urgency: .urgent, timeout: .seconds(30))
        #expect(pieces.map(\.range) == [same.range])
        #expect(try origin.lastTimeout() <= .seconds(10))
        try await volume.close()
    }

    /// The origin was silent and is back: somebody else who is silent keeps nobody from it.
    @Test func aDeadKeeperLeavesTheOriginItsTime() async throws {
        let unavailable = self.unavailable
        let asked = Counter()
        let keepers = try make { _, _, _, timeout in
            _ = asked.next()
            try await Task.sleep(for: timeout)
            throw unavailable
        }
        origin.fail(unavailable)
        await #expect(throws: unavailable) {
            _ = try await keepers.read([changed], urgency: .urgent, timeout: .seconds(2))
        }
        #expect(asked.value == 0)
        origin.fail(nil)
        let pieces = try await keepers.read([same], urgency: .urgent, timeout: .seconds(2))
        #expect(pieces.map(\.range) == [same.range])
        #expect(asked.value == 1)
        #expect(try origin.lastTimeout() > .seconds(1))
        try await volume.close()
    }

    // MARK: an owner that does not know what was followed of it

    private let refusal = RPCStatus(.failedPrecondition, "it is not known any more")

    /// What has changed since an own copy is not told then; bytes come all the same.
    @Test func anOwnerThatDoesNotTellWhatHasChangedIsAskedForBytes() async throws {
        let catalog = volume.storage.catalog
        _ = try catalog.pin("heir at epoch 3", sealedFor: Epoch(3))
        let copy = try #require(try OwnCopy(volume.storage, grantedTo: Epoch(3)))
        let (london, refusal) = (self.london, self.refusal)
        let calls = Counter()
        let peer = PeerSource(site: london, volume: VolumeID(randomHigh: 1, randomLow: 2), reign: Epoch(4)) {
            let isFirst = calls.next() == 1
            throw PeerError.call(
                site: london, method: "", isFirst ? refusal : RPCStatus(.unavailable, "asked for bytes"))
        }
        let source = ReturningSource(peer: peer) { _ in
        } openCopy: {
            copy
        }
        await #expect(
            throws: PeerError.call(site: london, method: "", RPCStatus(.unavailable, "asked for bytes"))
        ) {
            _ = try await source.read([same], urgency: .background, timeout: .seconds(1))
        }
        calls.reset()
        #expect(try await source.linkByteCount(of: [same]) == same.range.byteCount)
        try await volume.close()
    }

    /// It is told what was seen at the second question, and from then on at once.
    @Test func anOwnerThatHasRefusedOnceIsToldAtOnceWhatWasSeen() async throws {
        let (london, refusal) = (self.london, self.refusal)
        let calls = Counter()
        let storage = volume.storage
        let peer = PeerSource(site: london, volume: VolumeID(randomHigh: 1, randomLow: 2), reign: Epoch(4)) {
            _ = calls.next()
            throw PeerError.call(site: london, method: "", refusal)
        } seen: {
            try SeenFiles($0, of: storage)
        }
        for expected in [2, 3, 4] {
            await #expect(throws: PeerError.self) {
                _ = try await peer.read([same], urgency: .urgent, timeout: .seconds(30))
            }
            #expect(calls.value == expected)
        }
        try await volume.close()
    }
}
