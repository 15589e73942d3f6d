import CSIService
import ControlProtocol
import Foundation
import Handoff
import PeerService
import RPC
import SiteTestSupport
import Testing
import VolumeModel

@testable import Site
@testable import TestBed

extension SiteTests {
    /// CSI.md, "Read by many nodes": several nodes of a site read a volume at once, and nobody writes to it.
    @Suite struct MembersReadingTests {
        private typealias Node = MemberTown.Node

        private static func withTown(
            _ body: @escaping @Sendable (MemberTown, Node, Node, Cleanup) async throws -> Void
        ) async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let town = try MemberTown(cleanup, nodes: ["worker-1", "worker-2"])
                let (first, second) = (try await town.start("worker-1"), try await town.start("worker-2"))
                for node in [first, second] {
                    try FileManager.default.createDirectory(
                        atPath: mount(of: node), withIntermediateDirectories: true)
                    try cleanup.add(mountAt: mount(of: node))
                }
                do {
                    try await body(town, first, second, cleanup)
                } catch {
                    for node in [first, second] { await node.stop() }
                    throw error
                }
                for node in [first, second] { await node.stop() }
            }
        }

        private static func mount(of node: Node) -> String { node.directory + "/mnt" }

        private static func publish(
            _ id: VolumeID, at node: Node, by controller: Node, _ mode: String = CSIService.manyReaders
        ) async throws -> Epoch {
            try await controller.csi.publish(id, at: node.csi.node, mode: mode)
        }

        private static func stage(
            _ id: VolumeID, at node: Node, _ epoch: Epoch, isReadOnly: Bool = true
        ) async throws {
            try await node.csi.stage(
                id, at: mount(of: node), isReadOnly: isReadOnly, group: nil, acquiredUnder: epoch)
        }

        private static func run(_ script: String, at node: Node) async throws -> String {
            let outcome = try await shell(script, in: mount(of: node))
            #expect(outcome.exit.isSuccess, "\(node.csi.node): \(script): \(outcome.output)")
            return outcome.output
        }

        /// A writer's whole stay.
        private static func write(_ id: VolumeID, at node: Node, by controller: Node, _ script: String)
            async throws
        {
            let epoch = try await publish(id, at: node, by: controller, "SINGLE_NODE_WRITER")
            try await stage(id, at: node, epoch, isReadOnly: false)
            _ = try await run(script, at: node)
            try await node.csi.unstage(id, at: mount(of: node))
            try await controller.csi.unpublish(id, at: node.csi.node)
        }

        private static func make(by node: Node) async throws -> VolumeID {
            try await node.csi.create(
                name: "data", required: 1 << 30, limit: 0, parameters: [:], hydration: CSIHydration(),
                nodes: []
            ).id
        }

        private static let files = """
            mkdir -p a/b; head -c 3000000 /dev/urandom > a/b/large; ln -s large a/b/link; truncate -s 1M a/hole
            for n in $(seq 50); do echo $n > a/$n; done; find . -type f | xargs sha256sum > /tmp/sums-$$
            mv /tmp/sums-$$ sums
            """

        private static func refusal(
            _ body: () async throws -> Void
        ) async throws -> CSIBackendError? {
            do {
                try await body()
                return nil
            } catch let error as CSIBackendError {
                return error
            }
        }

        @Test func twoNodesReadAtOnceAndNobodyWritesUntilTheyHaveGone() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                // Empty, it can be read already.
                let empty = try await Self.publish(id, at: second, by: second)
                try await Self.stage(id, at: second, empty)
                #expect(try await Self.run("ls -A", at: second) == "")
                try await second.csi.unstage(id, at: Self.mount(of: second))
                try await second.csi.unpublish(id, at: "worker-2")

                try await Self.write(id, at: first, by: second, Self.files)
                var epochs: Set<Epoch> = []
                for node in [second, first, second] {
                    epochs.insert(try await Self.publish(id, at: node, by: first))
                }
                #expect(epochs.count == 1 && !epochs.contains(empty))
                let epoch = try #require(epochs.first)
                for node in [first, second] {
                    for _ in 0..<2 { try await Self.stage(id, at: node, epoch) }
                    #expect(try await node.csi.volume(id).publishedNodes == ["worker-1", "worker-2"])
                }
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for node in [first, second] {
                        group.addTask {
                            _ = try await Self.run(
                                "sha256sum -c --quiet sums; cat a/b/link > /dev/null", at: node)
                        }
                    }
                    try await group.waitForAll()
                }
                for node in [first, second] {
                    for script in ["touch new", "echo x >> a/1", "chmod 0 a", "rm a/2", "mv a/3 a/4"] {
                        let outcome = try await shell(script, in: Self.mount(of: node))
                        #expect(
                            !outcome.exit.isSuccess && outcome.output.contains("Read-only file system"),
                            "\(node.csi.node), \(script): \(outcome.output)")
                    }
                    #expect(await node.csi.servedDevices(of: id).count == 1)
                    #expect(try await node.csi.usage(of: id).usedInodeCount > 50)
                    #expect(try await node.csi.condition(ofMounted: id).trouble == nil)
                }
                // In another way at a node that reads, or elsewhere; nor is it moved or deleted.
                for asked in [first, second] {
                    for node in [first, second] {
                        let told = try await Self.refusal {
                            _ = try await Self.publish(id, at: node, by: asked, "SINGLE_NODE_WRITER")
                        }
                        guard case .exists? = told else {
                            Issue.record("a writer beside readers: \(String(describing: told))")
                            continue
                        }
                    }
                    guard case .precondition? = try await Self.refusal({ try await asked.csi.delete(id) })
                    else {
                        Issue.record("deleted while it is read")
                        continue
                    }
                }
                _ = try await Self.run("sha256sum -c --quiet sums", at: second)

                try await first.csi.unstage(id, at: Self.mount(of: first))
                try await first.csi.unpublish(id, at: "worker-1")
                let told = try await Self.refusal {
                    _ = try await Self.publish(id, at: first, by: first, "SINGLE_NODE_WRITER")
                }
                guard case .precondition(let text)? = told, text.contains("worker-2") else {
                    Issue.record("a writer beside a reader: \(String(describing: told))")
                    return
                }
                // By force: the mount ends first.
                for _ in 0..<2 { try await first.csi.unpublish(id, at: "worker-2") }
                #expect(try await !shell("cat a/1", in: Self.mount(of: second)).exit.isSuccess)
                try await second.csi.unstage(id, at: Self.mount(of: second))
                #expect(try await first.csi.volume(id).publishedNodes.isEmpty)
                let left = try FileManager.default.contentsOfDirectory(atPath: second.directory + "/volumes")
                #expect(left.isEmpty, "\(left)")

                try await Self.write(id, at: second, by: first, "echo new > a/1; rm sums")
                for node in [first, second] {
                    let later = try await Self.publish(id, at: node, by: second)
                    #expect(later > epoch)
                    // What was attached before counts no more.
                    #expect(try await Self.refusal { try await Self.stage(id, at: node, epoch) } != nil)
                    try await Self.stage(id, at: node, later)
                    #expect(try await Self.run("cat a/1; test ! -e sums", at: node) == "new\n")
                }
                try await second.csi.unpublish(id, at: nil)
                #expect(try await first.csi.volume(id).publishedNodes.isEmpty)
                try await first.csi.delete(id)
            }
        }

        @Test func ofAWriterAndAReaderWhoComeAtOnceOneIsRefused() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                for round in 0..<6 {
                    let (writer, reader) = round.isMultiple(of: 2) ? (first, second) : (second, first)
                    async let writes = Self.refusal {
                        _ = try await Self.publish(id, at: writer, by: writer, "SINGLE_NODE_WRITER")
                    }
                    async let reads = Self.refusal {
                        _ = try await Self.publish(id, at: reader, by: reader)
                    }
                    let refusals = (try await writes, try await reads)
                    #expect(refusals.0 != nil || refusals.1 != nil, "round \(round)")
                    let nodes = try await first.csi.volume(id).publishedNodes
                    #expect(nodes.count <= 1, "round \(round): \(nodes)")
                    try await first.csi.unpublish(id, at: nil)
                }
            }
        }

        /// Whoever was let go of reads no more, though kubelet asks for it late, and the other goes on.
        @Test func anAttachmentToReadCountsNoMoreOnceItIsLetGo() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                // Both have had it, and know it for good.
                for node in [second, first] { try await Self.write(id, at: node, by: first, "echo 0 > file") }
                for (gone, other) in [(first, second), (second, first)] {
                    var epoch: Epoch?
                    for node in [first, second] { epoch = try await Self.publish(id, at: node, by: first) }
                    let read = try #require(epoch)
                    try await gone.csi.unpublish(id, at: gone.csi.node)
                    func isRefused() async throws -> Bool {
                        try await Self.refusal { try await Self.stage(id, at: gone, read) } != nil
                    }
                    #expect(try await isRefused())
                    try await Self.stage(id, at: other, read)
                    // Let in again beside the other, it reads the same.
                    #expect(try await Self.publish(id, at: gone, by: first) == read)
                    try await Self.stage(id, at: gone, read)
                    #expect(try await Self.run("cat file", at: gone) == "0\n")
                    for node in [gone, other] {
                        try await node.csi.unstage(id, at: Self.mount(of: node))
                        try await first.csi.unpublish(id, at: node.csi.node)
                    }
                    #expect(try await isRefused())
                    #expect(try await first.csi.volume(id).publishedNodes.isEmpty)
                    // Nor is what is written next of an epoch that was read.
                    #expect(
                        try await Self.publish(id, at: first, by: first, "SINGLE_NODE_WRITER") > read)
                    #expect(try await isRefused())
                    try await first.csi.unpublish(id, at: "worker-1")
                }
            }
        }

        @Test func aNodeThatIsJustMountingToReadIsNotLetGoUnasked() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                let epoch = try await Self.publish(id, at: second, by: first)
                let agent = try await second.site.agent(id)
                let (begun, begins) = AsyncStream.makeStream(of: Void.self)
                let (end, ends) = AsyncStream.makeStream(of: Void.self)
                // As far as the registry shows: nothing is read yet.
                let mounting = Task { try await agent.beBusy(begins, until: end) }
                for await _ in begun {}
                let told = try await Self.refusal { try await first.csi.unpublish(id, at: "worker-2") }
                #expect(told != nil)
                #expect(try await first.csi.volume(id).publishedNodes == ["worker-2"])
                ends.finish()
                try await mounting.value
                try await first.csi.unpublish(id, at: "worker-2")
                #expect(try await first.csi.volume(id).publishedNodes.isEmpty)
                #expect(try await Self.refusal { try await Self.stage(id, at: second, epoch) } != nil)
            }
        }

        /// Though its node was not asked, as by an owner that has lost its answer.
        @Test func aReaderThatIsDismissedHearsThatItsEpochIsOver() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                try await Self.write(id, at: first, by: first, "echo old > file")
                let epoch = try await Self.publish(id, at: second, by: first)
                try await Self.stage(id, at: second, epoch)
                try await first.site.agent(id).dismissExclusively("worker-2")
                #expect(try await !shell("cat file", in: Self.mount(of: second)).exit.isSuccess)
                try await second.csi.unstage(id, at: Self.mount(of: second))
                #expect(await !second.site.knows(id))

                // Nor is it told: it asks.
                let next = try await Self.publish(id, at: second, by: first)
                try await Self.stage(id, at: second, next)
                #expect(try await Self.run("cat file", at: second) == "old\n")
                try await first.site.agent(id).apply(.detach(node: "worker-2"))
                try await SiteTests.wait("the mount's end") {
                    await second.csi.servedDevices(of: id).isEmpty
                }
                try await second.csi.unstage(id, at: Self.mount(of: second))
                #expect(try await Self.refusal { try await Self.stage(id, at: second, next) } != nil)
            }
        }

        @Test func aDismissalThatComesLateChangesNothing() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                let earlier = try await Self.publish(id, at: second, by: first)
                try await first.csi.unpublish(id, at: "worker-2")
                let epoch = try await Self.publish(id, at: second, by: first)
                let client = try first.site.context.client(of: second.site.context.site)
                let late = OfferStamp(epoch: earlier, revision: .max)
                #expect(try await !client.withdraw(id, at: late))
                try await Self.stage(id, at: second, epoch)
                #expect(try await Self.run("ls -A", at: second) == "")
                try await second.csi.unstage(id, at: Self.mount(of: second))
                try await first.csi.unpublish(id, at: "worker-2")
            }
        }

        /// The epoch is the same while another node reads on.
        @Test func aDismissalFromBeforeTheNodeWasLetInAnewChangesNothing() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                let epoch = try await Self.publish(id, at: first, by: first)
                let agent = try await first.site.agent(id)
                func stamp() async -> OfferStamp {
                    OfferStamp(epoch: epoch, revision: await agent.stored.revision)
                }
                #expect(try await Self.publish(id, at: second, by: first) == epoch)
                // Its address is known by now.
                let client = try first.site.context.client(of: second.site.context.site)
                try await first.csi.unpublish(id, at: "worker-2")
                let late = await stamp()
                #expect(try await Self.publish(id, at: second, by: first) == epoch)
                #expect(try await !client.withdraw(id, at: late))
                // It is not mounted before that.
                try await Self.stage(id, at: second, epoch)
                #expect(try await Self.run("ls -A", at: second) == "")
                try await second.csi.unstage(id, at: Self.mount(of: second))
                // What is said of this admission counts.
                try await agent.apply(.detach(node: "worker-2"))
                let present = await stamp()
                try await second.site.agent(id).endReading()
                #expect(try await client.withdraw(id, at: present))
                #expect(await !second.site.knows(id))
                try await first.csi.unpublish(id, at: "worker-1")
            }
        }

        private static func move(
            _ id: VolumeID, from first: Node, to second: Node, wait: Duration = .zero,
            _ report: (Migration.Progress) async throws -> Void = { _ in }
        ) async throws -> RPCStatus? {
            var request = Godwit_Control_V1_MigrateRequest()
            request.waitMilliseconds = UInt32(wait / .milliseconds(1))
            request.detach = true
            do {
                try await Migration(
                    agent: try await first.site.agent(id), target: second.site.context.site, request: request
                ).run(report)
                return nil
            } catch {
                return SiteStatus.status(of: error)
            }
        }

        /// A node that reads could not let go while it takes the volume over.
        @Test func aMoveToANodeThatReadsWaitsUntilItDoesNoMore() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                try await Self.write(id, at: first, by: first, "echo old > file")
                let epoch = try await Self.publish(id, at: second, by: first)
                try await Self.stage(id, at: second, epoch)
                let refusal = try await Self.move(id, from: first, to: second)
                #expect(refusal?.code == .failedPrecondition)
                #expect(
                    refusal?.message.contains("node 'worker-2'") == true, "\(String(describing: refusal))")
                #expect(try await Self.run("cat file", at: second) == "old\n")

                let moving = Task { try await Self.move(id, from: first, to: second, wait: .seconds(300)) }
                defer { moving.cancel() }
                // Until the node is busy with it, if it were.
                try await Task.sleep(for: .milliseconds(500))
                try await second.csi.unstage(id, at: Self.mount(of: second))
                try await SiteTests.wait("the reader's end") {
                    try await Self.refusal { try await first.csi.unpublish(id, at: "worker-2") } == nil
                }
                #expect(try await moving.value == nil)
                #expect(await second.site.isOwned(id))
                try await Self.write(id, at: second, by: first, "grep -q old file; echo new > file")
            }
        }

        /// Whoever was let in while a move was about to be asked for is in the way of it, and reads on when it has failed.
        @Test func aMoveThatFailsLeavesANodeThatWasLetInMeanwhile() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                try await Self.write(id, at: first, by: first, "echo old > file")
                for wait in [Duration.zero, .seconds(300)] {
                    var epoch: Epoch?
                    let refusal = try await Self.move(id, from: first, to: second, wait: wait) { progress in
                        guard progress.phase == "handing-over" else { return }
                        epoch = try await Self.publish(id, at: second, by: first)
                    }
                    #expect(refusal?.code == .failedPrecondition)
                    #expect(refusal?.message.contains("worker-2") == true, "\(String(describing: refusal))")
                    try await Self.stage(id, at: second, try #require(epoch))
                    #expect(try await Self.run("cat file", at: second) == "old\n")
                    try await second.csi.unstage(id, at: Self.mount(of: second))
                    try await first.csi.unpublish(id, at: "worker-2")
                }
            }
        }

        @Test func whatIsHereIsReadWhileTheOwnerIsAwayAndAfterARestart() async throws {
            try await Self.withTown { town, first, second, cleanup in
                let id = try await Self.make(by: first)
                try await Self.write(id, at: first, by: first, Self.files)
                let epoch = try await Self.publish(id, at: second, by: first)
                try await Self.stage(id, at: second, epoch)
                let agent = try await second.site.agent(id)
                try await SiteTests.wait("every byte") {
                    let summary = await agent.summary()
                    return summary.missingByteCount == 0 && !summary.namesAreArriving
                }
                await first.stop()
                _ = try await Self.run("sha256sum -c --quiet sums", at: second)
                await second.stop()
                let again = try await town.start("worker-2")
                try cleanup.add("worker-2, again") { await again.stop() }
                try await Self.stage(id, at: again, epoch)
                _ = try await Self.run("sha256sum -c --quiet sums", at: again)
                try await again.csi.unstage(id, at: Self.mount(of: again))
                // Nobody knows what the owner does: it is told before anybody may write.
                let told = try await Self.refusal { try await again.csi.unpublish(id, at: "worker-2") }
                guard case .unavailable? = told else {
                    Issue.record("let go without its owner: \(String(describing: told))")
                    return
                }
                let owner = try await town.start("worker-1")
                try cleanup.add("worker-1, again") { await owner.stop() }
                #expect(try await owner.csi.volume(id).publishedNodes == ["worker-2"])
                // Connections are made anew with some patience.
                try await SiteTests.wait("the owner's word") {
                    try await Self.refusal { try await again.csi.unpublish(id, at: "worker-2") } == nil
                }
                try await Self.write(id, at: owner, by: again, "sha256sum -c --quiet sums; rm -r a")
            }
        }

        @Test func anOwnerThatIsStartedAgainIsReadOn() async throws {
            try await Self.withTown { town, first, second, cleanup in
                let id = try await Self.make(by: first)
                try await Self.write(id, at: first, by: first, Self.files)
                // Nothing comes but what is asked for.
                try await first.csi.modify(id, CSIHydration(isPaused: true))
                let epoch = try await Self.publish(id, at: second, by: first)
                try await Self.stage(id, at: second, epoch)
                _ = try await Self.run("cat a/1", at: second)
                await first.stop()
                let owner = try await town.start("worker-1")
                try cleanup.add("worker-1, again") { await owner.stop() }
                #expect(try await second.site.agent(id).summary().missingByteCount > 0)
                _ = try await Self.run("sha256sum -c --quiet sums", at: second)
                #expect(try await Self.publish(id, at: second, by: owner) == epoch)
                try await second.csi.unstage(id, at: Self.mount(of: second))
                try await owner.csi.unpublish(id, at: "worker-2")
            }
        }

        @Test func aMountEndsWhenANewerReignIsHeardOf() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make(by: first)
                try await Self.write(id, at: first, by: first, "echo old > file")
                let epoch = try await Self.publish(id, at: second, by: first)
                try await Self.stage(id, at: second, epoch)
                #expect(try await Self.run("cat file", at: second) == "old\n")
                // The replica's names come behind.
                let agent = try await second.site.agent(id)
                try await SiteTests.wait("a state to begin with") {
                    try await !agent.takeoverOptions().isEmpty
                }
                await first.stop()
                var request = Godwit_Control_V1_TakeOverRequest()
                request.volume = "data"
                request.force = true
                request.overruledEpoch = epoch.number
                let _: Godwit_Control_V1_TakeOverReply = try await second.ask("TakeOver", request)
                #expect(try await !shell("cat file", in: Self.mount(of: second)).exit.isSuccess)
                #expect(await second.csi.servedDevices(of: id).isEmpty)
                #expect(try await Self.refusal { try await Self.stage(id, at: second, epoch) } != nil)
                try await second.csi.unstage(id, at: Self.mount(of: second))
            }
        }
    }
}

extension VolumeAgent {
    /// As while it is being mounted.
    fileprivate func beBusy(
        _ begins: AsyncStream<Void>.Continuation, until end: AsyncStream<Void>
    ) async throws {
        try await exclusively { _ in
            begins.finish()
            for await _ in end {}
        }
    }
}
