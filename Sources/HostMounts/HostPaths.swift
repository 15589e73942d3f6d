internal import Glibc

/// Paths as the kernel's mount table has them, and as they may be opened without following a symbolic link.
///
/// Kubelet's directory may be reached through links, for administrators make them; nothing below it may: pods write there.
package struct HostPaths: Sendable {
    private let root: String?

    /// - Parameter root: kubelet's directory, as kubelet names it; nil: that is not known.
    package init(root: String?) {
        self.root = root.map { root in
            var root = root[...]
            while root.count > 1, root.hasSuffix("/") { root = root.dropLast() }
            return String(root)
        }
    }

    /// The same path without symbolic links on the way to kubelet's directory, whether or not there is anything at it. Of
    /// any other path: to its last directory, or the path itself where that is missing.
    package func real(_ path: String) -> String {
        if let root, let real = Self.resolve(root) {
            if path.utf8.starts(with: (root + "/").utf8) {
                return real + Substring(path.utf8.dropFirst(root.utf8.count))
            }
            if path.utf8.starts(with: (real + "/").utf8) { return path }
        }
        let cut = path.utf8.lastIndex(of: UInt8(ascii: "/")) ?? path.startIndex
        guard cut > path.startIndex, let directory = Self.resolve(String(path[..<cut])) else { return path }
        return (directory == "/" ? "" : directory) + path[cut...]
    }

    /// The same path without any symbolic link; as it is where it leads nowhere.
    package static func resolved(_ path: String) -> String { resolve(path) ?? path }

    private static func resolve(_ path: String) -> String? {
        guard let real = realpath(path, nil) else { return nil }
        defer { free(real) }
        return String(cString: real)
    }
}
