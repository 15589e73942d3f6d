package import VolumeModel

/// A system call on a data file that failed, with the file it was made on.
package struct ByteStoreError: Error, Hashable, Sendable, CustomStringConvertible {
    package let call: String
    package let path: String
    package let errno: Errno

    package init(call: String, path: String, errno: Errno) {
        self.call = call
        self.path = path
        self.errno = errno
    }

    package var description: String { "\(call) \(path): \(errno)" }
}
