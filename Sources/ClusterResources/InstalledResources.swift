package import KubernetesAPI

// What an installation consists of, as far as somebody who looks after it asks.

package struct CustomResourceDefinition: KubernetesResource {
    package static let resource = ResourceKind(
        group: "apiextensions.k8s.io", version: "v1", kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions", isNamespaced: false)

    package struct Version: Codable, Hashable, Sendable {
        package struct Subresources: Codable, Hashable, Sendable {
            package struct Status: Codable, Hashable, Sendable {}
            package var status: Status?
        }
        package var name: String
        package var served: Bool
        package var subresources: Subresources?
    }
    package struct Spec: Codable, Hashable, Sendable { package var versions: [Version] }
    package struct Status: Codable, Hashable, Sendable {
        package struct Condition: Codable, Hashable, Sendable {
            package var type: String
            package var status: String
        }
        package var conditions: [Condition]?
    }

    package var metadata: ObjectMeta
    package var spec: Spec
    package var status: Status?
}

package struct CSIDriver: KubernetesResource {
    package static let resource = ResourceKind(
        group: "storage.k8s.io", version: "v1", kind: "CSIDriver", plural: "csidrivers", isNamespaced: false)

    package struct Spec: Codable, Hashable, Sendable {
        package var attachRequired: Bool?
        package var fsGroupPolicy: String?
        package var storageCapacity: Bool?
    }

    package var metadata: ObjectMeta
    package var spec: Spec
}

/// Which drivers kubelet has registered on a node of the same name.
package struct CSINode: KubernetesResource {
    package static let resource = ResourceKind(
        group: "storage.k8s.io", version: "v1", kind: "CSINode", plural: "csinodes", isNamespaced: false)

    package struct Driver: Codable, Hashable, Sendable { package var name: String }
    package struct Spec: Codable, Hashable, Sendable { package var drivers: [Driver]? }

    package var metadata: ObjectMeta
    package var spec: Spec
}

package struct Deployment: KubernetesResource {
    package static let resource = ResourceKind(
        group: "apps", version: "v1", kind: "Deployment", plural: "deployments", isNamespaced: true)

    package struct Spec: Codable, Hashable, Sendable { package var replicas: Int? }
    package struct Status: Codable, Hashable, Sendable { package var availableReplicas: Int? }

    package var metadata: ObjectMeta
    package var spec: Spec
    package var status: Status?
}

package struct DaemonSet: KubernetesResource {
    package static let resource = ResourceKind(
        group: "apps", version: "v1", kind: "DaemonSet", plural: "daemonsets", isNamespaced: true)

    package struct Status: Codable, Hashable, Sendable {
        package var desiredNumberScheduled: Int?
        package var numberReady: Int?
    }

    package var metadata: ObjectMeta
    package var status: Status?
}

package struct Pod: KubernetesResource {
    package static let resource = ResourceKind(
        group: "", version: "v1", kind: "Pod", plural: "pods", isNamespaced: true)

    package struct Container: Codable, Hashable, Sendable {
        package var name: String
        package var image: String?
    }
    package struct Spec: Codable, Hashable, Sendable {
        package var nodeName: String?
        package var containers: [Container]
    }
    package struct Waiting: Codable, Hashable, Sendable {
        package var reason: String?
        package var message: String?
    }
    package struct State: Codable, Hashable, Sendable { package var waiting: Waiting? }
    package struct ContainerStatus: Codable, Hashable, Sendable {
        package var name: String
        package var ready: Bool
        package var restartCount: Int
        package var imageID: String?
        package var state: State?
    }
    package struct Status: Codable, Hashable, Sendable {
        package var phase: String?
        package var message: String?
        package var containerStatuses: [ContainerStatus]?
    }

    package var metadata: ObjectMeta
    package var spec: Spec
    package var status: Status?

    /// Whether every container of it answers, and it is to stay.
    package var isReady: Bool {
        guard metadata.deletionTimestamp == nil, status?.phase == "Running",
            let containers = status?.containerStatuses
        else { return false }
        return !containers.isEmpty && containers.allSatisfy(\.ready)
    }
}

package struct Node: KubernetesResource {
    package static let resource = ResourceKind(
        group: "", version: "v1", kind: "Node", plural: "nodes", isNamespaced: false)

    package struct Condition: Codable, Hashable, Sendable {
        package var type: String
        package var status: String
    }
    package struct Status: Codable, Hashable, Sendable { package var conditions: [Condition]? }

    package var metadata: ObjectMeta
    package var status: Status?

    /// Whether its kubelet says so.
    package var isReady: Bool {
        status?.conditions?.contains { $0.type == "Ready" && $0.status == "True" } ?? false
    }
}

package struct Service: KubernetesResource {
    package static let resource = ResourceKind(
        group: "", version: "v1", kind: "Service", plural: "services", isNamespaced: true)

    package struct Spec: Codable, Hashable, Sendable { package var type: String? }
    package struct Ingress: Codable, Hashable, Sendable {
        package var ip: String?
        package var hostname: String?
    }
    package struct LoadBalancer: Codable, Hashable, Sendable { package var ingress: [Ingress]? }
    package struct Status: Codable, Hashable, Sendable { package var loadBalancer: LoadBalancer? }

    package var metadata: ObjectMeta
    package var spec: Spec
    package var status: Status?
}
