/// What another cluster needs to know of a PersistentVolumeClaim to make the same one.
///
/// It may come from a peer: what is here has been checked. Names are names that Kubernetes accepts, and all of it
/// together is small.
package struct ClaimFacts: Hashable, Sendable, Codable {
    /// Labels beyond this many, in the order of their keys, are left out.
    package static let labelLimit = 64
    private static let labelPartLimit = 63
    private static let nameLimit = 253
    private static let quantityLimit = 32
    private static let knownModes = [
        "ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod",
    ]

    package private(set) var namespace: String
    package private(set) var name: String
    package private(set) var labels: [String: String]
    /// Empty: none.
    package private(set) var storageClass: String
    /// A quantity as Kubernetes writes it; the API server has the last word on it.
    package private(set) var requested: String
    /// What the claim's volume has: at least what is requested.
    package private(set) var capacity: String
    package private(set) var accessModes: [String]

    package struct Refusal: Error, Hashable, Sendable, CustomStringConvertible {
        package let description: String
    }

    /// - Parameters:
    ///   - labels: those that cannot be labels, and too many of them, are left out.
    ///   - capacity: empty: as requested.
    ///   - accessModes: those that nobody knows are left out; one must be left.
    ///   - volumeMode: empty: `Filesystem`, the only one.
    package init(
        namespace: String, name: String, labels: [String: String], storageClass: String, requested: String,
        capacity: String, accessModes: [String], volumeMode: String
    ) throws(Refusal) {
        guard Self.isName(namespace, limit: Self.labelPartLimit), !namespace.utf8.contains(0x2e) else {
            throw Self.refuse("its namespace", namespace, "cannot be")
        }
        guard Self.isName(name, limit: Self.nameLimit) else {
            throw Self.refuse("its name", name, "cannot be")
        }
        guard storageClass.isEmpty || Self.isName(storageClass, limit: Self.nameLimit) else {
            throw Self.refuse("its storage class", storageClass, "cannot be")
        }
        guard Self.isQuantity(requested) else { throw Self.refuse("its size", requested, "is none") }
        guard capacity.isEmpty || Self.isQuantity(capacity) else {
            throw Self.refuse("its capacity", capacity, "is none")
        }
        guard volumeMode.isEmpty || volumeMode == "Filesystem" else {
            throw Self.refuse("its volume mode", volumeMode, "is not Filesystem")
        }
        let modes = Self.knownModes.filter { accessModes.contains($0) }
        guard !modes.isEmpty else {
            throw Self.refuse(
                "its access modes", accessModes.prefix(4).joined(separator: ", "), "are unknown")
        }
        self.namespace = namespace
        self.name = name
        let good = labels.filter { Self.isLabel($0.key, $0.value) }.sorted { $0.key < $1.key }
        self.labels = Dictionary(good.prefix(Self.labelLimit).map { ($0.key, $0.value) }) { _, last in last }
        self.storageClass = storageClass
        self.requested = requested
        self.capacity = capacity.isEmpty ? requested : capacity
        self.accessModes = modes
    }

    private enum CodingKeys: String, CodingKey {
        case namespace, name, labels, storageClass, requested, capacity, accessModes
    }

    /// What was stored is checked like what a peer says: people can reach where it is stored.
    package init(from decoder: any Decoder) throws {
        let stored = try decoder.container(keyedBy: CodingKeys.self)
        try self.init(
            namespace: stored.decode(String.self, forKey: .namespace),
            name: stored.decode(String.self, forKey: .name),
            labels: stored.decode([String: String].self, forKey: .labels),
            storageClass: stored.decode(String.self, forKey: .storageClass),
            requested: stored.decode(String.self, forKey: .requested),
            capacity: stored.decode(String.self, forKey: .capacity),
            accessModes: stored.decode([String].self, forKey: .accessModes), volumeMode: "")
    }

    private static func refuse(_ what: String, _ text: String, _ why: String) -> Refusal {
        let shown = text.unicodeScalars.prefix(60).map {
            $0.value < 0x20 || $0.value == 0x7f ? "?" : String($0)
        }
        return Refusal(description: "the claim that came with it: \(what), '\(shown.joined())', \(why)")
    }

    // MARK: forms

    private static func isLowerAlphanumeric(_ byte: UInt8) -> Bool {
        (0x61...0x7a).contains(byte) || (0x30...0x39).contains(byte)
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        isLowerAlphanumeric(byte) || (0x41...0x5a).contains(byte)
    }

    /// An RFC 1123 subdomain: labels of a-z, 0-9 and inner '-', joined by '.'.
    private static func isName(_ text: String, limit: Int) -> Bool {
        guard (1...limit).contains(text.utf8.count) else { return false }
        return text.utf8.split(separator: 0x2e, omittingEmptySubsequences: false).allSatisfy { part in
            guard let first = part.first, let last = part.last else { return false }
            return isLowerAlphanumeric(first) && isLowerAlphanumeric(last)
                && part.allSatisfy { isLowerAlphanumeric($0) || $0 == 0x2d }
        }
    }

    private static func isQuantity(_ text: String) -> Bool {
        let bytes = text.utf8
        guard (1...quantityLimit).contains(bytes.count), let first = bytes.first else { return false }
        return (0x30...0x39).contains(first) && bytes.allSatisfy { isAlphanumeric($0) || $0 == 0x2e }
    }

    private static func isLabel(_ key: String, _ value: String) -> Bool {
        let parts = key.utf8.split(separator: 0x2f, omittingEmptySubsequences: false)
        guard let name = parts.last, parts.count <= 2, isLabelPart(name) else { return false }
        if parts.count == 2, !isName(String(decoding: Array(parts[0]), as: UTF8.self), limit: nameLimit) {
            return false
        }
        return value.isEmpty || isLabelPart(value.utf8[...])
    }

    private static func isLabelPart(_ bytes: some BidirectionalCollection<UInt8>) -> Bool {
        guard let first = bytes.first, let last = bytes.last, bytes.count <= labelPartLimit else {
            return false
        }
        return isAlphanumeric(first) && isAlphanumeric(last)
            && bytes.allSatisfy { isAlphanumeric($0) || $0 == 0x2d || $0 == 0x2e || $0 == 0x5f }
    }
}

/// What has become of a claim at the site that it is to move to.
package struct ClaimReport: Hashable, Sendable, Codable {
    private static let reasonLimit = 64
    private static let messageLimit = 400

    /// Volume and claim are there, and what becomes of them is the business of that cluster's users.
    package private(set) var isMade: Bool
    /// One word in camel case.
    package private(set) var reason: String
    package private(set) var message: String

    /// - Parameters:
    ///   - reason: what cannot be one word becomes `Unknown`.
    ///   - message: cut to a few hundred characters on one line.
    package init(isMade: Bool, reason: String, message: String) {
        self.isMade = isMade
        let isWord =
            (1...Self.reasonLimit).contains(reason.utf8.count)
            && reason.utf8.allSatisfy { (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0) }
        self.reason = isWord ? reason : "Unknown"
        let line = message.unicodeScalars.prefix(Self.messageLimit)
            .map { $0.value < 0x20 || $0.value == 0x7f ? " " : String($0) }
        self.message = line.joined()
    }
}

/// A claim that came with a volume from another cluster, and what has become of it here.
package struct ForeignClaim: Hashable, Sendable, Codable {
    package var facts: ClaimFacts
    /// nil: nobody has looked yet.
    package var report: ClaimReport?

    package init(facts: ClaimFacts, report: ClaimReport? = nil) {
        self.facts = facts
        self.report = report
    }
}
