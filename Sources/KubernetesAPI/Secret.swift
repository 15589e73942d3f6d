internal import Foundation

/// A Secret, whose values are shown by nothing that prints it.
package struct Secret: KubernetesResource, CustomStringConvertible, CustomDebugStringConvertible,
    CustomReflectable
{
    package static let resource = ResourceKind(
        group: "", version: "v1", kind: "Secret", plural: "secrets", isNamespaced: true)

    package var metadata: ObjectMeta
    /// Each value in base64.
    private var data: [String: String]?

    package init(metadata: ObjectMeta, values: [String: String]) {
        self.metadata = metadata
        data = values.mapValues(Self.encoded)
    }

    /// - Returns: nil when there is no such key, or its value is not text.
    package func value(_ key: String) -> String? {
        guard let data = data?[key].flatMap({ Data(base64Encoded: $0) }) else { return nil }
        return String(validating: data, as: UTF8.self)
    }

    package var names: [String] { (data ?? [:]).keys.sorted() }

    package func hasValue(_ key: String) -> Bool { data?[key] != nil }

    /// Changes one value, or takes it away, if the Secret is still the one that was read.
    package func patch(_ key: String, _ value: String?) -> JSONValue {
        [
            "metadata": ["resourceVersion": JSONValue(metadata.resourceVersion)],
            "data": .object([key: JSONValue(value.map(Self.encoded))]),
        ]
    }

    private static func encoded(_ text: String) -> String { Data(text.utf8).base64EncodedString() }

    package var description: String {
        "Secret \(metadata.namespace ?? "")/\(metadata.name ?? "") with \(names)"
    }
    package var debugDescription: String { description }
    package var customMirror: Mirror { Mirror(self, children: [:]) }
}
