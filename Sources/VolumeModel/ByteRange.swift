/// A half-open range of bytes of a file, in bytes from its start. May be empty.
///
/// Invariant: `start <= end`, and `end` fits a file offset (`Int64.max`).
package struct ByteRange: Hashable, Sendable, CustomStringConvertible {
    package let start: UInt64
    package let end: UInt64

    /// The largest offset that Linux lets a file have.
    package static let maximumOffset = UInt64(Int64.max)

    /// - Precondition: `start <= end <= maximumOffset`. For numbers from outside use `init(checkedOffset:byteCount:)`.
    package init(_ start: UInt64, _ end: UInt64) {
        precondition(start <= end && end <= ByteRange.maximumOffset, "not a byte range")
        self.start = start
        self.end = end
    }

    /// - Returns: nil if the range would not fit a file.
    package init?(checkedOffset offset: UInt64, byteCount: UInt64) {
        let (end, overflow) = offset.addingReportingOverflow(byteCount)
        guard !overflow, end <= ByteRange.maximumOffset else { return nil }
        self.init(offset, end)
    }

    package var byteCount: UInt64 { end - start }
    package var isEmpty: Bool { start == end }

    package func overlaps(_ other: ByteRange) -> Bool { start < other.end && other.start < end }
    package func contains(_ other: ByteRange) -> Bool { start <= other.start && other.end <= end }

    /// - Returns: the bytes in both; nil when there are none.
    package func intersection(_ other: ByteRange) -> ByteRange? {
        let low = max(start, other.start)
        let high = min(end, other.end)
        return low < high ? ByteRange(low, high) : nil
    }

    package var description: String { "[\(start), \(end))" }
}
