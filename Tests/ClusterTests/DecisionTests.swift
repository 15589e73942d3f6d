import Foundation
import KubernetesAPI
import Testing

/// What is decided without a cluster.
@Suite struct DecisionTests {

    private func seen(_ version: Int, _ holder: String?, seconds: Int = 15) -> LeaseElection.Seen {
        LeaseElection.Seen(version: "\(version)", holder: holder, duration: .seconds(seconds))
    }

    @Test func aLeaseThatIsRenewedIsNeverTaken() {
        var election = LeaseElection(identity: "b")
        for second in 0..<100 {
            #expect(election.observe(seen(second / 10, "a"), at: .seconds(second)) == .wait)
        }
    }

    @Test func aLeaseThatDoesNotChangeForItsDurationIsTakenWhateverItsClockSays() {
        var election = LeaseElection(identity: "b")
        #expect(election.observe(seen(7, "a"), at: .seconds(100)) == .wait)
        #expect(election.observe(seen(7, "a"), at: .seconds(114)) == .wait)
        #expect(election.observe(seen(7, "a"), at: .seconds(115)) == .acquire)
        election.wrote(seen(8, "b"), begunAt: .seconds(115))
        #expect(election.isLeading)
        #expect(election.observe(seen(8, "b"), at: .seconds(118)) == .renew)
    }

    @Test func aLeaderStepsDownBeforeAnotherMayBegin() {
        var election = LeaseElection(identity: "a")
        #expect(election.observe(nil, at: .zero) == .acquire)
        election.wrote(seen(1, "a"), begunAt: .zero)
        #expect(election.observeFailure(at: .seconds(9)) == .wait)
        #expect(election.timeLeft(at: .seconds(9)) == .seconds(1))
        #expect(election.observeFailure(at: .seconds(10)) == .stepDown)
        #expect(!election.isLeading)
    }

    @Test func aLeaderThatWasReplacedStepsDownAtOnce() {
        var election = LeaseElection(identity: "a")
        election.wrote(seen(1, "a"), begunAt: .zero)
        #expect(election.observe(seen(2, "b"), at: .seconds(1)) == .stepDown)
        #expect(election.observe(seen(2, "b"), at: .seconds(2)) == .wait)
    }

    @Test func aLeaseThatWasGivenUpIsTakenAtOnce() {
        var election = LeaseElection(identity: "b")
        #expect(election.observe(seen(1, ""), at: .zero) == .acquire)
        #expect(election.observe(seen(1, nil), at: .zero) == .acquire)
    }

    @Test func aReluctantCandidateTakesWhatNobodyElseTakes() {
        var willing = LeaseElection(identity: "b")
        var reluctant = LeaseElection(identity: "a")
        reluctant.isReluctant = true
        #expect(reluctant.observe(seen(1, ""), at: .zero) == .wait)
        #expect(willing.observe(seen(1, ""), at: .seconds(3)) == .acquire)
        #expect(reluctant.observe(seen(1, ""), at: .seconds(14)) == .wait)
        #expect(reluctant.observe(seen(1, ""), at: .seconds(15)) == .acquire)
        // Of one that died, or its own that it could not give up, it waits for the end first.
        for holder in ["b", "a"] {
            var candidate = LeaseElection(identity: "a")
            candidate.isReluctant = true
            #expect(candidate.observe(seen(1, holder), at: .zero) == .wait)
            #expect(candidate.observe(seen(1, holder), at: .seconds(29)) == .wait)
            #expect(candidate.observe(seen(1, holder), at: .seconds(30)) == .acquire)
        }
    }

    /// Of two that nobody answers one leads for a while, then the other: neither keeps the lease, nor is it left for ever.
    @Test func aReluctantLeaderLeadsOnAndIsAsWillingAsOthersWhenThatIsOver() {
        var election = LeaseElection(identity: "a")
        election.isReluctant = true
        #expect(election.observe(nil, at: .zero) == .acquire)
        election.wrote(seen(1, "a"), begunAt: .zero)
        #expect(election.observe(seen(1, "a"), at: .seconds(3)) == .renew)
        #expect(election.observe(seen(2, "b"), at: .seconds(6)) == .stepDown)
        election.isReluctant = false
        #expect(election.observe(seen(3, ""), at: .seconds(7)) == .acquire)
    }

    @Test func aWatchGoesOnWhereItWasUnlessThatPlaceIsForgotten() {
        var position = WatchPosition()
        #expect(position.step == .list)
        position.listed("5")
        position.saw("9")
        position.failed(.unreachable("away"))
        #expect(position.step == .watch(from: "9"))
        position.saw(nil)
        #expect(position.step == .watch(from: "9"))
        position.failed(.gone("too old"))
        #expect(position.step == .list)
    }

    @Test func waitsDoubleUpToALimitAndHeedTheServer() {
        var backoff = Backoff(first: .seconds(1), limit: .seconds(8))
        for most in [1, 2, 4, 8, 8] {
            let wait = backoff.next()
            #expect(wait >= .seconds(most) / 2 && wait <= .seconds(most))
        }
        #expect(backoff.next(atLeast: .seconds(60)) == .seconds(60))
        #expect(backoff.next(atLeast: .seconds(1_000_000)) <= .seconds(120))
        backoff.reset()
        #expect(backoff.next() <= .seconds(1))
    }

    private func kubeconfig(_ files: [String]) throws -> ClusterConnection {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: directory) }
        var paths: [String] = []
        for (index, text) in files.enumerated() {
            let place = directory.appendingPathComponent("\(index)")
            try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
            try "of \(index)".write(
                to: place.appendingPathComponent("authority"), atomically: true, encoding: .utf8)
            paths.append(place.appendingPathComponent("config").path)
            try text.write(toFile: paths[index], atomically: true, encoding: .utf8)
        }
        return try ClusterConnection.kubeconfig(paths: ["/none/there"] + paths)
    }

    @Test func ofSeveralKubeconfigsTheFirstThatHasANameIsHeard() throws {
        let connection = try kubeconfig([
            #"{"users": [{"name": "u", "user": {"token": "of 0"}}]}"#,
            """
            {"current-context": "x", "users": [{"name": "u", "user": {"token": "of 1"}}], "clusters":
             [{"name": "c", "cluster": {"server": "https://b", "certificate-authority": "authority"}}]}
            """,
            """
            {"current-context": "y", "contexts": [{"name": "y", "context": {"cluster": "d", "user": "v"}},
              {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
             "clusters": [{"name": "c", "cluster": {"server": "https://c"}}]}
            """,
        ])
        #expect(connection.server == "https://b" && connection.namespace == "n")
        // A path begins where its file is.
        #expect(connection.authorityPEM == Array("of 1".utf8))
        if case .token(let token) = connection.credential { #expect(token == "of 0") } else { Issue.record() }
    }

    @Test func whoeverIsToBeSomebodyElseSaysSoInHeaders() throws {
        let user = """
            {"token": "t", "as": "jane", "as-uid": "7", "as-groups": ["a", "b"],
             "as-user-extra": {"acme.com/project": ["x"]}}
            """
        let connection = try kubeconfig(#"{"server": "https://a", "tls-server-name": "kubernetes"}"#, user)
        #expect(connection.serverName == "kubernetes")
        #expect(
            connection.impersonation.map { "\($0.name): \($0.value)" } == [
                "Impersonate-User: jane", "Impersonate-Uid: 7", "Impersonate-Group: a",
                "Impersonate-Group: b", "Impersonate-Extra-acme.com%2Fproject: x",
            ])
    }

    private func kubeconfig(_ cluster: String, _ user: String) throws -> ClusterConnection {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        let path = directory.appendingPathComponent("config").path
        try """
        {"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
         "clusters": [{"name": "c", "cluster": \(cluster)}], "users": [{"name": "u", "user": \(user)}]}
        """.write(toFile: path, atomically: true, encoding: .utf8)
        return try ClusterConnection.kubeconfig(path: path)
    }

    @Test(arguments: [
        (#"{"server": "http://a"}"#, "{}", "https"),
        (#"{"server": "https://a", "insecure-skip-tls-verify": true}"#, "{}", "verify"),
        (#"{"server": "https://a", "proxy-url": "socks5://b"}"#, "{}", "proxy"),
        (#"{"server": "https://a"}"#, #"{"token": "t", "as-groups": ["a"]}"#, "without 'as'"),
        (#"{"server": "https://a"}"#, #"{"token": "t", "as": "a\nb"}"#, "header"),
        (#"{"server": "https://a"}"#, #"{"exec": {"command": "x"}}"#, "program"),
        (#"{"server": "https://a"}"#, #"{"username": "x", "password": "y"}"#, "password"),
        (#"{"server": "https://a"}"#, #"{"client-certificate-data": "eA=="}"#, "key"),
        (#"{"server": "https://a", "certificate-authority": "missing.crt"}"#, "{}", "missing.crt"),
        (#"{"server": "https://a", "certificate-authority-data": "*"}"#, "{}", "base64"),
    ])
    func aKubeconfigThatCannotBeFollowedIsRefused(_ cluster: String, _ user: String, _ word: String) throws {
        do {
            _ = try kubeconfig(cluster, user)
            Issue.record("it was accepted")
        } catch let error as KubernetesError {
            #expect(error.description.contains(word), "\(error)")
        }
    }

    @Test func aKubeconfigWithATokenIsFollowed() throws {
        let connection = try kubeconfig(#"{"server": "https://a:6443/"}"#, #"{"token": "t"}"#)
        #expect(connection.server == "https://a:6443" && connection.namespace == "default")
    }
}
