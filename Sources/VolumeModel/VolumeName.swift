/// What a user may name a volume: it appears in logs, tables and URLs, never in a path.
package enum VolumeName {
    package static let rule = "a volume's name is 1 to 128 bytes without '/' and control characters"

    package static func isValid(_ name: String) -> Bool {
        (1...128).contains(name.utf8.count)
            && name.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7f && $0 != "/" }
    }
}
