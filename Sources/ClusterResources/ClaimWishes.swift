package import VolumeModel

/// What a claim's annotations ask for.
package struct ClaimWishes: Hashable, Sendable {
    package static let migrateTo = "godwit.dev/migrate-to"
    package static let rateLimit = "godwit.dev/rate-limit"
    package static let pause = "godwit.dev/pause"

    /// Why an annotation cannot be followed.
    package struct BadValue: Hashable, Sendable {
        package var annotation: String
        package var message: String
    }

    package var target: SiteID?
    /// 0: no limit; nil: as it is.
    package var bytesPerSecond: UInt64?
    /// nil: as it is.
    package var isPaused: Bool?
    package var badValues: [BadValue] = []

    package init(annotations: [String: String]) {
        if let text = annotations[Self.migrateTo], !text.isEmpty {
            target = SiteID(text)
            if target == nil {
                refuse(Self.migrateTo, text, "a site's name: letters a to z, digits and '-'")
            }
        }
        if let text = annotations[Self.rateLimit], !text.isEmpty {
            bytesPerSecond = text == "none" ? 0 : Self.bytes(text)
            if bytesPerSecond == nil {
                refuse(Self.rateLimit, text, "bytes a second, such as 10Mi, or 'none'")
            }
        }
        if let text = annotations[Self.pause], !text.isEmpty {
            isPaused = ["true": true, "false": false][text]
            if isPaused == nil { refuse(Self.pause, text, "'true' or 'false'") }
        }
    }

    private mutating func refuse(_ annotation: String, _ text: String, _ wanted: String) {
        let shown = text.count > 60 ? text.prefix(60) + "…" : text[...]
        badValues.append(
            BadValue(
                annotation: annotation,
                message: "annotation \(annotation) is '\(shown)': it must be \(wanted)"))
    }

    /// A quantity of at least one byte, as Kubernetes writes them, without fractions.
    static func bytes(_ text: String) -> UInt64? {
        let units: [(String, UInt64)] = [
            ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("k", 1000), ("M", 1_000_000),
            ("G", 1_000_000_000), ("T", 1_000_000_000_000),
        ]
        let unit = units.first { text.hasSuffix($0.0) }
        let digits = text.dropLast(unit?.0.count ?? 0)
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt64(digits) else {
            return nil
        }
        let (product, overflow) = number.multipliedReportingOverflow(by: unit?.1 ?? 1)
        return overflow || product == 0 || product > UInt64(Int64.max) ? nil : product
    }
}
