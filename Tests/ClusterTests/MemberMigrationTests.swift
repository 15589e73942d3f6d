import ClusterResources
import Foundation
import KubernetesAPI
import Testing
import VolumeModel

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    /// Sites of several nodes: a pod may start at any of them, in either cluster.
    @Suite struct MemberMigrationTests {
        private static func expect(_ content: String, of file: String, in mount: String) throws {
            let text = try String(contentsOfFile: "\(mount)/\(file)", encoding: .utf8)
            #expect(text == content, "\(file) at \(mount)")
        }

        /// Where a site says that the volume is: the number of the node.
        private static func node(_ end: TwoClusters.End, _ volume: String) async throws -> Int {
            var answers: [String] = []
            for site in end.sites {
                answers.append(try #require(try await site.inspect(volume)["node"] as? String))
            }
            #expect(Set(answers).count == 1, "\(answers)")
            return try #require(end.sites.firstIndex { "\($0.name)-node" == answers[0] }) + 1
        }

        /// With the rights that Manifests grant; and the other site answers each of them.
        private static func eachMemberHasToldOfItself(_ end: TwoClusters.End) async throws {
            let other = end.name == "london" ? "sydney" : "london"
            func reports() async throws -> [MemberReport] {
                try await end.client.list(MemberResource.self).items.compactMap(\.status)
            }
            try await eventually("answers of \(other) to each member of \(end.name)") {
                let peers = try await reports().compactMap { $0.peers?.first }
                return peers.count == 2 && peers.allSatisfy { $0.trouble == nil && $0.release != nil }
            }
            for report in try await reports() {
                #expect(report.clockSeconds == 0 && report.troubles == [], "\(report)")
                #expect(report.authority?.count == 64 && report.certificateExpires != nil, "\(report)")
                let peer = try #require(report.peers?.first)
                #expect(peer.site == other && peer.expires != nil && peer.clockSeconds == 0, "\(peer)")
                #expect(peer.release == Release.current, "\(peer)")
            }
        }

        @Test func aClaimMovesBetweenSitesOfSeveralNodesAndItsPodStartsAtAnyOfThem() async throws {
            try await TwoClusters.run(nodes: 2) { both in
                let (london, sydney, volume) = (both.london, both.sydney, both.volume)
                try await both.makeNamespace(sydney)
                for end in [london, sydney] { try await both.startController(end) }
                let large = String(repeating: "the godwit flies south ", count: 100_000)
                try await both.withMount(london, node: 2) { mount in
                    try large.write(toFile: mount + "/large", atomically: false, encoding: .utf8)
                }
                #expect(try await Self.node(london, volume) == 2)

                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(for: .ready, at: london)
                // At the node that has not followed it.
                let follower = try await Self.node(sydney, volume)
                let other = 3 - follower
                try await both.withMount(sydney, node: other) { mount in
                    try Self.expect(large, of: "large", in: mount)
                    try "written at sydney".write(
                        toFile: mount + "/new", atomically: false, encoding: .utf8)
                }
                #expect(try await Self.node(sydney, volume) == other)
                try await both.wait(for: .done, at: london)
                try await both.wait(forNote: "Done sydney", at: london)
                // From node to node there.
                try await both.withMount(sydney, node: follower) { mount in
                    try Self.expect(large, of: "large", in: mount)
                    try Self.expect("written at sydney", of: "new", in: mount)
                    try "at the other node".write(
                        toFile: mount + "/newer", atomically: false, encoding: .utf8)
                }

                // And home, to the node where nothing of it was.
                try await both.annotate(sydney, "godwit.dev/migrate-to=london")
                try await eventually("readiness for the way home", limit: .seconds(120)) {
                    try await both.migration(sydney)?.status?.phase == .ready
                }
                try await both.withMount(london, node: 1) { mount in
                    try Self.expect(large, of: "large", in: mount)
                    try Self.expect("at the other node", of: "newer", in: mount)
                }
                try await both.wait(for: .done, at: sydney)
                #expect(try await Self.node(london, volume) == 1)
                try await both.wait(forNote: "Done london", at: sydney)
                for end in [london, sydney] { try await Self.eachMemberHasToldOfItself(end) }
                let told = try await london.cluster.kubectl(["get", "members.godwit.dev,volumes.godwit.dev"])
                #expect(told.output.contains("london-2-node"), "\(told.output)")

                // A volume that is deleted is gone at every node of its site.
                for end in [london, sydney] {
                    try await end.sites[1].csi(["delete-volume", volume])
                    let left = try await end.cluster.kubectl(["get", "volumes.godwit.dev", "-o", "name"])
                    #expect(left.output.isEmpty || left.output.contains("No resources"), "\(left.output)")
                }
            }
        }

        /// The pod of a controller is well while its node's site is away; so that no move of the cluster waits for that site,
        /// the pod of another node works.
        @Test func aLeaderWhoseSiteIsAwayLetsAnotherLead() async throws {
            try await TwoClusters.run(nodes: 2) { both in
                let london = both.london
                func start(_ number: Int, _ site: SiteProcess) async throws {
                    try await both.startController(
                        london,
                        ["--control-socket", site.stateDirectory + "/control.sock", "--site-seconds", "3"],
                        log: "controller\(number).log")
                }
                func leader() async throws -> String? {
                    try await london.client.find(Lease.self, ClusterNames.controller, in: "godwit")?
                        .spec.holderIdentity
                }
                try await start(2, london.sites[1])
                try await eventually("the first leads") { try await leader()?.isEmpty == false }
                let first = try await leader()
                try await start(1, london.sites[0])
                await london.sites[1].stop()
                try await eventually("the other leads") {
                    let now = try await leader()
                    return now != first && now?.isEmpty == false
                }
                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(for: .ready, at: london)

                // Who reads what a cluster's site says has kubectl.
                try await london.sites[1].start(limit: .seconds(60))
                for site in both.sydney.sites { await site.kill() }
                await #expect {
                    try await london.site.csi(["delete-volume", both.volume])
                } throws: {
                    "\($0)".contains("gone for good: 'kubectl godwit distrust sydney'")
                }
            }
        }
    }
}
