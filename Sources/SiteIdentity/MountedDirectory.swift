internal import Glibc

/// A directory that somebody else fills, as kubelet does with a Secret: each file is a link through another one, which
/// is turned to a new directory when the Secret changes. Only read.
struct MountedDirectory: Sendable {
    /// More is no Secret of ours.
    private static let largestCount = 4096

    let path: String

    /// - Parameter isSecret: refuse a file that anybody can read. Its group may: that is how a pod without root reads it.
    /// - Returns: nil when there is no such file.
    func read(_ name: String, isSecret: Bool = false) throws(IdentityError) -> String? {
        let file = path + "/" + name
        // Links are followed here. A FIFO must not hold us up.
        let descriptor = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw .failed(file)
        }
        defer { close(descriptor) }
        return try KeyDirectory.read(
            descriptor, file, refusing: isSecret ? 0o007 : 0,
            "anybody can read this key: mount the Secret with defaultMode 0400")
    }

    /// The names in it that end so, sorted; none if there is no directory.
    func names(endingWith end: String) throws(IdentityError) -> [String] {
        let names = try KeyDirectory(path: path).names().filter { $0.hasSuffix(end) && !$0.hasPrefix(".") }
        guard names.count <= Self.largestCount else { throw .file(path: path, "it holds too many files") }
        return names
    }
}
