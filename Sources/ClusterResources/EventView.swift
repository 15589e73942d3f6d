package import KubernetesAPI

/// An Event of whoever wrote it: what others leave out is no error.
package struct EventView: KubernetesResource {
    package static let resource = Event.resource

    package struct Source: Codable, Hashable, Sendable { package var component: String? }

    package var metadata: ObjectMeta
    package var type: String?
    package var reason: String?
    package var message: String?
    package var source: Source?
    package var lastTimestamp: String?
    package var count: Int32?
}
