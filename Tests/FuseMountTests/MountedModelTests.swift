import EngineTestSupport
import Testing

/// What `ModelTests` does with the engine, by system calls on a mount: the kernel, with all that it keeps, stands between.
@Suite struct MountedModelTests {
    @Test(arguments: 1...1 as ClosedRange<UInt64>)
    func aMountedVolumeDoesWhatAFileSystemDoes(_ number: UInt64) async throws {
        let temporary = try TemporaryDirectory()
        try await run(try ModelScene(empty: temporary, seed: ModelFigures.seed &+ number), temporary, number)
    }

    @Test(arguments: 11...11 as ClosedRange<UInt64>)
    func aMountedVolumeWhoseBytesAreElsewhereDoesTheSame(_ number: UInt64) async throws {
        let temporary = try TemporaryDirectory()
        let scene = try await ModelScene(
            heir: temporary, seed: ModelFigures.seed &+ number, namesArrive: false)
        try await run(scene, temporary, number)
    }

    @Test(arguments: 21...21 as ClosedRange<UInt64>)
    func aMountedVolumeWhoseNamesAreElsewhereDoesTheSame(_ number: UInt64) async throws {
        let temporary = try TemporaryDirectory()
        let scene = try await ModelScene(
            heir: temporary, seed: ModelFigures.seed &+ number, namesArrive: true)
        try await run(scene, temporary, number)
    }

    private func run(
        _ scene: ModelScene, _ temporary: TemporaryDirectory, _ number: UInt64
    ) async throws {
        let driver = try MountDriver(
            scene.volume, at: try temporary.make("mount"), seed: ModelFigures.seed &+ number)
        let run = scene.run(driver)
        var hasEnded = false
        // Once in 36 runs what a file took was counted for more than 20 s after it was gone (seed 1304419, which does it no
        // second time): perhaps the kernel had not let go of it.
        try await withKnownIssue("what a removed file took stays counted", isIntermittent: true) {
            do {
                try await run.run(steps: ModelFigures.steps, crashes: 100)
                try await run.closeAll()
            } catch {
                await driver.finish()
                throw error
            }
            hasEnded = true
        } matching: { issue in
            issue.error.map { "\($0)".contains("bytes taken, counted") } ?? false
        }
        guard hasEnded else { return }
        await driver.finish()
        try await scene.end()
    }
}
