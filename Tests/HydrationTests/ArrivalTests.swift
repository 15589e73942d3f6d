import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// Names that come when they are asked for.
@Suite struct ArrivalTests {
    /// An owner with a directory of many names, and an heir that has but a few of them.
    private struct Scene {
        let temporary: TemporaryDirectory
        let owner: TestVolume
        let source: FakeSource
        let heir: TestVolume
        let large: InodeNumber
        static let count = 3000

        init(faultTimeout: Duration = .seconds(30)) throws {
            temporary = try TemporaryDirectory()
            owner = try TestVolume.make(in: try temporary.make("owner"))
            large =
                try owner.fileSystem.makeDirectory(
                    Array("large".utf8), in: .root, permissions: 0o755, caller: .root
                ).inode
            for number in 0..<Self.count { _ = try owner.create("file \(number)", in: large) }
            try owner.storage.settle()
            let catalog = owner.storage.catalog
            source = FakeSource({ _ in nil }) { state in
                state.catalog = catalog
                state.listingByteCount = 4096
                state.holdsListings = true
            }
            let directory = try temporary.make("heir")
            try TestVolume.makeArrivingHeir(of: catalog, in: directory, byteCount: 100)
            var configuration = Hydrator.Configuration()
            configuration.faultTimeout = faultTimeout
            heir = try TestVolume(opening: directory, source: source, configuration: configuration)
        }

        func lookup(_ name: String) async throws(FileSystemError) -> FileAttributes {
            try await heir.faulting { () throws(FileSystemError) in
                try heir.fileSystem.lookup(Array(name.utf8), in: large)
            }
        }

        func close() async throws {
            try await heir.close()
            try await owner.close()
        }
    }

    @Test func aNameInALargeDirectoryIsKnownBeforeAllOfItHasCome() async throws {
        let scene = try Scene()
        let last = "file \(Scene.count - 1)"
        let found = try await scene.lookup(last)
        #expect(found.kind == .regular)
        #expect(scene.source.listings.count == 1)
        // Nor does one that is not there need the others.
        await #expect(throws: FileSystemError.errno(.noSuchEntry)) { try await scene.lookup("nothing") }
        await #expect(throws: FileSystemError.errno(.noSuchEntry)) { try await scene.lookup("nothing") }
        #expect(scene.source.listings.count == 2)
        #expect(try scene.heir.storage.catalog.perform { try $0.missingPlace(of: scene.large) } != nil)
        // A change needs all of them, and then there is nothing more to ask for.
        _ = try await scene.heir.faulting { () throws(FileSystemError) in
            try scene.heir.create("nothing", in: scene.large)
        }
        #expect(try await scene.lookup("nothing").kind == .regular)
        #expect(try !scene.heir.storage.catalog.perform { $0.isArriving })
        try await scene.close()
    }

    @Test func aListingGoesOnAsFarAsNamesHaveComeAndGivesEachOnce() async throws {
        let scene = try Scene()
        _ = try await scene.lookup("file \(Scene.count - 1)")
        var names: [[UInt8]] = []
        var offset: Int64 = 0
        while true {
            let from = offset
            let batch = try await scene.heir.faulting { () throws(FileSystemError) in
                try scene.heir.fileSystem.readDirectory(
                    scene.large, offset: from, limit: 100)
            }
            guard let last = batch.last else { break }
            names += batch.map(\.name)
            offset = last.nextOffset
        }
        #expect(names == (0..<Scene.count).map { Array("file \($0)".utf8) })
        try await scene.close()
    }

    /// Also when it has left memory since: only its row tells that it was here before.
    @Test func whatWasChangedHereIsNotTakenFromAnAnswerThatComesOnceMore() async throws {
        let scene = try Scene()
        let file = try await scene.lookup("file 2999").inode
        var changes = AttributeChanges()
        changes.permissions = 0o600
        let before = try scene.heir.fileSystem.setAttributes(changes, of: file, caller: .root)
        #expect(before.permissions == 0o600)
        let listings = scene.source.listings
        let told = listings.flatMap { $0.singles + $0.rows }
        #expect(
            told.contains {
                if case .inode(let record) = $0 { record.attributes.inode == file } else { false }
            })
        try await scene.heir.close()
        let heir = try TestVolume(opening: scene.heir.directory, source: scene.source)
        for listing in listings { try heir.storage.catalog.take(listing) }
        #expect(try heir.fileSystem.attributes(of: file) == before)
        try await heir.bringAllNames()
        #expect(try CatalogImage(heir.storage.catalog).faults() == [])
        try await heir.close()
        try await scene.owner.close()
    }

    @Test func manyWhoNeedTheSameDirectoryAskOnce() async throws {
        let scene = try Scene()
        scene.source.set { $0.delay = .milliseconds(30) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<20 { group.addTask { _ = try await scene.lookup("file 2000") } }
            try await group.waitForAll()
        }
        #expect(scene.source.listings.count == 1)
        try await scene.close()
    }

    /// An origin that answers and tells nothing must not keep anybody asking for ever.
    @Test func anOriginThatBringsNothingNewIsAnErrorInTime() async throws {
        let scene = try Scene(faultTimeout: .milliseconds(400))
        let large = scene.large
        scene.source.set { state in
            state.listingAnswer = { request in
                Listing(parts: [
                    Listing.Part(directory: large, after: 0, last: 1 << 40, isComplete: true)
                ])
            }
        }
        await #expect(throws: FileSystemError.errno(.inputOutput)) {
            _ = try await scene.heir.faulting { () throws(FileSystemError) in
                try scene.heir.create("new", in: large)
            }
        }
        #expect(scene.source.listings.count < 40)
        scene.source.set { $0.listingAnswer = nil }
        _ = try await scene.heir.faulting { () throws(FileSystemError) in
            try scene.heir.create("new", in: large)
        }
        try await scene.close()
    }

    /// The origin counts files without a name, which never come.
    @Test func sumsAreThoseOfWhatHasComeInTheEnd() async throws {
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let (unnamed, handle) = try owner.fileSystem.createUnnamed(
            in: .root, permissions: 0o600, openFlags: 2, caller: .root)
        try owner.write(unnamed.inode, at: 0, [UInt8](repeating: 1, count: 10_000))
        let file = try owner.create("file")
        try owner.write(file, at: 0, [UInt8](repeating: 2, count: 20_000))
        try owner.storage.settle()
        let source = FakeSource({ _ in [UInt8](repeating: 2, count: 20_000) })
        source.set { $0.catalog = owner.storage.catalog }
        let directory = try temporary.make("heir")
        try TestVolume.makeArrivingHeir(of: owner.storage.catalog, in: directory, byteCount: 1)
        let again = try TestVolume(opening: directory, source: source)
        try await again.close()
        let heir = try TestVolume(opening: directory, source: source)
        try await heir.bringAllNames()
        #expect(try CatalogImage(heir.storage.catalog).faults() == [])
        #expect(try heir.storage.catalog.perform { $0.missingByteCount } == 20_000)
        try await heir.close()
        owner.fileSystem.release(unnamed.inode, handle: handle)
        try await owner.close()
    }

    /// What has not come would be told as gone.
    @Test func statesAreComparedOnlyWhenAllTheirNamesAreHere() async throws {
        let scene = try Scene()
        let (owner, heir) = (scene.owner.storage.catalog, scene.heir.storage.catalog)
        for pair in [(owner, heir), (heir, owner)] {
            await #expect {
                try await CatalogComparison.run(pair.0, pair.1) { _, _ in Issue.record("told of a difference")
                }
            } throws: { error in
                if case CatalogError.missingDirectory = error { true } else { false }
            }
        }
        try await scene.heir.bringAllNames()
        try await CatalogComparison.run(owner, heir) { kind, path in
            Issue.record("\(kind) \(String(decoding: path, as: UTF8.self))")
        }
        try await scene.close()
    }

    /// A pause is for bytes: without its names a volume could not be handed on.
    @Test func namesComeThoughHydrationIsPaused() async throws {
        let scene = try Scene()
        scene.source.set { $0.holdsListings = false }
        var policy = HydrationPolicy()
        policy.isPaused = true
        scene.heir.hydrator?.follow(policy)
        scene.heir.startHydration()
        let deadline = ContinuousClock.now + .seconds(60)
        while try scene.heir.storage.catalog.perform({ $0.isArriving }), ContinuousClock.now < deadline {
            try await Task.sleep(for: .milliseconds(10))
        }
        #expect(try !scene.heir.storage.catalog.perform { $0.isArriving })
        try await scene.close()
    }
}
