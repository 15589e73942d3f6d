internal import CFuse

/// How many of the kernel's requests this process has answered, by kind, and how long they were in its hands.
///
/// What this costs is two looks at the clock and two additions a request, some 0.1 µs of the 30 that its way takes.
package enum RequestTimes {
    /// Of all mounts, by opcode.
    ///
    /// Unsafe for the compiler only: its numbers are touched by atomic operations alone, and it is never freed.
    nonisolated(unsafe) static let tallies: UnsafeMutablePointer<gw_fuse_tally> = {
        let tallies = UnsafeMutablePointer<gw_fuse_tally>.allocate(capacity: Int(GW_FUSE_TALLIES))
        tallies.initialize(repeating: gw_fuse_tally(), count: Int(GW_FUSE_TALLIES))
        return tallies
    }()

    package struct Total: Hashable, Sendable {
        /// As fuse.h of the kernel calls it, in small letters.
        package let operation: String
        package let count: UInt64
        /// From having read them until they were answered, or until another thread took them over; the way through the
        /// kernel is not included.
        package let seconds: Double
    }

    /// Of the kinds that have come since the process began.
    package static var totals: [Total] {
        (0..<Int32(GW_FUSE_TALLIES)).compactMap { opcode in
            let tally = gw_fuse_tally_at(tallies, opcode)
            guard tally.count > 0 else { return nil }
            return Total(
                operation: names[opcode] ?? "other-\(opcode)", count: tally.count,
                seconds: Double(tally.nanoseconds) / 1e9)
        }
    }

    private static let names: [Int32: String] = [
        0: "other", 1: "lookup", 2: "forget", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink",
        8: "mknod",
        9: "mkdir", 10: "unlink", 11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read", 16: "write",
        17: "statfs", 18: "release", 20: "fsync", 21: "setxattr", 22: "getxattr", 23: "listxattr",
        24: "removexattr", 25: "flush", 26: "init", 27: "opendir", 28: "readdir", 29: "releasedir",
        30: "fsyncdir", 31: "getlk", 32: "setlk", 33: "setlkw", 34: "access", 35: "create", 36: "interrupt",
        37: "bmap", 38: "destroy", 39: "ioctl", 40: "poll", 42: "batch_forget", 43: "fallocate",
        44: "readdirplus", 45: "rename2", 46: "lseek", 47: "copy_file_range", 50: "syncfs", 51: "tmpfile",
        52: "statx",
    ]
}
