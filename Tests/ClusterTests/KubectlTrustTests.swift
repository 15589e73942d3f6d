import Foundation
import KubernetesAPI
import SiteIdentity
import Testing
import VolumeModel

@testable import TestBed

extension ClusterTests {
    /// Keys and trust of a site that are Secrets of its cluster.
    @Suite struct TrustTests {
        /// Runs `kubectl-godwit`, and looks that no key is in what it prints.
        private func plugin(
            _ cluster: TestCluster, _ arguments: [String], input: String = "", kubeconfig: String? = nil
        ) async throws -> ChildProcess.Outcome {
            var program = Program(
                kubectlGodwitBinary, arguments + ["--kubeconfig", kubeconfig ?? cluster.kubeconfig])
            program.input = Array(input.utf8)
            let outcome = try await ChildProcess.run(program, limit: .seconds(120))
            #expect(!outcome.output.contains("PRIVATE"), "\(arguments)")
            return outcome
        }

        private func prepare(_ cluster: TestCluster) async throws {
            let made = try await cluster.kubectl(["create", "namespace", "godwit"])
            try #require(made.exit.isSuccess, "\(made.output)")
        }

        private func peers(_ client: KubernetesClient) async throws -> Secret {
            try await client.get(Secret.self, "godwit-peers", in: "godwit")
        }

        @Test func theSitesKeysAreMadeOnceAndShownWithoutTheKey() async throws {
            try await withCluster { cluster, client, _ in
                let early = try await plugin(cluster, ["init", "--site", "london"])
                #expect(
                    !early.exit.isSuccess && early.output.contains("no namespace 'godwit'"), "\(early.output)"
                )
                try await prepare(cluster)
                let none = try await plugin(cluster, ["show"])
                #expect(!none.exit.isSuccess && none.output.contains("kubectl godwit init"), "\(none.output)")
                let wrong = try await plugin(cluster, ["init", "--site", "a.london"])
                #expect(!wrong.exit.isSuccess && wrong.output.contains("a site's name"), "\(wrong.output)")

                let made = try await plugin(cluster, ["init", "--site", "london"])
                #expect(made.exit.isSuccess && made.output.contains("keys of site london"), "\(made.output)")
                let secret = try await client.get(Secret.self, "godwit-site", in: "godwit")
                let text = try #require(secret.value("authority.pem"))
                let authority = try SiteAuthority(text, from: "the Secret")
                #expect(authority.site == SiteID("london"))
                for shown in ["\(secret)", String(reflecting: secret)] {
                    #expect(shown.contains("authority.pem") && !shown.contains("LS0t"), "\(shown)")
                }
                var dumped = ""
                dump(secret, to: &dumped)
                #expect(!dumped.contains("LS0t"), "\(dumped)")

                let again = try await plugin(cluster, ["init", "--site", "london"])
                #expect(
                    again.exit.isSuccess && again.output.contains("site london already"), "\(again.output)")
                let other = try await plugin(cluster, ["init", "--site", "paris"])
                #expect(
                    !other.exit.isSuccess && other.output.contains("keys of site london"), "\(other.output)")
                let after = try await client.get(Secret.self, "godwit-site", in: "godwit")
                #expect(after.value("authority.pem") == text)

                let shown = try await plugin(cluster, ["show", "--address", "203.0.113.7:7443"])
                #expect(shown.exit.isSuccess)
                #expect(try shown.output == authority.trustDocument(address: "203.0.113.7:7443"))
                let address = try await plugin(cluster, ["show", "--address", "nowhere"])
                #expect(
                    !address.exit.isSuccess && address.output.contains("is no address"), "\(address.output)")
                // What a node makes of it.
                let keys = cluster.directory + "/site-keys"
                try FileManager.default.createDirectory(atPath: keys, withIntermediateDirectories: false)
                try text.write(toFile: keys + "/authority.pem", atomically: false, encoding: .utf8)
                chmod(keys + "/authority.pem", 0o400)
                let source = IdentitySource(node: "n1", siteKeys: keys, directory: cluster.directory + "/pki")
                #expect(try source.load().identity.site == SiteID("n1.london"))

                // Of a Secret that a person spoilt nothing but that is told.
                _ = try await client.patch(
                    Secret.self, "godwit-site", in: "godwit", secret.patch("authority.pem", "-----SECRET"))
                for command in [["show"], ["init", "--site", "london"]] {
                    let spoilt = try await plugin(cluster, command)
                    #expect(
                        !spoilt.exit.isSuccess && spoilt.output.contains("secret/godwit-site"),
                        "\(spoilt.output)")
                    #expect(!spoilt.output.contains("-----SECRET"), "\(spoilt.output)")
                }
            }
        }

        @Test func trustIsPinnedInASecretAndEnded() async throws {
            try await withCluster { cluster, client, _ in
                try await prepare(cluster)
                #expect(try await plugin(cluster, ["init", "--site", "london"]).exit.isSuccess)
                let sydney = try SiteAuthority(of: SiteID("sydney")!)
                let document = try sydney.trustDocument(address: "a.example:1")
                let file = cluster.directory + "/sydney.trust"
                try document.write(toFile: file, atomically: true, encoding: .utf8)
                let early = try await plugin(cluster, ["distrust", "sydney"])
                #expect(early.exit.isSuccess && early.output.contains("was not trusted"), "\(early.output)")

                let trusted = try await plugin(cluster, ["trust", file])
                #expect(
                    trusted.exit.isSuccess && trusted.output.contains("site sydney is trusted, fingerprint "))
                #expect(try await peers(client).value("sydney.trust") == document)
                // The same keys without an address do not take it away; a second site stands beside it.
                let bare = try sydney.trustDocument(address: nil)
                #expect(try await plugin(cluster, ["trust", "-"], input: bare).exit.isSuccess)
                #expect(try await peers(client).value("sydney.trust") == document)
                let tokyo = try SiteAuthority(of: SiteID("tokyo")!).trustDocument(address: nil)
                #expect(try await plugin(cluster, ["trust", "-"], input: tokyo).exit.isSuccess)
                #expect(try await peers(client).value("tokyo.trust") == tokyo)

                let changed = try SiteAuthority(of: SiteID("sydney")!).trustDocument(address: nil)
                let refused = try await plugin(cluster, ["trust", "-"], input: changed)
                #expect(
                    !refused.exit.isSuccess && refused.output.contains("use --replace"), "\(refused.output)")
                #expect(try await peers(client).value("sydney.trust") == document)
                #expect(
                    try await plugin(cluster, ["trust", "-", "--replace"], input: changed).exit.isSuccess)
                #expect(try await peers(client).value("sydney.trust") == changed)

                let own = try await plugin(cluster, ["show"]).output
                for (text, words) in [
                    (own, "of this site itself"), ("rubbish", "not a trust document"),
                    (changed.replacingOccurrences(of: "sydney", with: "tokyo"), "its certificate is not"),
                ] {
                    let wrong = try await plugin(cluster, ["trust", "-"], input: text)
                    #expect(!wrong.exit.isSuccess && wrong.output.contains(words), "\(wrong.output)")
                }
                #expect(!(try await plugin(cluster, ["trust", "/no/such/file"]).exit.isSuccess))
                // A document that somebody spoilt takes a person's word.
                _ = try await client.patch(
                    Secret.self, "godwit-peers", in: "godwit", peers(client).patch("tokyo.trust", "spoilt"))
                #expect(!(try await plugin(cluster, ["trust", "-"], input: tokyo).exit.isSuccess))
                #expect(try await plugin(cluster, ["trust", "-", "--replace"], input: tokyo).exit.isSuccess)

                let ended = try await plugin(cluster, ["distrust", "sydney"])
                #expect(
                    ended.exit.isSuccess && ended.output.contains("not trusted any more"), "\(ended.output)")
                let left = try await peers(client)
                #expect(!left.hasValue("sydney.trust") && left.value("tokyo.trust") == tokyo)
            }
        }

        @Test func changesAtTheSameTimeAreAllKept() async throws {
            try await withCluster { cluster, client, _ in
                try await prepare(cluster)
                let sites = ["a", "b", "c", "d"]
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for site in sites {
                        let file = "\(cluster.directory)/\(site).trust"
                        try SiteAuthority(of: SiteID(site)!).trustDocument(address: nil)
                            .write(toFile: file, atomically: true, encoding: .utf8)
                        group.addTask {
                            let trusted = try await plugin(cluster, ["trust", file])
                            #expect(trusted.exit.isSuccess, "\(trusted.output)")
                        }
                    }
                    try await group.waitForAll()
                }
                let kept = try await peers(client)
                for site in sites { #expect(kept.hasValue("\(site).trust")) }
            }
        }

        /// Who may say whom to trust need not be one who may read the site's keys; nor is anything told who may not.
        @Test func rightsAreThoseOfWhoAsks() async throws {
            try await withCluster { cluster, client, _ in
                try await prepare(cluster)
                #expect(try await plugin(cluster, ["init", "--site", "london"]).exit.isSuccess)
                for command in [
                    ["create", "serviceaccount", "dev"],
                    [
                        "-n", "godwit", "create", "role", "peers", "--verb=get,create,patch",
                        "--resource=secrets", "--resource-name=godwit-peers",
                    ],
                    ["-n", "godwit", "create", "role", "make", "--verb=create", "--resource=secrets"],
                    [
                        "-n", "godwit", "create", "rolebinding", "peers", "--role=peers",
                        "--serviceaccount=default:dev",
                    ],
                    [
                        "-n", "godwit", "create", "rolebinding", "make", "--role=make",
                        "--serviceaccount=default:dev",
                    ],
                ] {
                    let made = try await cluster.kubectl(command)
                    try #require(made.exit.isSuccess, "\(made.output)")
                }
                let token = try await cluster.serviceAccountToken("dev", in: "default")
                let kubeconfig = cluster.directory + "/dev.kubeconfig"
                try cluster.kubeconfigText(user: "token: \(token)").write(
                    toFile: kubeconfig, atomically: true, encoding: .utf8)
                let document = try SiteAuthority(of: SiteID("sydney")!).trustDocument(address: nil)
                let trusted = try await plugin(
                    cluster, ["trust", "-"], input: document, kubeconfig: kubeconfig)
                #expect(trusted.exit.isSuccess, "\(trusted.output)")
                for command in [["show"], ["init", "--site", "london"]] {
                    let refused = try await plugin(cluster, command, kubeconfig: kubeconfig)
                    #expect(
                        !refused.exit.isSuccess && refused.output.contains("forbidden"), "\(refused.output)")
                }
            }
        }
    }
}
