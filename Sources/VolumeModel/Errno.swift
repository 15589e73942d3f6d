/// An error number of Linux, as applications see it.
///
/// - Source: errno(3); numbers from asm-generic/errno.h, which x86-64 and arm64 share.
package struct Errno: Error, Hashable, Sendable, CustomStringConvertible {
    package let number: Int32

    package init(_ number: Int32) { self.number = number }

    package static let notPermitted = Errno(1)  // EPERM
    package static let noSuchEntry = Errno(2)  // ENOENT
    package static let interrupted = Errno(4)  // EINTR
    package static let inputOutput = Errno(5)  // EIO
    package static let noSuchDevice = Errno(6)  // ENXIO
    package static let tooBig = Errno(7)  // E2BIG
    package static let badDescriptor = Errno(9)  // EBADF
    package static let tryAgain = Errno(11)  // EAGAIN
    package static let noMemory = Errno(12)  // ENOMEM
    package static let accessDenied = Errno(13)  // EACCES
    package static let busy = Errno(16)  // EBUSY
    package static let exists = Errno(17)  // EEXIST
    package static let crossDevice = Errno(18)  // EXDEV
    package static let notDirectory = Errno(20)  // ENOTDIR
    package static let isDirectory = Errno(21)  // EISDIR
    package static let invalidArgument = Errno(22)  // EINVAL
    package static let tooManyOpenFiles = Errno(24)  // EMFILE
    package static let fileTooBig = Errno(27)  // EFBIG
    package static let noSpace = Errno(28)  // ENOSPC
    package static let readOnly = Errno(30)  // EROFS
    package static let tooManyLinks = Errno(31)  // EMLINK
    package static let outOfRange = Errno(34)  // ERANGE
    package static let nameTooLong = Errno(36)  // ENAMETOOLONG
    package static let notImplemented = Errno(38)  // ENOSYS
    package static let notEmpty = Errno(39)  // ENOTEMPTY
    package static let tooManySymbolicLinks = Errno(40)  // ELOOP
    package static let noData = Errno(61)  // ENODATA: no such extended attribute
    package static let notSupported = Errno(95)  // EOPNOTSUPP
    package static let stale = Errno(116)  // ESTALE
    package static let quotaExceeded = Errno(122)  // EDQUOT

    package var description: String { "errno \(number)" }
}
