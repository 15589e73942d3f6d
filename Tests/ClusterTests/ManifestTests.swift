import ClusterResources
import Foundation
import KubernetesAPI
import Testing
import VolumeModel

@testable import TestBed

extension ClusterTests {
    @Suite struct ManifestTests {
        private static let base = ClusterTests.root + "/Manifests/base"

        /// Everything is applied as a person would; the server judges each object by its schema.
        @Test func everythingInstallsAndInstallsAgain() async throws {
            try await withCluster { cluster, _, _ in
                for _ in 0..<2 {
                    let applied = try await cluster.kubectl(["apply", "-k", Self.base])
                    #expect(applied.exit.isSuccess, "\(applied.output.suffix(600))")
                }
                let dry = try await cluster.kubectl(
                    ["apply", "-k", Self.base, "--server-side", "--force-conflicts", "--dry-run=server"])
                #expect(dry.exit.isSuccess, "\(dry.output.suffix(600))")
                let images = try await cluster.kubectl([
                    "get", "deployments,daemonsets", "-n", "godwit", "-o",
                    "jsonpath={..image}",
                ])
                // Each is named in full, from the one list.
                let names = images.output.split(separator: " ").map(String.init)
                #expect(
                    names.count == 7 && names.allSatisfy { $0.contains("/") && $0.contains(":") }, "\(names)")
                // That of this release, which a node need not ask a registry for again.
                #expect(
                    names.filter { $0 == "ghcr.io/godwit/godwit:\(Release.current)" }.count == 4, "\(names)")
                let policies = try await cluster.kubectl([
                    "get", "deployments,daemonsets", "-n", "godwit", "-o", "jsonpath={..imagePullPolicy}",
                ])
                #expect(Set(policies.output.split(separator: " ")) == ["IfNotPresent"], "\(policies.output)")
            }
        }

        /// The pods of Manifests name the image's user, and the group that the site gives its sockets to, by number.
        @Test func theControllerIsTheImagesUserAndNeedsNoRoot() async throws {
            func text(_ path: String) throws -> String {
                try String(contentsOfFile: "\(ClusterTests.root)/Manifests/\(path)", encoding: .utf8)
            }
            let controller = try text("base/controller.yaml")
            #expect(controller.contains("runAsNonRoot: true") && !controller.contains("/var/lib/godwit"))
            #expect(controller.contains("runAsUser: 65532") && controller.contains("runAsGroup: 65532"))
            #expect(try text("base/site.yaml").contains("--socket-group=65532"))
            #expect(try text("Dockerfile").contains("USER 65532:65532"))
            #expect(try text("image/install").contains("godwit:x:65532:65532:"))
        }

        /// Site and holder must mean one socket, on the host, and end apart from each other.
        @Test func theSiteFindsItsHolder() throws {
            func text(_ path: String) throws -> String {
                try String(contentsOfFile: "\(Self.base)/\(path)", encoding: .utf8)
            }
            let (site, holder) = (try text("site.yaml"), try text("holder.yaml"))
            #expect(site.contains("--mount-holder=/run/godwit/holder.sock"))
            #expect(holder.contains("--socket=/run/godwit/holder.sock"))
            for manifest in [site, holder] {
                #expect(manifest.contains("hostPath: {path: /run/godwit, type: DirectoryOrCreate}"))
                #expect(manifest.contains("mountPath: /run/godwit}") && manifest.contains("type: OnDelete"))
            }
            #expect(!holder.contains("privileged: true") && holder.contains("drop: [ALL]"))
        }

        /// Of the site's Secrets one must be there, and the other need not; nobody but root reads them.
        @Test func theMembersFindTheSitesKeysAndSayWhereTheyAre() async throws {
            try await withCluster(.manifests) { cluster, _, _ in
                func field(_ what: String, _ path: String) async throws -> String {
                    try await cluster.kubectl(["get", what, "-n", "godwit", "-o", "jsonpath={\(path)}"])
                        .output
                }
                let pod = ".spec.template.spec"
                let arguments = try await field("ds/godwit-site", pod + ".containers[0].args")
                for argument in [
                    "--site-keys=/etc/godwit/site", "--peers-from=/etc/godwit/peers",
                    "--advertise=$(HOST_IP):7443", "--registry=cluster", "--node=$(NODE)",
                ] {
                    #expect(arguments.contains("\"\(argument)\""), "\(argument): \(arguments)")
                }
                #expect(
                    try await field(
                        "ds/godwit-site",
                        pod + #".containers[0].env[?(@.name=="HOST_IP")].valueFrom.fieldRef.fieldPath"#)
                        == "status.hostIP")
                for (volume, secret) in [("keys", "godwit-site 256"), ("peers", "godwit-peers 256 true")] {
                    let found = try await field(
                        "ds/godwit-site", pod + #".volumes[?(@.name=="\#(volume)")].secret.secretName"#)
                    let rest = try await field(
                        "ds/godwit-site",
                        pod + #".volumes[?(@.name=="\#(volume)")].secret['defaultMode','optional']"#)
                    #expect("\(found) \(rest)".trimmingCharacters(in: .whitespaces) == secret)
                    let path = try await field(
                        "ds/godwit-site",
                        pod + #".containers[0].volumeMounts[?(@.name=="\#(volume)")].mountPath"#)
                    #expect(arguments.contains("=\(path)\""), "\(path)")
                }
                // What the gateway listens at is what the Service and the policy let through.
                let gateway = try await field("deploy/godwit-gateway", pod + ".containers[0].args")
                #expect(gateway.contains("--listen=[::]:7443") && gateway.contains("--registry=cluster"))
                #expect(
                    try await field("deploy/godwit-gateway", pod + ".containers[0].ports[*].containerPort")
                        == "7443 9814")
                #expect(try await field("service/godwit-gateway", ".spec.ports[*].port") == "7443")
                #expect(
                    try await field("netpol/godwit-gateway", ".spec.ingress[*].ports[*].port") == "7443 9814")
                // By what the Deployment itself knows its pods.
                for component in [
                    "service/godwit-gateway .spec.selector",
                    "netpol/godwit-gateway .spec.podSelector.matchLabels",
                ] {
                    let parts = component.split(separator: " ").map(String.init)
                    #expect(
                        try await field(parts[0], parts[1])
                            == field("deploy/godwit-gateway", ".spec.selector.matchLabels"))
                }
            }
        }

        /// Pods of a cluster with IPv6 alone have no other addresses, and are probed there.
        @Test func whatListensDoesSoAtAddressesOfBothFamilies() throws {
            var count = 0
            for name in ["controller", "gateway", "holder", "site"] {
                let text = try String(contentsOfFile: "\(Self.base)/\(name).yaml", encoding: .utf8)
                for line in text.split(separator: "\n") where line.contains("listen=") {
                    #expect(line.contains("listen=[::]:"), "\(name): \(line)")
                    count += 1
                }
            }
            #expect(count == 5)
        }

        /// Each kind of pod has a policy, and its figures are for those who say that they scrape.
        @Test func figuresAreForLabelledNamespacesAndTheHolderHasNoNetwork() async throws {
            try await withCluster(.manifests) { (cluster, _, _) async throws in
                func field(_ name: String, _ path: String) async throws -> String {
                    try await cluster.kubectl([
                        "get", "netpol/godwit-\(name)", "-n", "godwit", "-o", "jsonpath={\(path)}",
                    ]).output
                }
                let label = #".from[*].namespaceSelector.matchLabels.godwit\.dev/scrapes"#
                for (name, open, closed) in [
                    ("controller", "", "9810 9811 9812 9813"), ("site", "7443", "9808"),
                    ("gateway", "7443", "9814"),
                ] {
                    let last = open.isEmpty ? 0 : 1
                    #expect(
                        try await field(name, ".spec.ingress[\(last)].ports[*].port") == closed, "\(name)")
                    #expect(try await field(name, ".spec.ingress[\(last)]" + label) == "true", "\(name)")
                    guard last == 1 else { continue }
                    #expect(try await field(name, ".spec.ingress[0].ports[*].port") == open, "\(name)")
                    #expect(try await field(name, ".spec.ingress[0].from") == "", "\(name)")
                }
                #expect(try await field("holder", ".spec.policyTypes[*]") == "Ingress Egress")
                #expect(try await field("holder", ".spec['ingress','egress']") == "")
                let component = #".spec.podSelector.matchLabels.app\.kubernetes\.io/component"#
                #expect(try await field("holder", component) == "holder")
            }
        }

        /// What the API server itself refuses of our resources.
        @Test func whatIsNoMigrationIsRefused() async throws {
            try await withCluster { _, client, _ in
                func isRefused(claim: String = "data", to: String = "sydney") async throws -> Bool {
                    do throws(KubernetesError) {
                        _ = try await client.create(
                            MigrationResource(
                                metadata: ObjectMeta(name: "data", namespace: "default"),
                                spec: .init(claim: claim, volume: "v", from: "london", to: to)))
                        return false
                    } catch .invalid {
                        return true
                    }
                }
                let long = String(repeating: "a", count: 254)
                #expect(try await isRefused(claim: ""))
                #expect(try await isRefused(claim: long))
                #expect(try await isRefused(to: long))
                // What cannot be followed is written down, with its reason.
                #expect(try await !isRefused(to: "No/Site"))
                try await expect("no time", { if case .invalid = $0 { true } else { false } }) {
                    () async throws(KubernetesError) in
                    _ = try await client.patch(
                        MigrationResource.self, "data", in: "default", ["status": ["updated": "today"]],
                        subresource: "status")
                }
            }
        }

        /// It has no keys, nothing of the host, and needs no root.
        @Test func theGatewayIsRestricted() throws {
            let text = try String(contentsOfFile: Self.base + "/gateway.yaml", encoding: .utf8)
            for words in [
                "runAsNonRoot: true", "runAsUser: 65532", "runAsGroup: 65532", "drop: [ALL]",
                "allowPrivilegeEscalation: false", "readOnlyRootFilesystem: true", "type: RuntimeDefault",
            ] {
                #expect(text.contains(words), "\(words)")
            }
            for words in ["hostPath", "hostNetwork", "hostPort", "secret:", "privileged: true"] {
                #expect(!text.contains(words), "\(words)")
            }
        }

        /// Kubernetes itself refuses it where the class does not say that it may.
        @Test func aClaimOfTheClassMayAskForMoreAndNotForLess() async throws {
            try await withCluster(.manifests) { cluster, client, _ in
                _ = try await client.create(
                    PersistentVolumeClaim(
                        metadata: ObjectMeta(name: "data", namespace: "default"),
                        spec: .init(
                            accessModes: ["ReadWriteOnce"], storage: "2Gi", storageClassName: "godwit",
                            volumeName: "pvc-1")))
                _ = try await client.patch(
                    PersistentVolumeClaim.self, "data", in: "default",
                    ["status": ["phase": "Bound", "capacity": ["storage": "2Gi"]]], subresource: "status")
                func ask(_ size: JSONValue) async throws(KubernetesError) -> String? {
                    try await client.patch(
                        PersistentVolumeClaim.self, "data", in: "default",
                        ["spec": ["resources": ["requests": ["storage": size]]]]
                    ).spec.resources?.requests?["storage"]
                }
                #expect(try await ask("3Gi") == "3Gi")
                try await expect("no less", { if case .invalid = $0 { true } else { false } }) {
                    () async throws(KubernetesError) in _ = try await ask("1Gi")
                }
            }
        }

        /// Each library that the programs load is in one of the packages that the image installs, or in one that those need.
        @Test func theImagesPackagesHaveEveryLibraryOfThePrograms() async throws {
            let script = """
                "$1" --list | xargs apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
                    --no-breaks --no-replaces --no-enhances | grep '^[a-z]' | sed 's/:.*//' | sort -u > installed
                for library in $(ldd "$2" "$3" | sed -n 's/.*=> \\(.*\\) (.*/\\1/p' | sort -u); do
                    # Swift's own are in the programs of the image.
                    case $library in */swift/*) continue ;; esac
                    package=$({ dpkg -S "${library#/usr}" || dpkg -S "/usr${library#/usr}"; } 2> /dev/null | head -1 | sed 's/:.*//')
                    grep -qx "$package" installed || echo "missing: $library of ${package:-no package}"
                done
                echo "packages: $(wc -l < installed)"
                """
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                var program = Program(
                    "/bin/bash",
                    [
                        "-euc", script, "check", ClusterTests.root + "/Manifests/image/install", godwitBinary,
                        kubectlGodwitBinary,
                    ])
                program.directory = try cleanup.makeTemporaryDirectory()
                let output = try await ChildProcess.check(program)
                #expect(output.contains("packages: ") && !output.contains("missing: "), "\(output)")
            }
        }

        /// The API server of these tests does not know the resource, which the rights do not mind; nor does `can-i`, which asks
        /// for known ones alone.
        @Test func theResizerMayReadVolumeAttributesClassesAndNoMore() async throws {
            try await withCluster(.manifests) { cluster, _, _ in
                func may(_ verb: String) async throws -> Bool {
                    let review = """
                        {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec":
                        {"resourceAttributes": {"group": "storage.k8s.io", "resource": "volumeattributesclasses",
                        "verb": "\(verb)"}}}
                        """
                    let answer = try await cluster.kubectl(
                        [
                            "create", "-f", "-", "-o", "jsonpath={.status.allowed}", "--as",
                            "system:serviceaccount:godwit:godwit-controller",
                        ], input: review)
                    #expect(answer.exit.isSuccess, "\(answer.output)")
                    return answer.output.contains("true")
                }
                for verb in ["get", "list", "watch"] { #expect(try await may(verb), "\(verb)") }
                for verb in ["create", "update", "delete"] { #expect(try await !may(verb), "\(verb)") }
                let modes = try await cluster.kubectl([
                    "get", "csidriver", "csi.godwit.dev", "-o", "jsonpath={.spec.volumeLifecycleModes}",
                ])
                #expect(
                    modes.output.contains("Persistent") && modes.output.contains("Ephemeral"),
                    "\(modes.output)")
            }
        }

        /// One of a pair works while the other waits; a node may have both, where there is no other.
        @Test func theControllerHasAnotherOneThatWaits() async throws {
            try await withCluster(.manifests) { cluster, _, _ in
                func field(_ path: String) async throws -> String {
                    try await cluster.kubectl([
                        "get", "deploy/godwit-controller", "-n", "godwit", "-o", "jsonpath={.spec\(path)}",
                    ]).output
                }
                #expect(try await field(".replicas") == "2")
                let pod = ".template.spec"
                // What it answers at may be scraped.
                let ports = try await field(pod + ".containers[*].ports[*].containerPort")
                let allowed = try await cluster.kubectl([
                    "get", "netpol/godwit-controller", "-n", "godwit", "-o",
                    "jsonpath={.spec.ingress[*].ports[*].port}",
                ])
                #expect(Set(ports.split(separator: " ")) == Set(allowed.output.split(separator: " ")))
                #expect(
                    try await field(#".template.metadata.annotations.prometheus\.io/port"#) == "9810")
                #expect(
                    try await field(pod + ".topologySpreadConstraints[*].whenUnsatisfiable")
                        == "ScheduleAnyway")
                #expect(
                    try await field(pod + ".topologySpreadConstraints[0].labelSelector.matchLabels")
                        == field(".selector.matchLabels"))
                let tolerations = try await field(pod + ".tolerations[*].key")
                #expect(tolerations.contains("godwit.dev/site"), "\(tolerations)")
                // Not that of a node which is being drained: they would return to it.
                #expect(!tolerations.contains("unschedulable"))
                for sidecar in ["provisioner", "attacher", "resizer"] {
                    let arguments = try await field(pod + #".containers[?(@.name=="\#(sidecar)")].args"#)
                    for argument in ["--leader-election", "--leader-election-namespace=godwit"] {
                        #expect(arguments.contains("\"\(argument)\""), "\(sidecar): \(arguments)")
                    }
                }
            }
        }

        /// The API server of the tests asks for what GKE asks for.
        @Test func podsOfThePriorityClassesAreAdmitted() async throws {
            try await withCluster(.manifests) { cluster, client, _ in
                // The controller manager's part.
                _ = try await client.patch(
                    ResourceQuota.self, "godwit-critical", in: "godwit",
                    ["status": ["hard": ["pods": "1G"], "used": ["pods": "0"]]], subresource: "status")
                let used = try await cluster.kubectl([
                    "get", "deployments,daemonsets", "-n", "godwit", "-o",
                    "jsonpath={.items[*].spec.template.spec.priorityClassName}",
                ]).output.split(separator: " ")
                #expect(used.count == 4)
                func admits(_ priority: some StringProtocol, in namespace: String) async throws -> Bool {
                    let pod = """
                        apiVersion: v1
                        kind: Pod
                        metadata: {generateName: pod-, namespace: \(namespace)}
                        spec: {priorityClassName: \(priority), containers: [{name: main, image: main}]}
                        """
                    let made = try await cluster.kubectl(["create", "-f", "-"], input: pod)
                    if !made.exit.isSuccess { #expect(made.output.contains("insufficient quota")) }
                    return made.exit.isSuccess
                }
                for priority in Set(used) {
                    #expect(try await admits(priority, in: "godwit"), "\(priority)")
                    #expect(try await !admits(priority, in: "default"), "\(priority)")
                }
            }
        }

        /// Without that the scheduler may choose a node that holds no volumes, where a claim waits for ever.
        @Test func theSchedulerIsToldWhichNodesHaveRoom() async throws {
            try await withCluster(.manifests) { cluster, client, _ in
                #expect(try await client.get(CSIDriver.self, "csi.godwit.dev").spec.storageCapacity == true)
                func field(_ path: String) async throws -> String {
                    let provisioner = #".spec.template.spec.containers[?(@.name=="provisioner")]"#
                    return try await cluster.kubectl([
                        "get", "deploy/godwit-controller", "-n", "godwit", "-o",
                        "jsonpath={\(provisioner)\(path)}",
                    ]).output
                }
                let arguments = try await field(".args")
                #expect(arguments.contains("--enable-capacity") && arguments.contains("level=2"))
                for (name, path) in [("NAMESPACE", "metadata.namespace"), ("POD_NAME", "metadata.name")] {
                    let found = try await field(#".env[?(@.name=="\#(name)")].valueFrom.fieldRef.fieldPath"#)
                    #expect(found == path)
                }
                // What the provisioner does with its rights: from its pod to what owns it, and one object a node.
                let account = "system:serviceaccount:godwit:godwit-controller"
                func run(_ arguments: [String], _ input: String = "") async throws -> String {
                    let done = try await cluster.kubectl(["--as", account] + arguments, input: input)
                    return done.exit.isSuccess ? "" : done.output
                }
                for (kind, version) in [("pods", "v1"), ("replicasets", "apps/v1")] {
                    let asked = try await run(["get", kind, "none", "-n", "godwit"])
                    #expect(asked.contains("NotFound"), "\(version) \(asked)")
                }
                func room(in namespace: String) -> String {
                    """
                    apiVersion: storage.k8s.io/v1alpha1
                    kind: CSIStorageCapacity
                    metadata: {name: csisc-1, namespace: \(namespace)}
                    storageClassName: godwit
                    nodeTopology: {matchLabels: {topology.godwit.dev/node: worker-1}}
                    capacity: 10Gi
                    """
                }
                #expect(try await run(["create", "-f", "-"], room(in: "godwit")) == "")
                #expect(
                    try await run(
                        [
                            "patch", "csistoragecapacity", "csisc-1", "-n", "godwit", "--type", "merge", "-p",
                            #"{"capacity": "9Gi"}"#,
                        ]) == "")
                #expect(try await run(["delete", "csistoragecapacity", "csisc-1", "-n", "godwit"]) == "")
                #expect(try await run(["create", "-f", "-"], room(in: "default")).contains("forbidden"))
                #expect(
                    try await run(["get", "replicasets", "none", "-n", "default"]).contains("forbidden"))
            }
        }

        @Test func aServiceAccountHasTheRightsThatItNeedsAndNoOthers() async throws {
            try await withCluster(.manifests) { (cluster, _, _) async throws in
                func may(
                    _ account: String, _ verb: String, _ what: String, in namespace: String = "default"
                ) async throws -> Bool {
                    try await cluster.kubectl([
                        "auth", "can-i", verb, what, "-n", namespace, "--as",
                        "system:serviceaccount:godwit:\(account)",
                    ]).output.contains("yes")
                }
                // Its Events are about what has no namespace.
                #expect(try await may("godwit-site", "create", "events"))
                for namespace in ["godwit", "kube-system"] {
                    #expect(try await !may("godwit-site", "create", "events", in: namespace), "\(namespace)")
                }
                #expect(try await may("godwit-controller", "create", "events", in: "kube-system"))
                // That of the provisioner, and no others.
                #expect(try await may("godwit-controller", "get", "pods", in: "godwit"))
                for namespace in ["godwit", "default"] {
                    #expect(
                        try await !may("godwit-controller", "list", "pods", in: namespace), "\(namespace)")
                }
                for (verb, what) in [
                    ("update", "volumes.godwit.dev"), ("list", "volumes.godwit.dev"),
                    ("create", "members.godwit.dev"), ("patch", "members.godwit.dev"),
                    ("patch", "members.godwit.dev/status"),
                ] {
                    #expect(try await may("godwit-site", verb, what), "\(verb) \(what)")
                }
                for (verb, what) in [
                    ("list", "secrets"), ("list", "persistentvolumeclaims"), ("get", "pods"),
                    ("delete", "migrations.godwit.dev"), ("update", "leases.coordination.k8s.io"),
                    ("delete", "members.godwit.dev"), ("update", "members.godwit.dev/status"),
                ] {
                    #expect(try await !may("godwit-site", verb, what), "\(verb) \(what)")
                }
                for verb in ["get", "list"] {
                    #expect(try await may("godwit-gateway", verb, "members.godwit.dev"), "\(verb)")
                }
                for (verb, what) in [
                    ("create", "members.godwit.dev"), ("patch", "members.godwit.dev"),
                    ("get", "volumes.godwit.dev"), ("get", "secrets"), ("get", "pods"),
                ] {
                    #expect(try await !may("godwit-gateway", verb, what), "\(verb) \(what)")
                }
                for (verb, what) in [
                    ("get", "volumes.godwit.dev"), ("create", "persistentvolumes"),
                    ("create", "persistentvolumeclaims"), ("delete", "persistentvolumeclaims"),
                    ("patch", "persistentvolumeclaims"), ("list", "namespaces"),
                ] {
                    #expect(try await may("godwit-controller", verb, what), "\(verb) \(what)")
                }
                for (verb, what) in [
                    ("get", "secrets"), ("get", "namespaces"), ("create", "pods"), ("delete", "pods"),
                    ("update", "volumes.godwit.dev"), ("update", "leases.coordination.k8s.io"),
                    ("create", "takeovers.godwit.dev"), ("delete", "takeovers.godwit.dev"),
                ] {
                    #expect(try await !may("godwit-controller", verb, what), "\(verb) \(what)")
                }
            }
        }
    }
}
