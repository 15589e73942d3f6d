import EngineTestSupport
import Testing

/// Random operations, compared with a model after each. The same through a real mount: `MountedModelTests`.
@Suite struct ModelTests {
    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func aVolumeDoesWhatAFileSystemDoes(_ number: UInt64) async throws {
        try await run(
            try ModelScene(empty: try TemporaryDirectory(), seed: ModelFigures.seed &+ number), number)
    }

    @Test(arguments: 11...16 as ClosedRange<UInt64>)
    func aVolumeWhoseBytesAreElsewhereDoesTheSame(_ number: UInt64) async throws {
        try await run(
            try await ModelScene(
                heir: try TemporaryDirectory(), seed: ModelFigures.seed &+ number, namesArrive: false), number
        )
    }

    @Test(arguments: 21...30 as ClosedRange<UInt64>)
    func aVolumeWhoseNamesAreElsewhereDoesTheSame(_ number: UInt64) async throws {
        try await run(
            try await ModelScene(
                heir: try TemporaryDirectory(), seed: ModelFigures.seed &+ number, namesArrive: true), number)
    }

    private func run(_ scene: ModelScene, _ number: UInt64) async throws {
        let run = scene.run(EngineDriver(scene.volume, seed: ModelFigures.seed &+ number))
        try await run.run(steps: ModelFigures.steps, crashes: 30)
        try await run.volume.close()
        try await scene.end()
    }
}
