internal import Crypto
internal import Glibc

/// The hash of a block as it is kept: 16 bytes of its SHA-256, or zeros for a block of zeros, be it a hole or not.
package enum BlockHash {
    package static let byteCount = 16
    /// What one hash covers. A database page that goes wrong costs this much; smaller ones would cost more room (16
    /// bytes each), more rows and no less time.
    package static let blockByteCount: UInt64 = 1 << 20
    package static let ofZeros = [UInt8](repeating: 0, count: byteCount)

    package static func of(_ block: UnsafeRawBufferPointer) -> [UInt8] {
        isZero(block) ? ofZeros : digest(block)
    }

    static func digest(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        var hasher = SHA256()
        hasher.update(bufferPointer: bytes)
        return Array(hasher.finalize().prefix(byteCount))
    }

    private static func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let start = bytes.baseAddress, let first = bytes.first else { return true }
        // Each byte is the one before it, and the first is zero.
        return first == 0 && memcmp(start, start + 1, bytes.count - 1) == 0
    }
}
