/// What Linux lets a name in a directory be: 1 to 255 bytes, any but `/` and NUL, and neither `.` nor `..`.
package enum FileName {
    package static let maximumByteCount = 255

    package static func isValid(_ name: [UInt8]) -> Bool {
        (1...maximumByteCount).contains(name.count) && !isDotOrDotDot(name)
            && !name.contains(where: { $0 == UInt8(ascii: "/") || $0 == 0 })
    }

    package static func isDotOrDotDot(_ name: [UInt8]) -> Bool {
        name == [UInt8(ascii: ".")] || name == [UInt8(ascii: "."), UInt8(ascii: ".")]
    }
}
