internal import Foundation

/// Two sites, london and sydney, that trust each other, each in a network namespace of its own with an
/// emulated WAN link between them.
///
/// Everything is registered with the cleanup: mounts, processes, link, directories go when it ends.
package struct SitePair: Sendable {
    package let link: WANLink
    package let london: SiteProcess
    package let sydney: SiteProcess
    /// A third site, if one was asked for: beside london, beyond the link from sydney.
    package let tokyo: SiteProcess?
    /// A temporary directory for whatever belongs to this pair.
    package let directory: String

    /// - Parameters:
    ///   - binary: the program `godwit`.
    ///   - options: more options for every `godwit site`.
    ///   - withTokyo: whether there is a third site.
    ///   - prepare: called before anything is made in the pair's directory, whose `london-state` and
    ///     `sydney-state` hold the sites' state.
    package static func start(
        binary: String, link settings: LinkSettings = LinkSettings(), options: [String] = [],
        in parent: String = "/tmp", withTokyo: Bool = false, _ cleanup: Cleanup,
        prepare: @Sendable (_ directory: String) async throws -> Void = { _ in }
    ) async throws -> SitePair {
        let directory = try cleanup.makeTemporaryDirectory(in: parent)
        try await prepare(directory)
        let link = try await WANLink.open(settings)
        try cleanup.add(link)
        func site(_ name: String, _ end: WANLink.End, port: Int) -> SiteProcess {
            SiteProcess(
                name: name, binary: binary, stateDirectory: "\(directory)/\(name)-state",
                address: "\(end.address):\(port)", network: end.namespace, options: options,
                environment: [SiteProcess.stopVariable: "\(directory)/\(name)-stop"])
        }
        let pair = SitePair(
            link: link, london: site("london", link.a, port: 7443),
            sydney: site("sydney", link.b, port: 7443),
            tokyo: withTokyo ? site("tokyo", link.a, port: 7444) : nil, directory: directory)
        try await atOnce(pair.sites) { try await $0.initialise() }
        for (index, one) in pair.sites.enumerated() {
            for other in pair.sites[..<index] { try await SiteProcess.introduce(one, other) }
        }
        for site in pair.sites {
            try FileManager.default.createDirectory(
                atPath: pair.mountPoint(of: site), withIntermediateDirectories: true)
            try cleanup.add("site \(site.name)", limit: .seconds(40)) { await site.stop() }
        }
        try await atOnce(pair.sites) { try await $0.start() }
        return pair
    }

    private static func atOnce(
        _ sites: [SiteProcess], _ body: @escaping @Sendable (SiteProcess) async throws -> Void
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for site in sites { group.addTask { try await body(site) } }
            try await group.waitForAll()
        }
    }

    package var sites: [SiteProcess] { [london, sydney] + (tokyo.map { [$0] } ?? []) }

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
