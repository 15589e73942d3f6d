import Foundation
import Testing

@testable import TestBed

/// A site with a mounted volume, of which every change below its state directory is recorded (`recorder.c`): what a power
/// loss at any moment might leave of it is then written out by `SimulatedDisk`.
struct RecordedSite {
    let directory: String
    let log: String
    let mountPoint: String
    /// The volume's head, below the state directory.
    let head: String
    private let site: SiteProcess

    /// Starts a site, and makes and mounts a volume.
    static func start(_ cleanup: Cleanup) async throws -> RecordedSite {
        let directory = try cleanup.makeTemporaryDirectory()
        let (state, log) = (directory + "/state", directory + "/log")
        let mountPoint = directory + "/mnt"
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
        let site = SiteProcess(
            name: "solo", binary: godwitBinary, stateDirectory: state, address: "127.0.0.1:0",
            environment: try await environment(recording: state, to: log, in: directory))
        try await site.initialise()
        try cleanup.add("site") { await site.stop() }
        try await site.start()
        try await site.godwit(["volume", "create", "data", "--capacity", "1Gi"])
        let id = try #require(try await site.inspect("data")["id"] as? String)
        try await site.godwit(["volume", "mount", "data", mountPoint])
        try cleanup.add(mountAt: mountPoint)
        return RecordedSite(
            directory: directory, log: log, mountPoint: mountPoint, head: "volumes/\(id)/heads/1/",
            site: site)
    }

    /// What a site's process is to be started with.
    ///
    /// - Parameter directory: for the library that records.
    static func environment(
        recording state: String, to log: String, in directory: String
    ) async throws -> [String: String] {
        [
            "LD_PRELOAD": try await PreloadedLibrary.build("recorder", in: directory),
            "RECORD_ROOT": state, "RECORD_LOG": log,
        ]
    }

    /// Ends it as a crash: nothing is closed in order.
    func kill() async { await site.kill() }
}
