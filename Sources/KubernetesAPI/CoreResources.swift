package struct PersistentVolumeClaim: KubernetesResource {
    package static let resource = ResourceKind(
        group: "", version: "v1", kind: "PersistentVolumeClaim", plural: "persistentvolumeclaims",
        isNamespaced: true)

    package struct Spec: Codable, Hashable, Sendable {
        package struct Resources: Codable, Hashable, Sendable {
            package var requests: [String: String]?
            package init(requests: [String: String]?) { self.requests = requests }
        }
        package var accessModes: [String]?
        package var resources: Resources?
        package var storageClassName: String?
        package var volumeMode: String?
        package var volumeName: String?

        package init(
            accessModes: [String]?, storage: String, storageClassName: String?, volumeName: String? = nil
        ) {
            self.accessModes = accessModes
            resources = Resources(requests: ["storage": storage])
            self.storageClassName = storageClassName
            self.volumeName = volumeName
        }
    }
    /// Older than metav1.Condition, and of its own form.
    package struct Condition: Codable, Hashable, Sendable {
        package var type: String
        package var status: String
        package var reason: String?
        package var message: String?
        package var lastProbeTime: String?
        package var lastTransitionTime: String?

        package init(type: String, status: String) {
            self.type = type
            self.status = status
        }
    }
    package struct Status: Codable, Hashable, Sendable {
        package var phase: String?
        package var conditions: [Condition]?
    }

    package var metadata: ObjectMeta
    package var spec: Spec
    package var status: Status?

    package init(metadata: ObjectMeta, spec: Spec) {
        self.metadata = metadata
        self.spec = spec
    }
}

package struct PersistentVolume: KubernetesResource {
    package static let resource = ResourceKind(
        group: "", version: "v1", kind: "PersistentVolume", plural: "persistentvolumes", isNamespaced: false)

    package struct Spec: Codable, Hashable, Sendable {
        package struct CSI: Codable, Hashable, Sendable {
            package var driver: String
            package var volumeHandle: String
            package var fsType: String?
            package init(driver: String, volumeHandle: String) {
                self.driver = driver
                self.volumeHandle = volumeHandle
            }
        }
        package struct ClaimReference: Codable, Hashable, Sendable {
            package var apiVersion: String?
            package var kind: String?
            package var namespace: String?
            package var name: String?
            package var uid: String?
            package init(namespace: String, name: String) {
                apiVersion = "v1"
                kind = "PersistentVolumeClaim"
                self.namespace = namespace
                self.name = name
            }
        }
        /// On which nodes it can be used.
        package struct NodeAffinity: Codable, Hashable, Sendable {
            package struct Expression: Codable, Hashable, Sendable {
                package var key: String
                package var `operator`: String
                package var values: [String]?
            }
            package struct Term: Codable, Hashable, Sendable {
                package var matchExpressions: [Expression]?
            }
            package struct Selector: Codable, Hashable, Sendable {
                package var nodeSelectorTerms: [Term]
            }
            package var required: Selector?

            /// Nodes that have a label of this value.
            package init(label: String, value: String) {
                let expression = Expression(key: label, operator: "In", values: [value])
                required = Selector(nodeSelectorTerms: [Term(matchExpressions: [expression])])
            }
        }
        package var capacity: [String: String]?
        package var nodeAffinity: NodeAffinity?
        package var accessModes: [String]?
        package var csi: CSI?
        package var claimRef: ClaimReference?
        package var persistentVolumeReclaimPolicy: String?
        package var storageClassName: String?
        package var volumeMode: String?

        package init(
            storage: String, accessModes: [String], csi: CSI, claim: ClaimReference?, reclaimPolicy: String,
            storageClassName: String?
        ) {
            capacity = ["storage": storage]
            self.accessModes = accessModes
            self.csi = csi
            claimRef = claim
            persistentVolumeReclaimPolicy = reclaimPolicy
            self.storageClassName = storageClassName
        }
    }

    package var metadata: ObjectMeta
    package var spec: Spec

    package init(metadata: ObjectMeta, spec: Spec) {
        self.metadata = metadata
        self.spec = spec
    }
}

package struct Namespace: KubernetesResource {
    package static let resource = ResourceKind(
        group: "", version: "v1", kind: "Namespace", plural: "namespaces", isNamespaced: false)

    package var metadata: ObjectMeta

    package init(metadata: ObjectMeta) { self.metadata = metadata }
}

/// How volumes of a class are made.
package struct StorageClass: KubernetesResource {
    package static let resource = ResourceKind(
        group: "storage.k8s.io", version: "v1", kind: "StorageClass", plural: "storageclasses",
        isNamespaced: false)

    package var metadata: ObjectMeta
    package var provisioner: String
    /// Whether claims may ask for more afterwards; nil: they may not.
    package var allowVolumeExpansion: Bool?

    package init(metadata: ObjectMeta, provisioner: String) {
        self.metadata = metadata
        self.provisioner = provisioner
    }
}

package struct ObjectReference: Codable, Hashable, Sendable {
    package var apiVersion: String
    package var kind: String
    package var namespace: String?
    package var name: String
    package var uid: String?

    package init<Item: KubernetesResource>(_ item: Item) {
        apiVersion = Item.resource.apiVersion
        kind = Item.resource.kind
        namespace = item.metadata.namespace
        name = item.metadata.name ?? ""
        uid = item.metadata.uid
    }
}

/// What `kubectl describe` shows below an object.
package struct Event: KubernetesResource {
    package static let resource = ResourceKind(
        group: "", version: "v1", kind: "Event", plural: "events", isNamespaced: true)

    package struct Source: Codable, Hashable, Sendable {
        package var component: String
        package var host: String?
    }

    package var metadata: ObjectMeta
    package var involvedObject: ObjectReference
    package var type: String
    package var reason: String
    package var message: String
    package var source: Source?
    package var firstTimestamp: String?
    package var lastTimestamp: String?
    package var count: Int32?
}

/// A lock for the one of several that works.
package struct Lease: KubernetesResource {
    package static let resource = ResourceKind(
        group: "coordination.k8s.io", version: "v1", kind: "Lease", plural: "leases", isNamespaced: true)

    package struct Spec: Codable, Hashable, Sendable {
        package var holderIdentity: String?
        package var leaseDurationSeconds: Int32?
        package var acquireTime: String?
        package var renewTime: String?
        package var leaseTransitions: Int32?

        package init() {}
    }

    package var metadata: ObjectMeta
    package var spec: Spec

    package init(metadata: ObjectMeta, spec: Spec) {
        self.metadata = metadata
        self.spec = spec
    }
}

/// metav1.Condition, so that `kubectl wait --for=condition=` works.
package struct Condition: Codable, Hashable, Sendable {
    package var type: String
    package var status: String
    package var reason: String
    package var message: String
    package var observedGeneration: Int64?
    package var lastTransitionTime: String

    package init(
        _ type: String, _ status: Bool, reason: String, message: String, at time: String,
        observedGeneration: Int64? = nil
    ) {
        self.type = type
        self.status = status ? "True" : "False"
        self.reason = reason
        self.message = message
        lastTransitionTime = time
        self.observedGeneration = observedGeneration
    }
}
