internal import Foundation

/// Two sites, london and sydney, that trust each other, each in a network namespace of its own with an
/// emulated WAN link between them.
///
/// Everything is registered with the cleanup: mounts, processes, link, directories go when it ends.
package struct SitePair: Sendable {
    package let link: WANLink
    package let london: SiteProcess
    package let sydney: SiteProcess
    /// A temporary directory for whatever belongs to this pair.
    package let directory: String

    /// - Parameters:
    ///   - binary: the program `godwit`.
    ///   - options: more options for both `godwit site`.
    ///   - prepare: called before anything is made in the pair's directory, whose `london-state` and
    ///     `sydney-state` hold the sites' state.
    package static func start(
        binary: String, link settings: LinkSettings = LinkSettings(), options: [String] = [],
        in parent: String = "/tmp", _ cleanup: Cleanup,
        prepare: @Sendable (_ directory: String) async throws -> Void = { _ in }
    ) async throws -> SitePair {
        let directory = try cleanup.makeTemporaryDirectory(in: parent)
        try await prepare(directory)
        let link = try await WANLink.open(settings)
        try cleanup.add(link)
        let london = SiteProcess(
            name: "london", binary: binary, stateDirectory: directory + "/london-state",
            address: link.a.address + ":7443", network: link.a.namespace, options: options)
        let sydney = SiteProcess(
            name: "sydney", binary: binary, stateDirectory: directory + "/sydney-state",
            address: link.b.address + ":7443", network: link.b.namespace, options: options)
        let pair = SitePair(link: link, london: london, sydney: sydney, directory: directory)
        for site in [london, sydney] { try await site.initialise() }
        try await SiteProcess.introduce(london, sydney)
        for site in [london, sydney] {
            try FileManager.default.createDirectory(
                atPath: pair.mountPoint(of: site), withIntermediateDirectories: true)
            try cleanup.add("site \(site.name)", limit: .seconds(40)) { await site.stop() }
            try await site.start()
        }
        return pair
    }

    /// Where a test mounts a site's volume.
    package func mountPoint(of site: SiteProcess) -> String { "\(directory)/\(site.name)" }

    /// Mounts a volume at a site's mount point; unmounted at the end if nobody did before.
    @discardableResult
    package func mount(_ volume: String, at site: SiteProcess, _ cleanup: Cleanup) async throws -> String {
        let path = mountPoint(of: site)
        try await site.godwit(["volume", "mount", volume, path])
        try cleanup.add(mountAt: path)
        return path
    }

    package func unmount(_ volume: String, at site: SiteProcess) async throws {
        // A server that has just ended may hold a file for a moment longer.
        var failure: (any Error)?
        for _ in 0..<50 {
            do {
                try await site.godwit(["volume", "unmount", volume])
                return
            } catch {
                failure = error
                try await Task.sleep(for: .milliseconds(100))
            }
        }
        if let failure { throw failure }
    }

    /// Waits until every byte of a volume is at a site and the other's copy is released.
    package func waitUntilReleased(
        _ volume: String, at site: SiteProcess, limit: Duration = .seconds(120)
    ) async throws {
        let deadline = ContinuousClock.now + limit
        while try await site.inspect(volume)["released"] as? Bool != true {
            guard ContinuousClock.now < deadline else {
                throw LabError.tooSlow("hydration of \(volume) at \(site.name)", limit: limit)
            }
            try await Task.sleep(for: .milliseconds(100))
        }
    }
}
