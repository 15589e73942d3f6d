import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// Random operations, compared with a model after each. GODWIT_MODEL_STEPS makes the runs longer, GODWIT_MODEL_SEED
/// repeats them.
@Suite struct ModelTests {
    private static let steps =
        ProcessInfo.processInfo.environment["GODWIT_MODEL_STEPS"].flatMap { Int($0) } ?? 500
    /// The runs' own come after it.
    private static let seed: UInt64 = {
        let given = ProcessInfo.processInfo.environment["GODWIT_MODEL_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0..<1 << 32)
        print("model runs: GODWIT_MODEL_SEED=\(seed)")
        // Also of a run that ends in a trap.
        fflush(nil)
        return seed
    }()

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func aVolumeDoesWhatAFileSystemDoes(_ number: UInt64) async throws {
        let seed = Self.seed &+ number
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"), openFileLimit: 16)
        let run = ModelRun(
            volume, Model(), source: nil, configuration: Hydrator.Configuration(), temporary: temporary,
            seed: seed)
        try await run.run(steps: Self.steps, crashes: true)
        try await run.volume.close()
    }

    @Test(arguments: 11...16 as ClosedRange<UInt64>)
    func aVolumeWhoseBytesAreElsewhereDoesTheSame(_ number: UInt64) async throws {
        try await runElsewhere(Self.seed &+ number, namesArrive: false)
    }

    @Test(arguments: 21...30 as ClosedRange<UInt64>)
    func aVolumeWhoseNamesAreElsewhereDoesTheSame(_ number: UInt64) async throws {
        try await runElsewhere(Self.seed &+ number, namesArrive: true)
    }

    private func runElsewhere(_ seed: UInt64, namesArrive: Bool) async throws {
        let temporary = try TemporaryDirectory()
        let before = ModelRun(
            try TestVolume.make(in: try temporary.make("owner")), Model(), source: nil,
            configuration: Hydrator.Configuration(), temporary: temporary,
            seed: seed)
        try await before.run(steps: 250, crashes: false)
        let owner = before.volume
        for node in before.openHandles {
            owner.fileSystem.release(node.inode, handle: FileHandle(node.inode.number))
        }
        try owner.fileSystem.finish()
        before.model.unnamed = []

        // What the origin holds does not change, whatever the model goes through.
        let contents = Dictionary(uniqueKeysWithValues: before.model.files.map { ($0.inode, $0.content) })
        var generator = Generator(seed: seed)
        let source = FakeSource({ contents[$0] }) { state in
            state.answerByteCount = [1000, 10_000, 1 << 20][generator.next(below: 3)]
            state.namesWholeHoles = generator.next(below: 2) == 0
            state.delay = generator.next(below: 2) == 0 ? .zero : .milliseconds(1)
        }
        let directory = try temporary.make("heir")
        if namesArrive {
            let listingByteCount = [60, 300, 1 << 20][generator.next(below: 3)]
            source.set { state in
                state.catalog = owner.storage.catalog
                state.listingByteCount = listingByteCount
                state.holdsListings = true
            }
            try owner.storage.settle()
            try TestVolume.makeArrivingHeir(
                of: owner.storage.catalog, in: directory, byteCount: listingByteCount)
        } else {
            try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        }
        var configuration = Hydrator.Configuration()
        configuration.batchByteCount = 20_000
        configuration.batchExtentCount = 4
        configuration.streamsInBackground = seed % 3 != 0
        let heir = try TestVolume(opening: directory, source: source, configuration: configuration)
        if seed % 2 == 0 { heir.startHydration() }
        for node in before.model.all {
            node.isSynced = true
            node.history = [node.content]
        }
        let run = ModelRun(
            heir, before.model, source: source, configuration: configuration, temporary: temporary,
            seed: seed &+ 1000)
        if !namesArrive { try run.checkNames() }
        try await run.run(steps: Self.steps, crashes: true)
        try await run.volume.close()
        try await owner.close()
    }
}
