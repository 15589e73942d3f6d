import Foundation
import Glibc
import PeerProtocol
import PeerService
import RPC
import SiteIdentity
import Testing
import VolumeModel

@testable import TestBed

extension SiteTests {
    @Suite struct PeerPolicyTests {
        /// Trusted is not named: a site that no volume names gets nothing, whatever it says of itself.
        @Test func aTrustedSiteThatAVolumeDoesNotNameGetsNothingOfIt() async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                let london = SiteProcess(
                    name: "london", binary: godwitBinary, stateDirectory: directory + "/london",
                    address: "127.0.0.1:\(try freePort())")
                let tokyo = SiteProcess(
                    name: "tokyo", binary: godwitBinary, stateDirectory: directory + "/tokyo",
                    address: "127.0.0.1:\(try freePort())")
                for site in [london, tokyo] { try await site.initialise() }
                try await SiteProcess.introduce(london, tokyo)
                try cleanup.add("london") { await london.stop() }
                try await london.start()
                try await london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let before = try await london.inspect("data")
                let id = try #require(VolumeID(before["id"] as? String ?? ""))

                let identity = try SiteIdentity(loading: tokyo.stateDirectory + "/pki")
                let peer = try #require(SiteID("london"))
                let endpoint = try #require(RPCEndpoint(london.address))
                let client = try PeerClient(
                    site: peer, endpoint: endpoint,
                    security: .mutualTLS(
                        certificateChainPEM: identity.certificateChainPEM,
                        privateKeyPEM: identity.privateKeyPEM,
                        trustedRootsPEM: try identity.rootPEM(of: peer),
                        expectedServerName: identity.serverName(of: peer)))
                defer { client.close() }
                #expect(try await client.hello().site == "london")

                // The owner's own epoch, and one above it that would fence the owner.
                for epoch in [UInt64(1), 99] {
                    var offer = Godwit_Peer_V1_OfferRequest()
                    offer.volume = id.description
                    offer.name = "data"
                    offer.capacity = 1 << 30
                    offer.epoch = epoch
                    await #expect(throws: PeerError.self, "an offer at epoch \(epoch)") {
                        _ = try await client.offer(offer, timeout: .seconds(10))
                    }
                }
                await #expect(throws: PeerError.self) { _ = try await client.status(of: id) }
                await #expect(throws: (any Error).self) {
                    _ = try await client.follow(id, reign: .first, since: nil) { _ in }
                }
                var takeOver = Godwit_Peer_V1_TakeOverRequest()
                takeOver.volume = id.description
                await #expect(throws: PeerError.self) {
                    _ = try await client.takeOver(takeOver, timeout: .seconds(10))
                }
                // For it there is no such volume: there is nothing to forget.
                let isForgotten = try await client.withdraw(id)
                #expect(isForgotten)
                let holders = try await client.locate(id).holders
                #expect(holders.isEmpty)
                try await offerNonsense(client, to: london)
                var claim = Godwit_Peer_V1_HandoffMessage()
                claim.volume = id.description
                claim.announcement.reign.owner = "tokyo"
                claim.announcement.reign.epoch = 99
                await #expect(throws: PeerError.self) { _ = try await client.exchange(claim) }
                // Nor does it learn who owns the volume, or fence the owner, by saying that it does.
                for asked in [
                    AskedReign(.first), AskedReign(Epoch(99), handover: Epoch(99)),
                    AskedReign(Epoch(1 << 41)),
                ] {
                    let told = try await client.confirm([id: asked], timeout: .seconds(10))
                    #expect(told == [:], "\(asked)")
                }
                let after = try await london.inspect("data")
                #expect(after["role"] as? String == "owning")
                #expect(after["epoch"] as? NSNumber == before["epoch"] as? NSNumber)
            }
        }

        /// Whatever a site that may know the volume says, the owner's own head is nobody's replica.
        @Test func anOfferToTheOwnerTakesNothingFromIt() async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                let sites = try ["london", "tokyo"].map { name in
                    SiteProcess(
                        name: name, binary: godwitBinary, stateDirectory: directory + "/" + name,
                        address: "127.0.0.1:\(try freePort())")
                }
                let (london, tokyo) = (sites[0], sites[1])
                for site in sites { try await site.initialise() }
                try await SiteProcess.introduce(london, tokyo)
                for site in sites {
                    try cleanup.add(site.name) { await site.stop() }
                    try await site.start()
                }
                try await london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                try await london.godwit(["migrate", "data", "--to", "tokyo", "--prepare-only"])
                let mount = directory + "/mnt"
                try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: false)
                try await london.godwit(["volume", "mount", "data", mount])
                try cleanup.add(mountAt: mount)
                _ = try await shell("echo kept > file; sync file", in: mount)
                let id = try #require(try await london.inspect("data")["id"] as? String)
                let heads = "\(london.stateDirectory)/volumes/\(id)/heads"
                let before = try FileManager.default.contentsOfDirectory(atPath: heads)
                await tokyo.stop()

                let identity = try SiteIdentity(loading: tokyo.stateDirectory + "/pki")
                let peer = try #require(SiteID("london"))
                let client = try PeerClient(
                    site: peer, endpoint: try #require(RPCEndpoint(london.address)),
                    security: .mutualTLS(
                        certificateChainPEM: identity.certificateChainPEM,
                        privateKeyPEM: identity.privateKeyPEM,
                        trustedRootsPEM: try identity.rootPEM(of: peer),
                        expectedServerName: identity.serverName(of: peer)))
                defer { client.close() }
                for withoutReplica in [true, false] {
                    var offer = Godwit_Peer_V1_OfferRequest()
                    offer.volume = id
                    offer.name = "data"
                    offer.capacity = 1 << 30
                    offer.epoch = 1
                    offer.withoutReplica = withoutReplica
                    _ = try? await client.offer(offer, timeout: .seconds(10))
                    #expect(try FileManager.default.contentsOfDirectory(atPath: heads) == before)
                    #expect(try await london.inspect("data")["role"] as? String == "owning")
                    let read = try await shell("cat file; echo more >> file; sync file", in: mount)
                    #expect(read.output == "kept\n" || read.output == "kept\nmore\n", "\(read.output)")
                }
                // An owner that knows only an earlier reign of its own than its follower does is behind.
                let volume = try #require(VolumeID(id))
                _ = try await client.follow(volume, reign: .first, since: nil) { _ in }
                do {
                    _ = try await client.follow(volume, reign: Epoch(2), since: nil) { _ in }
                    Issue.record("an owner of epoch 1 was followed as that of epoch 2")
                } catch {
                    #expect("\(error)".contains("of epoch 2 and here of epoch 1"), "\(error)")
                }
                try await london.godwit(["volume", "unmount", "data"])
            }
        }

        /// A volume whose name or claim cannot be is refused before anything of it is kept.
        private func offerNonsense(_ client: PeerClient, to site: SiteProcess) async throws {
            let huge = String(repeating: "a", count: 1 << 20)
            let nonsense: [(Godwit_Peer_V1_ClaimFacts) -> Godwit_Peer_V1_ClaimFacts] = [
                { facts in
                    var facts = facts; facts.namespace = "../kube-system"; return facts
                },
                { facts in
                    var facts = facts; facts.name = huge; return facts
                },
                { facts in
                    var facts = facts; facts.requested = "-1"; return facts
                },
                { facts in
                    var facts = facts; facts.accessModes = []; return facts
                },
                { facts in
                    var facts = facts; facts.volumeMode = "Block"; return facts
                },
            ]
            var good = Godwit_Peer_V1_ClaimFacts()
            good.namespace = "shop"
            good.name = "data-0"
            good.requested = "1Gi"
            good.accessModes = ["ReadWriteOnce"]
            var offer = Godwit_Peer_V1_OfferRequest()
            offer.volume = VolumeID(randomHigh: 1, randomLow: 2).description
            offer.name = "offered"
            offer.epoch = 1
            for spoil in nonsense {
                offer.claim = spoil(good)
                await #expect(throws: PeerError.self) {
                    _ = try await client.offer(offer, timeout: .seconds(10))
                }
            }
            offer.claim = good
            offer.name = huge
            await #expect(throws: PeerError.self) { _ = try await client.offer(offer, timeout: .seconds(10)) }
            let volumes = try await site.godwit(["volume", "list"])
            #expect(volumes.contains("data") && !volumes.contains("offered"), "\(volumes)")
            #expect(!volumes.contains("aaaa"))
        }
    }
}
