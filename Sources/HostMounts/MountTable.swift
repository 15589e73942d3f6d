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

    static func parse(_ text: String) -> [MountEntry] {
        text.split(separator: "\n").compactMap { line in
            let halves = line.split(separator: " - ", maxSplits: 1)
            guard halves.count == 2 else { return nil }
            let left = halves[0].split(separator: " ")
            let right = halves[1].split(separator: " ")
            guard left.count >= 6, right.count >= 2 else { return nil }
            let options = left[5].split(separator: ",")
            return MountEntry(
                path: unescape(left[4]), type: String(right[0]), source: unescape(right[1]),
                isReadOnly: options.contains("ro"), device: String(left[2]))
        }
    }

    /// Space, tab, newline and backslash stand as `\` and three octal digits.
    private static func unescape(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3,
                let value = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
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
