/// A number of bytes as Kubernetes writes it: `10Mi`, `5G`, `4096`.
package enum ByteQuantity {
    private static let units: [(suffix: String, factor: UInt64)] = [
        ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("k", 1000), ("M", 1_000_000),
        ("G", 1_000_000_000), ("T", 1_000_000_000_000),
    ]

    /// - Returns: at least one byte and at most what Kubernetes counts to; nil for anything else, fractions too.
    package static func parse(_ text: String) -> UInt64? {
        let digits = text.utf8.prefix { (0x30...0x39).contains($0) }
        // Byte by byte: to a String the sign for kelvin is a K as well.
        let suffix = text.utf8.dropFirst(digits.count)
        let unit = units.first { suffix.elementsEqual($0.suffix.utf8) }
        guard suffix.isEmpty || unit != nil, let number = UInt64(Substring(digits)) else { return nil }
        let (product, overflow) = number.multipliedReportingOverflow(by: unit?.factor ?? 1)
        return overflow || product == 0 || product > UInt64(Int64.max) ? nil : product
    }
}
