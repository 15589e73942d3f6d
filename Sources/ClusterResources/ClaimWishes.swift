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
            target = SiteID(site: text)
            if target == nil {
                refuse(Self.migrateTo, text, "a site's name: letters a to z, digits and '-'")
            }
        }
        if let text = annotations[Self.rateLimit], !text.isEmpty {
            bytesPerSecond = text == "none" ? 0 : ByteQuantity.parse(text)
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
}
