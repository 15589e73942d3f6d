package import KubernetesAPI
internal import Handoff
internal import Site
internal import VolumeModel

/// What the site knows of a volume, as a resource of its cluster: `kubectl get volumes.godwit.dev`.
///
/// It is named after the volume's name, so that the cluster itself keeps names unique.
package struct VolumeResource: KubernetesResource {
    package static let resource = ResourceKind(
        group: "godwit.dev", version: "v1alpha1", kind: "Volume", plural: "volumes", isNamespaced: false)
    /// Carries the volume's identifier, to find it by.
    package static let label = "godwit.dev/volume-id"

    package struct Spec: Codable, Hashable, Sendable {
        package var id: String
        /// Counts the changes of the record, whatever else changes about the object.
        package var revision: UInt64
        /// Which write this is of, so that a writer who got no answer recognises its own.
        package var writer: String
        /// A `StoredVolume`. One that cannot be read is an error of this volume alone.
        package var record: JSONValue
        /// For people and columns; never read back.
        package var summary: Summary
    }

    package struct Summary: Codable, Hashable, Sendable {
        package var role: String
        package var owner: String?
        package var epoch: UInt64?
        package var holder: String?
        package var peers: [String]
        /// The claim that came with it from another cluster, and what has become of it.
        package var claim: String?
        package var claimState: String?
        package var claimMessage: String?
    }

    package struct Status: Codable, Hashable, Sendable {
        package var conditions: [Condition]?
    }

    package var metadata: ObjectMeta
    package var spec: Spec
    /// For people; never read back.
    package var status: Status?

    init(_ record: VolumeRecord, revision: UInt64, writer: String) throws {
        metadata = ObjectMeta(
            name: Self.objectName(record.name), labels: [Self.label: record.id.description])
        spec = Spec(
            id: record.id.description, revision: revision, writer: writer,
            record: try JSONValue(encoding: StoredVolume(record)),
            summary: Summary(record))
    }

    /// A volume's name where it can be an object's name, else its bytes in base 32.
    static func objectName(_ name: String) -> String {
        let prefix = "x-"
        let bytes = Array(name.utf8)
        func isAlphanumeric(_ byte: UInt8) -> Bool {
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
        }
        let isPlain =
            !name.hasPrefix(prefix) && bytes.first.map(isAlphanumeric) == true
            && bytes.last.map(isAlphanumeric) == true && bytes.count <= 100
            && bytes.allSatisfy { isAlphanumeric($0) || $0 == UInt8(ascii: "-") }
        if isPlain { return name }
        // Base 32, so that the longest name, of 128 bytes, stays below an object name's 253 characters.
        let digits = Array("0123456789abcdefghijklmnopqrstuv".unicodeScalars)
        var text = prefix
        var pending: UInt32 = 0
        var bitCount: UInt32 = 0
        for byte in bytes {
            pending = (pending << 8 | UInt32(byte)) & 0xffff
            bitCount += 8
            while bitCount >= 5 {
                bitCount -= 5
                text.unicodeScalars.append(digits[Int(pending >> bitCount & 31)])
            }
        }
        if bitCount > 0 { text.unicodeScalars.append(digits[Int(pending << (5 - bitCount) & 31)]) }
        return text
    }
}

extension VolumeResource.Summary {
    init(_ record: VolumeRecord) {
        role = record.head.role.name
        owner = record.head.knownReign?.owner.description
        epoch = record.head.knownReign?.epoch.number
        if case .owning(_, let holder?) = record.head.role { self.holder = holder.description }
        claim = record.claim.map { $0.facts.namespace + "/" + $0.facts.name }
        claimState = record.claim?.report?.reason
        claimMessage = record.claim?.report?.message
        peers = record.sharedWith.map(\.description).sorted()
    }
}
