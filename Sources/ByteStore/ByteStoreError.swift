package import VolumeModel

/// A system call on a data file that failed, with the file it was made on.
package struct ByteStoreError: Error, Hashable, Sendable, CustomStringConvertible {
    package let call: String
    package let path: String
    package let errno: Errno
    /// What we know better than the kernel, for people.
    package let reason: String?

    package init(call: String, path: String, errno: Errno, reason: String? = nil) {
        self.call = call
        self.path = path
        self.errno = errno
        self.reason = reason
    }

    package var description: String { "\(call) \(path): \(reason ?? "\(errno)")" }

    /// Something was put in a data file's place.
    static func isNoDataFile(_ path: String) -> ByteStoreError {
        ByteStoreError(
            call: "open", path: path, errno: .inputOutput,
            reason:
                "it is no regular file, or has another name somewhere (a hard link): put the right one, or a copy, "
                + "in its place")
    }
}
