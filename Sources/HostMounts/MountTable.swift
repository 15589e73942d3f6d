internal import Glibc

/// One line of /proc/self/mountinfo (proc(5)).
package struct MountEntry: Hashable, Sendable {
    package let path: String
    /// `fuse.godwit`, `ext4` …
    package let type: String
    package let source: String
    package let isReadOnly: Bool
    /// Major and minor number of what is mounted: `0:52`.
    package let device: String
}

/// What is mounted on this host. Reads the kernel's table and never touches a mounted path: a mount whose
/// server is gone would hang whoever looks at it.
package enum MountTable {
    package static func entries() throws(HostMountError) -> [MountEntry] {
        parse(try read("/proc/self/mountinfo"))
    }

    /// The topmost mount at exactly this path.
    package static func entry(at path: String) throws(HostMountError) -> MountEntry? {
        try entries().last { $0.path == path }
    }

    /// Byte by byte: to a String a space or a line's end with a mark behind it, or a return before it, is another character.
    static func parse(_ text: String) -> [MountEntry] {
        text.utf8.split(separator: UInt8(ascii: "\n")).compactMap { line in
            let fields = line.split(separator: UInt8(ascii: " "))
            // Behind the options stand fields of any number, and then a hyphen.
            guard fields.count >= 6,
                let hyphen = fields[6...].firstIndex(where: { $0.elementsEqual("-".utf8) }),
                hyphen + 2 < fields.count
            else { return nil }
            let options = fields[5].split(separator: UInt8(ascii: ","))
            return MountEntry(
                path: unescape(fields[4]), type: String(Substring(fields[hyphen + 1])),
                source: unescape(fields[hyphen + 2]),
                isReadOnly: options.contains { $0.elementsEqual("ro".utf8) },
                device: String(Substring(fields[2])))
        }
    }

    /// Space, tab, newline and backslash stand as `\` and three octal digits.
    private static func unescape(_ text: Substring.UTF8View) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text)[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3,
                digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "7")).contains($0) }),
                let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func read(_ path: String) throws(HostMountError) -> String {
        guard let file = fopen(path, "re") else {
            throw HostMountError(call: "open", path: path, number: errno)
        }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = fread(&chunk, 1, chunk.count, file)
            if count == 0 { break }
            bytes.append(contentsOf: chunk[..<count])
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// A system call on a mount that failed.
package struct HostMountError: Error, Hashable, Sendable, CustomStringConvertible {
    package let call: String
    package let path: String
    package let number: Int32

    package var description: String { "\(call) \(path): \(String(cString: strerror(number)))" }
}
