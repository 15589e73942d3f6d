import ClusterResources
import Foundation
import KubernetesAPI
import SiteIdentity
import Testing
import VolumeModel

@testable import TestBed

extension ClusterTests {
    /// Two nodes of one site as processes, with the keys of a Secret, behind a gateway.
    @Suite struct MemberProcessTests {
        @Test func membersAreReachedThroughTheGatewayAndFollowTheirSecrets() async throws {
            try await withCluster { cluster, client, cleanup in
                let keys = try Mounted(cluster.directory + "/site-keys")
                let peers = try Mounted(cluster.directory + "/peers")
                try keys.put("authority.pem", SiteAuthority(of: SiteID("london")!).pem)
                var sites: [SiteProcess] = []
                for name in ["n1", "n2"] {
                    let address = "127.0.0.1:\(try freePort())"
                    let site = SiteProcess(
                        name: name, binary: godwitBinary, stateDirectory: "\(cluster.directory)/\(name)",
                        address: address,
                        options: [
                            "--site-keys", keys.path, "--peers-from", peers.path, "--advertise", address,
                            "--registry", cluster.kubeconfig,
                        ])
                    try cleanup.add("site \(name)") { await site.stop() }
                    try await site.start(limit: .seconds(60))
                    sites.append(site)
                }
                try await whatIsDeadAndLeftOverIsTold(cluster, client, sites[1], cleanup)
                let port = try freePort()
                var program = Program(
                    godwitBinary,
                    [
                        "gateway", "--listen", "127.0.0.1:\(port)", "--registry", cluster.kubeconfig,
                        "--monitor-listen", "127.0.0.1:\(try freePort())",
                    ])
                program.output = .file(cluster.directory + "/gateway.log")
                let gateway = try await ChildProcess.start(program)
                try cleanup.add("gateway") { _ = await gateway.end(grace: .seconds(10)) }
                for site in sites {
                    try await eventually("\(site.name) behind the gateway") {
                        let shown = try await certificate(of: "\(site.name)-node.london", at: port)
                        return try !shown.isEmpty && leaf(of: site).contains(shown)
                    }
                }
                try await trustIsFollowed(sites, peers)
                try await newKeysAreTakenUp(sites[0], keys, port)

                // One answers for all while the other is away.
                await sites[0].kill()
                for _ in 0..<3 {
                    let shown = try await certificate(of: "london", at: port)
                    #expect(try !shown.isEmpty && leaf(of: sites[1]).contains(shown))
                }
                #expect(try await certificate(of: "n3-node.london", at: port).isEmpty)
                #expect(await gateway.end(grace: .seconds(20)) == .exited(0))
            }
        }

        /// A mount whose process was killed, and data that the registry does not name.
        private func whatIsDeadAndLeftOverIsTold(
            _ cluster: TestCluster, _ client: KubernetesClient, _ site: SiteProcess, _ cleanup: Cleanup
        ) async throws {
            let (path, left) = (
                "\(cluster.directory)/mnt",
                "\(site.stateDirectory)/volumes/00000000-0000-4000-8000-000000000001"
            )
            for directory in [path, left + "/heads/1"] {
                try FileManager.default.createDirectory(
                    atPath: directory, withIntermediateDirectories: true,
                    attributes: [.posixPermissions: 0o700])
            }
            try await site.godwit(["volume", "create", "data", "--capacity", "1Gi"])
            try await site.godwit(["volume", "mount", "data", path])
            let ticket = try cleanup.add(mountAt: path)
            defer { withExtendedLifetime(ticket) {} }
            await site.kill()
            try await site.start(limit: .seconds(60))
            let name = "\(site.name)-node"
            func report() async throws -> MemberReport? {
                try await client.get(MemberResource.self, name).status
            }
            try await eventually("a dead mount in the member's status") {
                try await report()?.troubles?.contains { $0.kind == "DeadMount" } ?? false
            }
            let told = try #require(try await report())
            #expect(told.authority?.count == 64 && told.clockSeconds == 0, "\(told)")
            let doctor = try await plugin(cluster.kubeconfig, ["doctor"])
            let member = "member \(name).london: "
            for words in [
                "FAIL  \(member)a mount is served by nobody, and each use fails: data at \(path)\n",
                "warn  \(member)data of 1 volume that the registry does not name: \(left)\n",
            ] {
                #expect(doctor.output.contains(words), "\(words): \(doctor.output)")
            }
            try await site.godwit(["volume", "unmount", "data"])
            try FileManager.default.removeItem(atPath: left)
            try await eventually("the end of the dead mount in the member's status") {
                try await report()?.troubles?.contains { $0.kind == "DeadMount" } == false
            }
        }

        private func trustIsFollowed(_ sites: [SiteProcess], _ peers: Mounted) async throws {
            let sydney = try SiteAuthority(of: SiteID("sydney")!)
            try peers.put("sydney.trust", sydney.trustDocument(address: "203.0.113.7:7443"))
            for site in sites {
                try await eventually("trust at \(site.name)") { try log(of: site).contains("peers: sydney") }
            }
            try peers.put("paris.trust", "rubbish")
            try await eventually("the word of what is damaged") {
                try log(of: sites[0]).contains("site paris is not trusted, its document is damaged")
            }
            try peers.put("paris.trust", nil)
            try peers.put("sydney.trust", nil)
            for site in sites {
                try await eventually("the end of trust at \(site.name)") {
                    try log(of: site).split(separator: "\n").last { $0.contains("peers:") }?.hasSuffix(
                        "peers: ")
                        ?? false
                }
            }
        }

        private func newKeysAreTakenUp(_ site: SiteProcess, _ keys: Mounted, _ port: UInt16) async throws {
            let name = "\(site.name)-node.london"
            let before = try await certificate(of: name, at: port)
            // What cannot be used changes nothing and is told.
            try keys.put("authority.pem", SiteAuthority(of: SiteID("paris")!).pem)
            try await eventually("the refusal") {
                try log(of: site).contains("these are the keys of site paris")
            }
            #expect(try await certificate(of: name, at: port) == before)
            let next = try SiteAuthority(of: SiteID("london")!)
            try keys.put("authority.pem", next.pem)
            try await eventually("the new certificate") {
                let shown = try await certificate(of: name, at: port)
                return try !shown.isEmpty && shown != before && leaf(of: site).contains(shown)
            }
            #expect(try log(of: site).contains("the site's keys were replaced"))
            let shown = try await site.godwit(["pki", "show"])
            #expect(try shown == next.trustDocument(address: nil))
        }

        private func log(of site: SiteProcess) throws -> String {
            try String(contentsOfFile: site.logPath, encoding: .utf8)
        }

        private func leaf(of site: SiteProcess) throws -> String {
            try String(contentsOfFile: site.stateDirectory + "/pki/leaf.pem", encoding: .utf8)
        }

        /// What whoever asks for a name is shown; empty: nothing.
        private func certificate(of name: String, at port: UInt16) async throws -> String {
            let host = SiteIdentity.serverName(of: SiteID(name)!)
            let program = Program(
                "openssl", ["s_client", "-connect", "127.0.0.1:\(port)", "-servername", host])
            let output = try await ChildProcess.run(program, limit: .seconds(30)).output
            guard let start = output.range(of: "-----BEGIN CERTIFICATE-----"),
                let end = output.range(of: "-----END CERTIFICATE-----")
            else { return "" }
            return String(output[start.lowerBound..<end.upperBound])
        }
    }
}

/// A directory of which each file is a link to one that is replaced as a whole, as where a Secret is mounted.
private struct Mounted {
    let path: String

    init(_ path: String) throws {
        self.path = path
        try FileManager.default.createDirectory(
            atPath: path + "/..data", withIntermediateDirectories: true)
    }

    func put(_ name: String, _ text: String?) throws {
        let (file, link) = ("\(path)/..data/\(name)", "\(path)/\(name)")
        guard let text else {
            unlink(link)
            unlink(file)
            return
        }
        try text.write(toFile: file + ".new", atomically: false, encoding: .utf8)
        chmod(file + ".new", 0o400)
        rename(file + ".new", file)
        symlink("..data/" + name, link)
    }
}
