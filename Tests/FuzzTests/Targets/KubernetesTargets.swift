import ClusterResources
import Foundation
import VolumeModel

@testable import Cluster
@testable import KubernetesAPI
@testable import Site

/// What a cluster's API server sends, and the files that lead there.
enum KubernetesTargets {
    static let all = [objects, configuration]

    private static let metadata = """
        "metadata": {"name": "data", "namespace": "default", "uid": "u", "resourceVersion": "17", "generation": 3, \
        "annotations": {"godwit.dev/migrate-to": "sydney"}, "finalizers": ["godwit.dev/withdraw"], \
        "ownerReferences": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "data", "uid": "x"}]}
        """

    private static let objects = FuzzTarget(
        "kubernetes", "lines of a watch, lists and refusals of an API server", byteLimit: 4096, rounds: 2000,
        words: [
            "\"type\"", "\"object\"", "ADDED", "BOOKMARK", "ERROR", "null", "9223372036854775808", "1e400",
        ],
        kinds: [
            watch(
                PersistentVolumeClaim.self,
                [
                    """
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, \
                    "volumeName": "pv"}, "status": {"phase": "Bound"}
                    """
                ]),
            watch(
                PersistentVolume.self,
                [
                    """
                    "spec": {"capacity": {"storage": "1Gi"}, "csi": {"driver": "csi.godwit.dev", "volumeHandle": "v"}}
                    """
                ]),
            watch(
                MigrationResource.self,
                [
                    """
                    "spec": {"claim": "data", "volume": "v", "from": "london", "to": "sydney"}, \
                    "status": {"phase": "Ready", "message": "", "epoch": 3, "conditions": [{"type": "Ready", \
                    "status": "True", "reason": "R", "message": "", "lastTransitionTime": "t", \
                    "observedGeneration": 2}]}
                    """
                ]
            ) {
                _ = ($0.currentStatus, $0.hasEnded, $0.concernsTarget, $0.isKept)
            },
            watch(
                TakeoverResource.self,
                [#""spec": {"volume": "v", "claim": "default/data", "force": true, "overrule": 4}"#]),
            watch(
                MemberResource.self,
                [
                    """
                    "spec": {"site": "london", "id": "n1.london", "address": "a:1", "release": "1"}, \
                    "status": {"clockSeconds": 3}
                    """
                ]),
            watch(
                VolumeResource.self,
                [
                    """
                    "spec": {"id": "\(HandoffSamples.volume)", "members": {"london": {"revision": 3, "writer": "w", \
                    "record": {}, "summary": {"role": "owning", "peers": []}}}, "summary": {"role": "", "peers": []}}
                    """
                ]
            ) { volume in
                for name in volume.spec.members.keys {
                    guard let member = SiteID(name), let entry = try? volume.spec.entry(of: member) else {
                        continue
                    }
                    _ = try? entry.record.decoded(as: StoredVolume.self).record(id: HandoffSamples.volume)
                    var spec = volume.spec
                    try? spec.set(entry, of: member)
                }
            },
            watch(Secret.self, [#""data": {"london.trust": "Z29kd2l0LXNpdGU6IGxvbmRvbgo="}"#]) { secret in
                for name in secret.names { _ = secret.value(name) }
            },
            FuzzTarget.Kind(
                seeds: {
                    let page =
                        #"{"metadata": {"resourceVersion": "5", "continue": "x"}, "items": [{\#(metadata)}]}"#
                    return [Array(page.utf8)]
                },
                body: { bytes in
                    let page = try KubernetesClient.decode(ResourcePage<Secret>.self, Data(bytes))
                    return page.items != nil
                }),
            FuzzTarget.Kind(
                seeds: { [Array(#"{"message": "gone", "reason": "Expired", "code": 410}"#.utf8)] },
                body: { bytes in
                    let status = try KubernetesClient.decode(StatusObject.self, Data(bytes))
                    _ =
                        KubernetesError(
                            code: status.code ?? 500, reason: status.reason, message: status.message ?? "",
                            retryAfter: nil
                        ).description
                    return true
                }),
            FuzzTarget.Kind(
                seeds: { [Array(#"{"a": [1, -2.5, null, true, "\u00e9", {"b": {}}], "c": 1e300}"#.utf8)] },
                body: { bytes in
                    let value = try KubernetesClient.decode(JSONValue.self, Data(bytes))
                    // A number beyond 64 bits may be another when it is sent on, and then no other any more.
                    guard let again = try? JSONValue(encoding: value) else {
                        throw FuzzFinding(description: "\(value) cannot be sent on")
                    }
                    try demand((try? JSONValue(encoding: again)) == again, "\(again) is another when sent on")
                    return true
                }),
        ])

    /// Lines of a watch of a kind.
    ///
    /// - Parameters:
    ///   - bodies: what objects have beside their metadata.
    ///   - use: what is done with an object.
    private static func watch<Item: KubernetesResource>(
        _ type: Item.Type, _ bodies: [String], _ use: @escaping @Sendable (Item) throws -> Void = { _ in }
    ) -> FuzzTarget.Kind {
        FuzzTarget.Kind(
            seeds: {
                let changes = bodies.map { #"{"type": "ADDED", "object": {\#(metadata), \#($0)}}"# }
                let others = [
                    #"{"type": "BOOKMARK", "object": {\#(metadata)}}"#,
                    #"{"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "old"}}"#,
                ]
                return (changes + others).map { Array($0.utf8) }
            },
            body: { bytes in
                let line = try KubernetesClient.decode(WatchLine<Item>.self, Data(bytes))
                var position = WatchPosition()
                position.listed("1")
                switch line.content {
                case .change(.applied(let item)), .change(.deleted(let item)):
                    try use(item)
                    _ = try KubernetesClient.encode(object: item)
                case .change(.replaced), .bookmark: break
                case .error(let error): position.failed(error)
                }
                position.saw(line.resourceVersion)
                return true
            })
    }

    // MARK: kubeconfig

    private static let configuration = FuzzTarget(
        "kubeconfig", "a kubeconfig", byteLimit: 2048, rounds: 500,
        words: ["clusters:", "users:", "contexts:", "current-context: ", "- name: ", "&a ", "*a", "<<: "],
        seeds: {
            let text = """
                apiVersion: v1
                clusters:
                - name: one
                  cluster: {server: "https://203.0.113.1:6443", certificate-authority-data: YQ==, tls-server-name: x}
                users:
                - name: me
                  user: {token: secret, as: other, as-groups: [a, b], as-user-extra: {"a/b": [c]}}
                contexts:
                - name: here
                  context: {cluster: one, user: me, namespace: default}
                current-context: here
                """
            return [Array(text.utf8)]
        },
        body: { bytes in
            let file = try KubeconfigFile(bytes, path: "/kubeconfig")
            // What it names is not read.
            let namesFiles =
                (file.clusters ?? []).contains { $0.value.authority != nil }
                || (file.users ?? []).contains { $0.value.certificate != nil || $0.value.key != nil }
            guard !namesFiles else { return true }
            _ = try file.connection(context: nil, runsPrograms: false)
            return true
        })
}
