/// The identity of a volume: a UUID, the same at every site, kept as its canonical lower-case text.
///
/// Only the canonical form is accepted, so that an identifier can be used as one path component:
/// it never holds a slash, a dot or a NUL.
package struct VolumeID: Hashable, Sendable, Comparable, CustomStringConvertible {
    package let description: String

    /// - Returns: nil unless `text` is 8-4-4-4-12 lower-case hexadecimal digits.
    package init?(_ text: some StringProtocol) {
        let bytes = Array(text.utf8)
        guard bytes.count == 36 else { return nil }
        for (index, byte) in bytes.enumerated() {
            let isDash = index == 8 || index == 13 || index == 18 || index == 23
            if isDash {
                guard byte == UInt8(ascii: "-") else { return nil }
            } else {
                guard isLowercaseHexDigit(byte) else { return nil }
            }
        }
        description = String(text)
    }

    /// Makes a version 4 identifier (RFC 9562, section 5.4) out of 128 random bits.
    package init(randomHigh high: UInt64, randomLow low: UInt64) {
        var octets = (0..<16).map { index in
            UInt8(truncatingIfNeeded: (index < 8 ? high : low) >> UInt64(8 * (7 - index % 8)))
        }
        octets[6] = (octets[6] & 0x0f) | 0x40
        octets[8] = (octets[8] & 0x3f) | 0x80
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for index in 0..<16 {
            if index == 4 || index == 6 || index == 8 || index == 10 { text.append(UInt8(ascii: "-")) }
            text.append(digits[Int(octets[index] >> 4)])
            text.append(digits[Int(octets[index] & 15)])
        }
        description = String(decoding: text, as: UTF8.self)
    }

    package static func < (left: VolumeID, right: VolumeID) -> Bool { left.description < right.description }
}

private func isLowercaseHexDigit(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
        || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
}

/// A random name: of a head since it began, or of one state of it, when it is granted to a reign. Where a site goes back
/// in time an epoch's number may come again, for another state; a name does not.
package struct StateName: Hashable, Sendable, CustomStringConvertible {
    package static let byteCount = 16

    package let bytes: [UInt8]

    /// - Returns: nil unless there are 16 of them: that is no name, or none is known.
    package init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == Self.byteCount else { return nil }
        self.bytes = Array(bytes)
    }

    /// Makes a name out of 128 random bits.
    package init(randomHigh high: UInt64, randomLow low: UInt64) {
        bytes = (0..<Self.byteCount).map { index in
            UInt8(truncatingIfNeeded: (index < 8 ? high : low) >> UInt64(8 * (7 - index % 8)))
        }
    }

    package var description: String {
        let digits = Array("0123456789abcdef".utf8)
        return String(
            decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }
}

/// The name of a site: a DNS label (RFC 1123), so that it fits certificates, labels and paths alike. Or of one node of
/// a site that has several, `worker-1.london`: to the hand-off each of them is a site of its own.
package struct SiteID: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// So that a name in a certificate has room for the domain.
    private static let longest = 190

    package let description: String
    /// The node's name, in lower case; nil: the site as a whole.
    package let node: String?

    /// - Returns: nil unless `text` is 1 to 63 of a–z, 0–9 and `-`, with no `-` at either end, after any number of
    ///   such labels that name a node; at most 190 bytes in all.
    package init?(_ text: some StringProtocol) {
        let bytes = Array(text.utf8)
        let labels = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard bytes.count <= Self.longest, labels.allSatisfy(Self.isLabel), let last = labels.last
        else { return nil }
        description = String(text)
        node = labels.count == 1 ? nil : String(description.dropLast(last.count + 1))
    }

    /// - Returns: nil unless `text` names a site as a whole.
    package init?(site text: some StringProtocol) {
        self.init(text)
        guard node == nil else { return nil }
    }

    /// - Parameter node: a host's name, in whatever case.
    /// - Returns: nil unless both can be in one name.
    package init?(node: String, of site: SiteID) { self.init("\(node.lowercased()).\(site.site)") }

    private static func isLabel(_ bytes: ArraySlice<UInt8>) -> Bool {
        let hyphen = UInt8(ascii: "-")
        guard (1...63).contains(bytes.count), bytes.first != hyphen else { return false }
        var last = hyphen
        for byte in bytes {
            guard
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == hyphen
            else { return false }
            last = byte
        }
        return last != hyphen
    }

    /// The site as a whole, whose keys and policies are those of its nodes.
    package var site: SiteID {
        guard let node else { return self }
        return SiteID(whole: String(description.dropFirst(node.utf8.count + 1)))
    }

    private init(whole description: String) { (self.description, node) = (description, nil) }

    package static func < (left: SiteID, right: SiteID) -> Bool { left.description < right.description }
}

/// The number of a head's reign. It grows with each hand-off and is the fencing token of every request.
package struct Epoch: Hashable, Sendable, Comparable, CustomStringConvertible {
    package let number: UInt64

    package init(_ number: UInt64) { self.number = number }

    /// The epoch of a volume that was never handed over.
    package static let first = Epoch(1)

    /// The next reign. Saturates rather than trap: epochs come from outside.
    package var next: Epoch { Epoch(number == .max ? .max : number + 1) }
    package var description: String { String(number) }

    package static func < (left: Epoch, right: Epoch) -> Bool { left.number < right.number }
}

/// A file's persistent number within its volume; never reused, the same at every site.
package struct InodeNumber: Hashable, Sendable, Comparable, CustomStringConvertible {
    package let number: UInt64

    package init(_ number: UInt64) { self.number = number }

    /// The volume's root directory, which is also what FUSE calls its root.
    package static let root = InodeNumber(1)

    package var description: String { String(number) }

    package static func < (left: InodeNumber, right: InodeNumber) -> Bool { left.number < right.number }
}

/// A position in the order of a head's catalog changes. Later changes have higher numbers.
package struct SequenceNumber: Hashable, Sendable, Comparable, CustomStringConvertible {
    package let number: Int64

    package init(_ number: Int64) { self.number = number }

    package static let zero = SequenceNumber(0)
    package var next: SequenceNumber { SequenceNumber(number == .max ? .max : number + 1) }
    package var description: String { String(number) }

    package static func < (left: SequenceNumber, right: SequenceNumber) -> Bool { left.number < right.number }
}
