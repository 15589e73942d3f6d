package import KubernetesAPI
internal import Handoff
internal import Site
internal import VolumeModel

/// What the members of a site know of a volume, as a resource of their cluster: `kubectl get volumes.godwit.dev`.
///
/// It is named after the volume's name, so that the cluster itself keeps names unique. It lives as long as there is an
/// entry of some member.
package struct VolumeResource: KubernetesResource {
    package static let resource = ResourceKind(
        group: "godwit.dev", version: "v1alpha1", kind: "Volume", plural: "volumes", isNamespaced: false)
    /// Carries the volume's identifier, to find it by.
    package static let label = "godwit.dev/volume-id"

    package struct Spec: Codable, Hashable, Sendable {
        package var id: String
        /// An `Entry` by each member's name. Whoever changes his own leaves the others' as they are, also what he does
        /// not understand of them.
        package private(set) var members: [String: JSONValue] = [:]
        /// For people and columns; never read back.
        package private(set) var summary: VolumeSummaryText

        init(id: VolumeID) {
            self.id = id.description
            summary = .combined([:])
        }
    }

    /// What one member knows.
    package struct Entry: Codable, Hashable, Sendable {
        /// Counts the changes of this record, whatever else changes about the object.
        package var revision: UInt64
        /// Which write this is of, so that a writer who got no answer recognises its own.
        package var writer: String
        /// A `StoredVolume`. One that cannot be read is an error of this volume alone.
        package var record: JSONValue
        package var summary: VolumeSummaryText

        init(_ record: VolumeRecord, revision: UInt64, writer: String) throws {
            self.revision = revision
            self.writer = writer
            self.record = try JSONValue(encoding: StoredVolume(record))
            summary = VolumeSummaryText(record)
        }
    }

    package struct Status: Codable, Hashable, Sendable {
        package var conditions: [Condition]?
        /// What is in the way, by the name of the member at which it is.
        package var troubles: [String: String]?
    }

    package var metadata: ObjectMeta
    package var spec: Spec
    /// For people; never read back, but to be taken back.
    package var status: Status?

    /// An object without entries, not yet in the cluster.
    init(of record: VolumeRecord) {
        metadata = ObjectMeta(
            name: Self.objectName(record.name), labels: [Self.label: record.id.description])
        spec = Spec(id: record.id)
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

extension VolumeResource.Spec {
    func entry(of member: SiteID) throws -> VolumeResource.Entry? {
        try members[member.description]?.decoded(as: VolumeResource.Entry.self)
    }

    /// Changes one member's entry, and with it what people see of all.
    ///
    /// - Parameter entry: nil: takes it away.
    mutating func set(_ entry: VolumeResource.Entry?, of member: SiteID) throws {
        members[member.description] = try entry.map { try JSONValue(encoding: $0) }
        summary = .combined(
            members.compactMapValues { try? $0["summary"]?.decoded(as: VolumeSummaryText.self) })
    }
}
