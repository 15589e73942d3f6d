import ClusterResources
import KubernetesAPI
import Testing

@testable import kubectl_godwit

/// What `kubectl godwit migrate --watch` believes, and how it looks; without a cluster.
@Suite struct MigrationVerdictTests {
    private func migration(
        _ phase: MigrationResource.Phase?, to target: String = "sydney", version: String = "1",
        isClosed: Bool? = nil
    ) -> MigrationResource {
        var migration = MigrationResource(
            metadata: ObjectMeta(name: "data", namespace: "shop"),
            spec: .init(claim: "data", volume: "v", from: "london", to: target))
        migration.metadata.uid = "u"
        migration.metadata.resourceVersion = version
        if let phase {
            migration.status = .init(phase: phase, message: "words")
            migration.status?.closed = isClosed
        }
        return migration
    }

    private func verdict(
        _ migration: MigrationResource?, earlier: MigrationResource? = nil, waited: Duration = .zero
    ) -> MigrationVerdict {
        MigrationVerdict(migration, target: "sydney", earlier: earlier, waited: waited)
    }

    @Test func whatWasWrittenOfAnotherWishIsNotBelieved() {
        #expect(verdict(nil) == .unheard(isLate: false))
        #expect(verdict(nil, waited: .seconds(31)) == .unheard(isLate: true))
        #expect(verdict(migration(nil)) == .unheard(isLate: false))
        #expect(verdict(migration(.done, to: "tokyo")) == .unheard(isLate: false))
        let closed = migration(.done, isClosed: true)
        #expect(verdict(closed, earlier: closed) == .unheard(isLate: false))
        let cancelled = migration(.cancelled)
        #expect(verdict(cancelled, earlier: cancelled) == .unheard(isLate: false))
        let failed = migration(.failed)
        #expect(verdict(failed, earlier: failed) == .unheard(isLate: false))
        // A failure that repeats itself word for word changes nothing in the object.
        #expect(verdict(failed, earlier: failed, waited: .seconds(31)) == .failed("words"))
    }

    @Test func whatIsNewIsBelieved() {
        let old = migration(.done, version: "1", isClosed: true)
        for phase in [MigrationResource.Phase.preparing, .ready, .handingOver, .handedOver, .hydrating] {
            let new = migration(phase, version: "2")
            #expect(verdict(new, earlier: old) == .underWay(new.status!))
        }
        let done = migration(.done, version: "2")
        #expect(verdict(done, earlier: old) == .done(done.status!))
        // Begun again after its end: done, and not closed yet.
        #expect(verdict(done, earlier: done) == .done(done.status!))
        #expect(verdict(migration(.failed, version: "2"), earlier: old) == .failed("words"))
        #expect(verdict(migration(.cancelled, version: "2"), earlier: old) == .failed("cancelled: words"))
        #expect(verdict(migration(.failed)) == .failed("words"))
    }

    @Test func theBarIsFullOnlyWhenEveryByteIsThere() {
        var status = MigrationResource.Status(phase: .hydrating, message: "its bytes follow")
        status.totalBytes = 1000
        status.missingBytes = 1
        status.resident = "99%"
        status.rate = "1.0MiB/s"
        status.eta = "3s"
        let line = MigrationDisplay.line(status)
        #expect(
            line == "[" + String(repeating: "=", count: 29)
                + " ] 99% resident  Hydrating  1.0MiB/s  3s left  its bytes follow")
        status.missingBytes = 0
        #expect(MigrationDisplay.line(status).contains("[" + String(repeating: "=", count: 30) + "]"))
        #expect(MigrationDisplay.bar(0) == "[" + String(repeating: " ", count: 30) + "]")
        // Figures that make no sense are shown as something, and end nothing.
        status.totalBytes = -5
        status.missingBytes = .max
        #expect(MigrationDisplay.line(status).contains("Hydrating"))
        #expect(MigrationDisplay.bar(.nan).count == 32)
    }

    @Test func whatComesFromTheClusterMovesNoCursor() {
        #expect(Terminal.clean("a\u{1b}[2Jb\r\nc\u{9b}d") == "a [2Jb  c d")
    }
}
