internal import Foundation
internal import Glibc
internal import TestBed

/// A directory to measure in.
struct BenchPlace: Sendable {
    enum Kind: String, Sendable {
        case ext4, godwit, bindfs
        /// libfuse's own example of a quick file system, from Debian's source package.
        case passthrough = "passthrough_hp"
    }

    let kind: Kind
    let path: String
}

/// The same disk's file system, a resident volume, and peers: in turns, so that each round gives ratios.
struct BenchPlaces: Sendable {
    /// First ext4, then Godwit.
    let all: [BenchPlace]
    let site: SiteProcess

    static func make(_ plan: BenchPlan, peers: [BenchPlace.Kind], _ cleanup: Cleanup) async throws
        -> BenchPlaces
    {
        let directory = try cleanup.makeTemporaryDirectory()
        var places = [BenchPlace(kind: .ext4, path: "\(directory)/ext4")]
        try BenchFiles.makeDirectory(places[0].path)
        let site = SiteProcess(
            name: "london", binary: plan.binary, stateDirectory: "\(directory)/state", address: "127.0.0.1:0",
            options: WorkMeter.siteOptions)
        try await site.initialise()
        try cleanup.add("site") { await site.stop() }
        try await site.start()
        try await site.godwit(["volume", "create", "bench", "--capacity", "50Gi"])
        let mount = "\(directory)/godwit"
        try BenchFiles.makeDirectory(mount)
        try await site.godwit(["volume", "mount", "bench", mount])
        try cleanup.add(mountAt: mount)
        places.append(BenchPlace(kind: .godwit, path: mount))
        for peer in peers {
            do {
                places.append(try await makePeer(peer, in: directory, cleanup))
            } catch {
                plan.note("without \(peer.rawValue): \(error)")
            }
        }
        return BenchPlaces(all: places, site: site)
    }

    private static func makePeer(
        _ kind: BenchPlace.Kind, in directory: String, _ cleanup: Cleanup
    ) async throws -> BenchPlace {
        let place = BenchPlace(kind: kind, path: "\(directory)/\(kind.rawValue)")
        let below = place.path + ".below"
        for path in [below, place.path] { try BenchFiles.makeDirectory(path) }
        switch kind {
        case .ext4, .godwit: break
        case .bindfs:
            guard access("/usr/bin/bindfs", X_OK) == 0 else {
                throw LabError.programMissing("bindfs (package bindfs)")
            }
            try await ChildProcess.check(
                Program("bindfs", ["--multithreaded", below, place.path]), limit: .seconds(10))
            try cleanup.add(mountAt: place.path)
        case .passthrough:
            let program = Program(try await PassthroughPeer.program(), ["--foreground", below, place.path])
            try cleanup.add(try await ChildProcess.start(program))
            // Before its end: it goes when nothing is mounted any more.
            try cleanup.add(mountAt: place.path)
            let parent = try device(of: directory)
            let deadline = ContinuousClock.now + .seconds(20)
            while try device(of: place.path) == parent {
                guard ContinuousClock.now < deadline else { throw LabError.notRunning("it mounts nothing") }
                try await Task.sleep(for: .milliseconds(50))
            }
        }
        return place
    }

    private static func device(of path: String) throws -> dev_t {
        var status = stat()
        try BenchFiles.check(stat(path, &status), "stat", path)
        return status.st_dev
    }
}
