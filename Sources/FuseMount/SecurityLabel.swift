internal import Glibc

/// Labels of security modules that the kernel does not run.
///
/// `ls -l` asks for the SELinux label of each file. Told that a file has none it asks for the next file's; told that the
/// file system has none it stops asking (coreutils, `errno_unsupported`), and each question is a trip to us.
enum SecurityLabel {
    private static let selinux = Array("security.selinux".utf8)

    /// Whether the running kernel has SELinux on: its file system is known then, mounted or not (selinux_fs_type).
    private static let hasSELinux: Bool = {
        guard let file = fopen("/proc/filesystems", "r") else { return true }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        while fgets(&line, Int32(line.count), file) != nil {
            if strstr(line, "selinuxfs") != nil { return true }
        }
        return false
    }()

    /// - Returns: whether an attribute that a file does not have is one that nothing here would give it, or ask for.
    static func isUnsupported(_ name: [UInt8]) -> Bool { name == selinux && !hasSELinux }
}
