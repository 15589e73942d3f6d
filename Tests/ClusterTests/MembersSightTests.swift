import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import kubectl_godwit

/// What `kubectl godwit doctor` makes of what it sees of a site's members.
@Suite struct MembersSightTests {
    private static func read<Value: Decodable>(_ json: String) throws -> Value {
        try JSONDecoder().decode(Value.self, from: Data(json.utf8))
    }

    private static func member(
        _ node: String, site: String = "london", address: String? = "10.0.0.1:7443",
        release: String = "1.0.0"
    ) -> MemberResource {
        MemberResource(
            node: node, spec: .init(site: site, id: "\(node).\(site)", address: address, release: release))
    }

    private static func pod(_ node: String, ready: Bool = true) throws -> ClusterResources.Pod {
        try read(
            """
            {"metadata": {}, "spec": {"nodeName": "\(node)", "containers": []}, "status": {"phase": "Running",
            "containerStatuses": [{"name": "site", "ready": \(ready), "restartCount": 0}]}}
            """)
    }

    private static func node(_ name: String, ready: String = "True") throws -> Node {
        try read(
            """
            {"metadata": {"name": "\(name)"}, "status": {"conditions": [{"type": "Ready", "status": "\(ready)"}]}}
            """)
    }

    private static func volume(_ name: String, owner: String) throws -> VolumeView {
        try read(
            """
            {"metadata": {"name": "\(name)"}, "spec": {"id": "\(name)", "summary": {"owner": "\(owner)"}}}
            """)
    }

    /// Two members with which nothing is wrong.
    private static func sight() throws -> MembersSight {
        var sight = MembersSight(
            namespace: "godwit", members: [member("b"), member("a")], site: [try pod("a"), try pod("b")],
            holders: [try pod("a"), try pod("b")], volumes: [try volume("data", owner: "b.london")],
            nodes: [try node("a"), try node("b"), try node("other")])
        sight.release = "1.0.0"
        return sight
    }

    @Test func nothingIsWrongWithMembersThatAreAsTheyShouldBe() throws {
        let findings = try Self.sight().findings()
        #expect(
            findings.map(\.text) == [
                "member a.london at 10.0.0.1:7443 runs 1.0.0", "member b.london at 10.0.0.1:7443 runs 1.0.0",
                "mounts outlive a planned restart at every node",
            ])
        #expect(findings.allSatisfy { $0.outcome == .good })
    }

    @Test func aNodeThatIsGoneIsNamedWithWhatItOwns() throws {
        var sight = try Self.sight()
        sight.nodes = [try Self.node("a")]
        sight.site.removeLast()
        sight.holders.removeLast()
        let owner = try #require(sight.findings().first { $0.text.contains("b.london") })
        #expect(owner.outcome == .broken && owner.text.contains("owns 1 volumes: data"), "\(owner)")
        #expect(owner.advice?.contains("takeover") == true)
        // What nobody waits for is to be forgotten.
        sight.volumes = [try Self.volume("data", owner: "a.london")]
        let bare = try #require(sight.findings().first { $0.text.contains("b.london") })
        #expect(
            bare.outcome == .warning && bare.advice == "kubectl delete members.godwit.dev b", "\(bare)")
        sight.volumes = nil
        let unseen = try #require(sight.findings().first { $0.text.contains("b.london") })
        #expect(unseen.outcome == .warning && unseen.advice?.contains("if no volume") == true)
    }

    @Test func aNodeOrAPodThatIsNotReadyIsNamed() throws {
        var sight = try Self.sight()
        sight.nodes?[1] = try Self.node("b", ready: "Unknown")
        #expect(
            sight.findings().contains { $0.outcome == .broken && $0.text.hasSuffix("node b is not ready") })
        sight = try Self.sight()
        sight.site[0] = try Self.pod("a", ready: false)
        let found = sight.findings().filter { $0.outcome == .broken }
        #expect(
            found.map(\.text) == [
                "member a.london at 10.0.0.1:7443: no pod of the site is ready at node a"
            ])
        // Nor is one that is on its way out.
        sight = try Self.sight()
        sight.site[0].metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
        #expect(sight.findings().contains { $0.text.contains("no pod of the site is ready at node a") })
        // Who may not look at nodes is told so, and of the rest.
        sight.nodes = nil
        let partly = sight.findings()
        #expect(partly.contains { $0.outcome == .unknown } && partly.contains { $0.outcome == .broken })
    }

    @Test func aMemberWithoutAddressAndAPodWithoutMemberAreNamed() throws {
        var sight = try Self.sight()
        sight.members[1] = Self.member("a", address: nil)
        #expect(
            sight.findings().contains { $0.outcome == .broken && $0.text.contains("a.london has no address") }
        )
        sight = try Self.sight()
        sight.members.removeLast()
        #expect(
            sight.findings().contains {
                $0.outcome == .broken && $0.text.contains("pod at node a has not made itself known")
            })
    }

    @Test func severalReleasesAndSeveralSitesAreNamed() throws {
        var sight = try Self.sight()
        sight.members[1] = Self.member("a", release: "1.1.0")
        #expect(
            sight.findings().contains {
                $0.outcome == .warning && $0.text == "members run several releases: 1.0.0, 1.1.0"
            })
        // Of a node that does not run nobody asks.
        sight.nodes?.removeFirst()
        sight.site.removeFirst()
        #expect(!sight.findings().contains { $0.text.contains("several releases") })
        sight.release = "1.2.0"
        #expect(
            sight.findings().contains {
                $0.outcome == .warning
                    && $0.text == "members run release 1.0.0, and this program is of release 1.2.0"
            })
        sight = try Self.sight()
        sight.members.append(Self.member("other", site: "sydney"))
        #expect(
            sight.findings().contains {
                $0.outcome == .broken && $0.text == "members are of different sites: london, sydney"
            })
    }

    @Test func aNodeWithoutHolderIsNamed() throws {
        var sight = try Self.sight()
        sight.holders = [try Self.pod("a", ready: false), try Self.pod("b"), try Self.pod("other")]
        let found = sight.findings().filter { $0.text.contains("godwit-holder") }
        #expect(found.count == 1 && found.first?.outcome == .warning)
        #expect(found.first?.text.contains("at node a: a planned restart") == true)
        sight.site = []
        #expect(!sight.findings().contains { $0.text.contains("restart") })
    }
}
