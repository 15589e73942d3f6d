import ClusterResources
import Foundation
import Handoff
import KubernetesAPI
import Site
import Testing
import VolumeModel

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    @Suite struct ClusterRegistryTests {
        private let member: SiteID
        private let first: SiteID
        private let second: SiteID

        init() throws {
            member = try #require(SiteID("london"))
            first = try #require(SiteID("worker-1.london"))
            second = try #require(SiteID("worker-2.london"))
        }

        /// With the rights that Manifests grant to the site's service account, and no others.
        private func asTheSite(_ cluster: TestCluster) async throws -> KubernetesClient {
            try KubernetesClient(.kubeconfig(path: try await cluster.accountKubeconfig("godwit-site")))
        }

        @Test func theClustersRegistryKeepsTheContract() async throws {
            try await withCluster(.manifests) { cluster, _, _ in
                let client = try await asTheSite(cluster)
                try await RegistryContract.check(ClusterRegistry(client, member: first)) {
                    ClusterRegistry(client, member: first)
                }
                await client.close()
            }
        }

        @Test func theClustersRegistryKeepsTheContractOfSeveralMembers() async throws {
            try await withCluster(.manifests) { cluster, _, _ in
                let client = try await asTheSite(cluster)
                try await SharedRegistryContract.check { ClusterRegistry(client, member: $0) }
                let table = try await cluster.kubectl(["get", "members.godwit.dev"])
                #expect(
                    table.output.contains("worker-2.london") && table.output.contains("10.0.0.2:7443"),
                    "\(table.output)")
                // A name that no member could have would keep all from finding each other.
                let wrong = try await cluster.kubectl([
                    "patch", "gwn", "worker-2", "--type=merge", "-p", #"{"spec":{"id":"Worker_2.london"}}"#,
                ])
                #expect(!wrong.exit.isSuccess && wrong.output.contains("spec.id"), "\(wrong.output)")
                await client.close()
            }
        }

        /// With the rights of Manifests, and a clock that is wrong.
        @Test func whatAMemberTellsOfItselfIsWrittenWhenItTellsSomethingNew() async throws {
            try await withCluster(.manifests) { cluster, client, _ in
                var options = KubernetesClient.Options()
                options.now = { Date() + 42 }
                let late = try KubernetesClient(
                    .kubeconfig(path: try await cluster.accountKubeconfig("godwit-site")), options: options)
                let registry = ClusterRegistry(late, member: first)
                let node = Member(id: first, node: "worker-1", address: nil)
                func told() async throws -> MemberResource {
                    try await client.get(MemberResource.self, "worker-1")
                }

                try await registry.announce(node)
                var report = MemberReport()
                report.keysTrouble = "none are there"
                report.peers = [MemberReport.Peer(site: "sydney")]
                report.troubles = [MemberReport.Trouble(.deadMount, ["data at /mnt"])]
                try await registry.tell(report, of: node)
                var written = try await told()
                let clock = try #require(written.status?.clockSeconds)
                #expect((41...43).contains(clock))
                #expect(written.status?.updated != nil && written.status?.troubles == report.troubles)
                // Again, it tells nothing new.
                let version = written.metadata.resourceVersion
                try await registry.tell(report, of: node)
                try await registry.announce(node)
                #expect(try await told().metadata.resourceVersion == version)
                // What is not so any more is taken away.
                (report.keysTrouble, report.troubles) = (nil, [])
                try await registry.tell(report, of: node)
                written = try await told()
                #expect(written.status?.keysTrouble == nil && written.status?.troubles == [])
                // A member that was taken away by mistake tells all of it again.
                try await client.delete(MemberResource.self, "worker-1")
                try await registry.announce(node)
                try await registry.tell(report, of: node)
                #expect(try await told().status?.peers?.map(\.site) == ["sydney"])
                // The largest report there can be.
                let long = String(repeating: "é", count: 1000)
                report.peers = MemberReport.bounded(
                    (0..<100).map { number in
                        var peer = MemberReport.Peer(site: "site-\(number)")
                        peer.trouble = MemberReport.bounded(long)
                        return peer
                    })
                report.troubles = MemberReport.TroubleKind.allCases.map {
                    .init($0, Array(repeating: long, count: 100))
                }
                try await registry.tell(report, of: node)
                #expect(try await told().status?.peers?.count == 64)
                await late.close()
            }
        }

        @Test func whatPeopleWriteBesideTheRecordIsNoConflictAndIsKept() async throws {
            try await withCluster { cluster, client, _ in
                let registry = ClusterRegistry(client, member: member)
                var stored = try await registry.insert(try RegistryContract.record("data"))
                let annotated = try await cluster.kubectl(["annotate", "gwv", "data", "who=me"])
                #expect(annotated.exit.isSuccess, "\(annotated.output)")
                stored.value.headNumber = 2
                _ = try await registry.update(stored)
                let resource = try await client.get(VolumeResource.self, "data")
                #expect(resource.metadata.annotations?["who"] == "me")
                let table = try await cluster.kubectl(["get", "volumes.godwit.dev"])
                #expect(table.output.contains("owning") && table.output.contains("london"), "\(table.output)")
            }
        }

        @Test func aRecordThatMakesNoSenseIsRefusedByTheServerOrByTheReader() async throws {
            try await withCluster { cluster, client, _ in
                func patch(_ record: String) async throws -> ChildProcess.Outcome {
                    try await cluster.kubectl([
                        "patch", "gwv", "data", "--type=merge", "-p",
                        #"{"spec":{"members":{"london":{"record":\#(record)}}}}"#,
                    ])
                }
                let registry = ClusterRegistry(client, member: member)
                let other = ClusterRegistry(client, member: first)
                let stored = try await registry.insert(try RegistryContract.record("data"))
                let theirs = try await other.insert(stored.value)
                #expect(try await !patch(#"{"capacity":"much"}"#).exit.isSuccess)
                let passed = try await patch(#"{"head":{"role":"sleeping"}}"#)
                #expect(passed.exit.isSuccess, "\(passed.output)")
                do throws(RegistryError) {
                    _ = try await registry.volume(stored.value.id)
                    Issue.record("it was read")
                } catch {
                    guard case .malformed = error else { Issue.record("\(error)"); return }
                }
                // What one cannot read is the other's, and stays as it is when that writes its own.
                #expect(try await other.volumes().map(\.value) == [theirs.value])
                let before = try await client.get(VolumeResource.self, "data").spec.members["london"]
                _ = try await other.update(theirs)
                #expect(try await client.get(VolumeResource.self, "data").spec.members["london"] == before)
            }
        }

        /// A server whose definition of volumes is an older release's drops what it does not know, and says nothing.
        private static func withOlderServer(
            _ body: @escaping @Sendable (KubernetesClient) async throws -> Void
        ) async throws {
            let object = Shared<JSONValue?>(nil)
            try await ScriptedServer.run { request, number in
                object.withLock { object in
                    func text(_ value: JSONValue) -> String {
                        String(decoding: (try? JSONEncoder().encode(value)) ?? Data(), as: UTF8.self)
                    }
                    guard request.method == "POST" || request.method == "PUT" else {
                        if request.path.hasSuffix("/volumes") {
                            return .init(body: #"{"metadata": {"resourceVersion": "1"}, "items": []}"#)
                        }
                        guard let present = object else { return .refusal(404, "NotFound") }
                        if request.method == "DELETE" { object = nil }
                        return .init(body: text(present))
                    }
                    guard let sent = try? JSONDecoder().decode(JSONValue.self, from: request.body) else {
                        return .refusal(400)
                    }
                    // Of each writing another version.
                    object = Self.with(version: "\(number)", Self.without("reading", sent))
                    return .init(body: text(object ?? .null))
                }
            } _: { _, client in
                try await body(client)
            }
        }

        private static func expectNotKept(
            _ change: () async throws(RegistryError) -> Versioned<VolumeRecord>
        ) async {
            do throws(RegistryError) {
                _ = try await change()
                Issue.record("it is not kept, and nobody says so")
            } catch {
                #expect("\(error)".contains("manifests of this release"), "\(error)")
            }
        }

        @Test func whatTheServerDoesNotKeepOfANewVolumeIsToldAndTheNextTryIsMade() async throws {
            try await Self.withOlderServer { client in
                let record = try RegistryContract.record("data")
                var reading = record
                reading.reading = ReadHead(of: Reign(member, Epoch(2)), number: 7)
                // The first alone in its object, the second beside it.
                for member in [first, second] {
                    let registry = ClusterRegistry(client, member: member)
                    await Self.expectNotKept { () async throws(RegistryError) in
                        try await registry.insert(reading)
                    }
                    #expect(try await registry.volume(named: "data") == nil)
                    _ = try await registry.insert(record)
                }
                let placements = try await ClusterRegistry(client, member: first).placements(named: "data")
                #expect(placements.map(\.member) == [first, second])
            }
        }

        @Test func whatTheServerDoesNotKeepIsToldAndTheNextChangeIsMade() async throws {
            try await Self.withOlderServer { client in
                let registry = ClusterRegistry(client, member: member)
                var stored = try await registry.insert(try RegistryContract.record("data"))
                let before = stored
                stored.value.reading = ReadHead(of: Reign(first, Epoch(2)), number: 7)
                let wanted = stored
                for _ in 0..<2 {
                    await Self.expectNotKept { () async throws(RegistryError) in
                        try await registry.update(wanted)
                    }
                }
                stored.value.reading = nil
                stored.value.headNumber = 3
                let next = try await registry.update(stored)
                #expect(next.value.headNumber == 3 && next.revision > before.revision)
                _ = try await registry.update(next)
            }
        }

        /// The first change is made and nobody hears of it; the second is never sent. The third is made over the first.
        @Test func aChangeIsMadeOverALostOneHoweverManyWereTriedMeanwhile() async throws {
            struct Server {
                var object: JSONValue?
                var losesWrites = false
                var isAway = false
            }
            let server = Shared(Server())
            try await ScriptedServer.run { request, number in
                server.withLock { server in
                    func text(_ value: JSONValue?) -> String {
                        String(decoding: (try? JSONEncoder().encode(value)) ?? Data(), as: UTF8.self)
                    }
                    guard !server.isAway else { return .refusal(500) }
                    guard request.method == "POST" || request.method == "PUT" else {
                        if request.path.hasSuffix("/volumes") {
                            return .init(body: #"{"metadata": {"resourceVersion": "1"}, "items": []}"#)
                        }
                        return server.object.map { .init(body: text($0)) } ?? .refusal(404, "NotFound")
                    }
                    guard let sent = try? JSONDecoder().decode(JSONValue.self, from: request.body) else {
                        return .refusal(400)
                    }
                    server.object = Self.with(version: "\(number)", sent)
                    server.isAway = server.losesWrites
                    return server.isAway ? .refusal(500) : .init(body: text(server.object))
                }
            } _: { _, client in
                let registry = ClusterRegistry(client, member: member, patience: .milliseconds(300))
                var stored = try await registry.insert(try RegistryContract.record("data"))
                server.withLock { $0.losesWrites = true }
                for number in [3, 4] as [UInt64] {
                    stored.value.headNumber = number
                    await #expect(throws: RegistryError.self) { _ = try await registry.update(stored) }
                }
                server.withLock { ($0.losesWrites, $0.isAway) = (false, false) }
                stored.value.headNumber = 5
                let next = try await registry.update(stored)
                #expect(next.value.headNumber == 5 && next.revision == stored.revision + 2)
                // Nobody's lost write any more.
                await #expect(throws: RegistryError.conflict(stored.value.id)) {
                    _ = try await registry.update(stored)
                }
            }
        }

        /// A server that has just started may not know our kinds for a moment, which says nothing of the objects.
        @Test func whatAServerDoesNotServeYetIsNotTakenForMissing() async throws {
            struct Server {
                var object: JSONValue?
                var unserved = 0
                var failsDelete = false
            }
            let server = Shared(Server())
            try await ScriptedServer.run { request, number in
                server.withLock { server in
                    if server.unserved > 0 {
                        server.unserved -= 1
                        return .init(status: 404, body: "404 page not found\n")
                    }
                    if request.method == "DELETE", server.failsDelete {
                        (server.failsDelete, server.unserved) = (false, 2)
                        return .refusal(500)
                    }
                    if request.method == "POST" || request.method == "PUT" {
                        guard let sent = try? JSONDecoder().decode(JSONValue.self, from: request.body) else {
                            return .refusal(400)
                        }
                        server.object = Self.with(version: "\(number)", sent)
                    } else if request.path.hasSuffix("/volumes") {
                        return .init(body: #"{"metadata": {"resourceVersion": "1"}, "items": []}"#)
                    }
                    guard let present = server.object else { return .refusal(404, "NotFound") }
                    if request.method == "DELETE" { server.object = nil }
                    let body = String(decoding: (try? JSONEncoder().encode(present)) ?? Data(), as: UTF8.self)
                    return .init(body: body)
                }
            } _: { _, client in
                let registry = ClusterRegistry(client, member: member)
                let record = try RegistryContract.record("data")
                server.withLock { $0.unserved = 1 }
                var stored = try await registry.insert(record)
                server.withLock { $0.unserved = 1 }
                #expect(try await registry.volume(named: "data")?.value == record)
                server.withLock { $0.unserved = 1 }
                stored.value.headNumber = 3
                stored = try await registry.update(stored)
                // Asked for once, without an answer: it is there all the same.
                server.withLock { $0.failsDelete = true }
                try await registry.remove(stored)
                #expect(server.withLock { $0.object } == nil)
                // What the server does know to be missing is changed meanwhile.
                await #expect(throws: RegistryError.conflict(record.id)) {
                    _ = try await registry.update(stored)
                }
            }
        }

        private static func with(version: String, _ value: JSONValue) -> JSONValue {
            guard case .object(var members) = value, case .object(var metadata)? = members["metadata"]
            else { return value }
            metadata["resourceVersion"] = .string(version)
            members["metadata"] = .object(metadata)
            return .object(members)
        }

        private static func without(_ name: String, _ value: JSONValue) -> JSONValue {
            switch value {
            case .object(let members):
                .object(members.filter { $0.key != name }.mapValues { without(name, $0) })
            case .array(let items): .array(items.map { without(name, $0) })
            case .null, .bool, .integer, .number, .string: value
            }
        }

        @Test func changesOfTwoMembersAreMadeOnceWhileTheServerIsKilled() async throws {
            try await withCluster { cluster, client, _ in
                @Sendable func write(
                    _ registry: ClusterRegistry, _ first: Versioned<VolumeRecord>
                ) async throws -> Versioned<VolumeRecord> {
                    var stored = first
                    for number in 2..<250 as Range<UInt64> {
                        stored.value.headNumber = number
                        stored.value.lastHeadNumber = number
                        stored = try await registry.update(stored)
                    }
                    return stored
                }
                let one = ClusterRegistry(client, member: first, patience: .seconds(120))
                let two = ClusterRegistry(client, member: second, patience: .seconds(120))
                let record = try RegistryContract.record("data")
                let (mine, theirs) = (try await one.insert(record), try await two.insert(record))
                let writing = Task {
                    async let mine = write(one, mine)
                    async let theirs = write(two, theirs)
                    return try await [mine, theirs]
                }
                for _ in 0..<2 {
                    try await Task.sleep(for: .milliseconds(700))
                    await cluster.killServer()
                    try await cluster.startServer()
                }
                for (registry, last) in zip([one, two], try await writing.value) {
                    #expect(last.revision == mine.revision + 248)
                    let found = try await registry.volume(record.id)
                    #expect(found?.value == last.value && found?.revision == last.revision)
                }
            }
        }

        @Test func whatIsInTheWayIsShownForEachMemberAndTakenBackByIt() async throws {
            try await withCluster(.manifests) { cluster, _, _ in
                let client = try await asTheSite(cluster)
                func served() async throws -> Condition? {
                    try await client.get(VolumeResource.self, "data").status?.conditions?
                        .first { $0.type == ClusterNames.served }
                }
                let one = ClusterRegistry(client, member: first)
                let two = ClusterRegistry(client, member: second)
                let record = try RegistryContract.record("data")
                let stored = try await one.insert(record)
                _ = try await two.insert(record)
                async let shownByOne: Void = one.show("its head is not here", of: record)
                async let shownByTwo: Void = two.show("its disk is full", of: record)
                _ = try await (shownByOne, shownByTwo)
                let both = "worker-1.london: its head is not here; worker-2.london: its disk is full"
                #expect(try await served()?.message == both)
                // A member that is started again finds what it showed, and takes back that alone.
                let again = ClusterRegistry(client, member: second)
                _ = try await again.volumes()
                try await again.show(nil, of: record)
                #expect(try await served()?.message == "worker-1.london: its head is not here")
                #expect(try await served()?.status == "False")
                // Nobody else could take back what a member showed that knows the volume no more.
                try await one.remove(stored)
                #expect(try await served()?.status == "True")
                await client.close()
            }
        }
    }
}

@Suite struct VolumeSummaryTextTests {
    private func text(
        _ role: String, _ owner: String?, _ epoch: UInt64?, peers: [String] = [], claim: String? = nil
    ) -> VolumeSummaryText {
        VolumeSummaryText(
            role: role, owner: owner, epoch: epoch, peers: peers, claim: claim,
            claimState: claim.map { _ in "Made" })
    }

    @Test func theOwnerIsShownAheadOfWhoeverKnowsIt() {
        let combined = VolumeSummaryText.combined([
            "a.london": text("following", "b.london", 4), "b.london": text("owning", "b.london", 4),
            "c.london": text("retired", "b.london", 4),
        ])
        #expect(combined.role == "owning" && combined.owner == "b.london" && combined.epoch == 4)
        #expect(combined.members == ["a.london", "b.london", "c.london"])
    }

    @Test func ofAVolumeOnItsWayWhoeverReceivesItIsShown() {
        let away = text("sealed", "a.london", 4)
        for role in ["receiving", "acquiring"] {
            let combined = VolumeSummaryText.combined([
                "a.london": away, "b.london": text(role, "a.london", 4),
                "c.london": text("following", "a.london", 4),
            ])
            #expect(combined.role == role && combined.owner == "a.london")
        }
        #expect(
            VolumeSummaryText.combined(["a.london": away, "b.london": text("following", "a.london", 4)]).role
                == "sealed")
    }

    @Test func whoHasNotHeardOfTheNewestReignIsNotBelieved() {
        // Moved on to another site, of which the first owner was not told.
        let moved = VolumeSummaryText.combined([
            "a.london": text("retired", "b.london", 5), "b.london": text("retired", "sydney", 6),
        ])
        #expect(moved.owner == "sydney" && moved.epoch == 6)
        // Overruled by force.
        let forced = VolumeSummaryText.combined([
            "a.london": text("owning", "a.london", 5), "b.london": text("owning", "b.london", 1 << 32),
        ])
        #expect(forced.owner == "b.london")
        let fenced = VolumeSummaryText.combined([
            "a.london": text("fenced", nil, nil), "b.london": text("following", "sydney", 1),
        ])
        #expect(fenced.owner == "sydney")
    }

    @Test func theClaimIsShownWhicheverMemberItCameTo() {
        let combined = VolumeSummaryText.combined([
            "a.london": text("retired", "b.london", 5, claim: "shop/data"),
            "b.london": text("owning", "b.london", 5),
        ])
        #expect(
            combined.owner == "b.london" && combined.claim == "shop/data" && combined.claimState == "Made")
    }

    @Test func peersAreThoseOfAllMembersButNotTheMembersThemselves() {
        let combined = VolumeSummaryText.combined([
            "a.london": text("owning", "a.london", 1, peers: ["b.london", "sydney"]),
            "b.london": text("following", "a.london", 1, peers: ["c.london", "sydney", "tokyo"]),
        ])
        #expect(combined.peers == ["c.london", "sydney", "tokyo"])
    }

    @Test func amongEqualsTheFirstNameIsShownSoThatColumnsDoNotChange() {
        for _ in 0..<20 {
            let combined = VolumeSummaryText.combined([
                "b.london": text("following", "sydney", 3, claim: "two"),
                "a.london": text("following", "sydney", 3, claim: "one"),
            ])
            #expect(combined.claim == "one")
        }
        #expect(VolumeSummaryText.combined([:]) == VolumeSummaryText(role: "", peers: [], members: []))
    }
}
