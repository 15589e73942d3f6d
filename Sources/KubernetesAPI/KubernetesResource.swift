/// Where objects of a kind are found in the API.
package struct ResourceKind: Hashable, Sendable {
    /// Empty: the core group.
    package let group: String
    package let version: String
    package let kind: String
    /// As in the path: `persistentvolumeclaims`.
    package let plural: String
    package let isNamespaced: Bool

    package init(group: String, version: String, kind: String, plural: String, isNamespaced: Bool) {
        self.group = group
        self.version = version
        self.kind = kind
        self.plural = plural
        self.isNamespaced = isNamespaced
    }

    package var apiVersion: String { group.isEmpty ? version : "\(group)/\(version)" }

    /// The path of all objects, of a namespace or of every one.
    func path(namespace: String?) -> String {
        let base = group.isEmpty ? "/api/\(version)" : "/apis/\(group)/\(version)"
        guard isNamespaced, let namespace else { return "\(base)/\(plural)" }
        return "\(base)/namespaces/\(Self.escaped(namespace))/\(plural)"
    }

    func path(namespace: String?, name: String, subresource: String? = nil) -> String {
        path(namespace: namespace) + "/" + Self.escaped(name) + (subresource.map { "/" + $0 } ?? "")
    }

    /// A name from outside never becomes another path.
    static func escaped(_ text: String) -> String {
        var escaped = ""
        let digits = Array("0123456789ABCDEF".unicodeScalars)
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                escaped.unicodeScalars.append(UnicodeScalar(byte))
            case UInt8(ascii: ".") where text != "." && text != "..":
                escaped.append(".")
            default:
                escaped.append("%")
                escaped.unicodeScalars.append(digits[Int(byte >> 4)])
                escaped.unicodeScalars.append(digits[Int(byte & 15)])
            }
        }
        return escaped
    }
}

/// An object of the cluster, with as many of its fields as we use.
///
/// `update` replaces an object, so that fields which a type here does not name would be lost: use it for kinds of
/// our own, and `patch` for all others.
package protocol KubernetesResource: Codable, Sendable {
    static var resource: ResourceKind { get }
    var metadata: ObjectMeta { get set }
}

package struct ObjectMeta: Codable, Hashable, Sendable {
    package var name: String?
    package var namespace: String?
    package var uid: String?
    package var resourceVersion: String?
    package var generation: Int64?
    package var creationTimestamp: String?
    package var deletionTimestamp: String?
    package var labels: [String: String]?
    package var annotations: [String: String]?
    package var finalizers: [String]?
    package var ownerReferences: [OwnerReference]?

    package init(
        name: String, namespace: String? = nil, labels: [String: String]? = nil,
        annotations: [String: String]? = nil
    ) {
        self.name = name
        self.namespace = namespace
        self.labels = labels
        self.annotations = annotations
    }
}

package struct OwnerReference: Codable, Hashable, Sendable {
    package var apiVersion: String
    package var kind: String
    package var name: String
    package var uid: String

    package init(apiVersion: String, kind: String, name: String, uid: String) {
        self.apiVersion = apiVersion
        self.kind = kind
        self.name = name
        self.uid = uid
    }
}

/// A page of objects, as the server sends it.
struct ResourcePage<Item: KubernetesResource>: Decodable {
    struct Metadata: Decodable {
        var resourceVersion: String?
        var `continue`: String?
    }
    var metadata: Metadata
    var items: [Item]?
}

/// What the server answers instead of an object.
struct StatusObject: Decodable {
    var message: String?
    var reason: String?
    var code: Int?
}
