package import Hydration
internal import Catalog

/// Where the model's runs begin.
package struct ModelScene {
    package let volume: TestVolume
    package let model: Model
    package let source: FakeSource?
    package var configuration = Hydrator.Configuration()
    /// Whose volume it was before.
    private let owner: TestVolume?
    private let temporary: TemporaryDirectory
    private let seed: UInt64

    /// An empty volume.
    package init(empty temporary: TemporaryDirectory, seed: UInt64) throws {
        volume = try TestVolume.make(in: try temporary.make("head"), openFileLimit: 16)
        (model, source, owner) = (Model(), nil, nil)
        (self.temporary, self.seed) = (temporary, seed)
    }

    /// A volume that was used at another site, where its bytes still are.
    ///
    /// - Parameter namesArrive: whether its names are still there, too.
    package init(heir temporary: TemporaryDirectory, seed: UInt64, namesArrive: Bool) async throws {
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let before = ModelRun(
            EngineDriver(owner, seed: seed), Model(), source: nil, configuration: Hydrator.Configuration(),
            temporary: temporary, seed: seed)
        try await before.run(steps: 250, crashes: nil)
        try await before.closeAll()
        let last = before.volume
        try last.fileSystem.finish()

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
                state.catalog = last.storage.catalog
                state.listingByteCount = listingByteCount
                state.holdsListings = true
            }
            try last.storage.settle()
            try TestVolume.makeArrivingHeir(
                of: last.storage.catalog, in: directory, byteCount: listingByteCount)
        } else {
            try await TestVolume.makeHeir(of: last.storage.catalog, in: directory)
        }
        configuration.batchByteCount = 20_000
        configuration.batchExtentCount = 4
        configuration.streamsInBackground = seed % 3 != 0
        let heir = try TestVolume(opening: directory, source: source, configuration: configuration)
        if seed % 2 == 0 { heir.startHydration() }
        before.model.noteSynchronized()
        (volume, model, self.source, self.owner) = (heir, before.model, source, last)
        (self.temporary, self.seed) = (temporary, seed &+ 1000)
    }

    package func run(_ driver: any ModelDriver) -> ModelRun {
        ModelRun(
            driver, model, source: source, configuration: configuration, temporary: temporary, seed: seed)
    }

    /// To be called when the run is over and its volume is closed.
    package func end() async throws { try await owner?.close() }
}
