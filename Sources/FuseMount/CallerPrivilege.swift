internal import Glibc
internal import VolumeFileSystem

/// What a caller may do beyond its user and groups, as /proc tells it. It waits for its answer meanwhile, so that it is there.
enum CallerPrivilege {
    private static let CAP_FSETID = 4
    private static let CAP_SYS_ADMIN = 21
    /// The first user namespace's number (PROC_USER_INIT_INO of Linux): only there the kernel asks for these capabilities.
    private static let firstUserNamespace = "user:[4026531837]"

    /// Whether set-ID bits stay when it changes a file.
    ///
    /// - Returns: false also for one that cannot be found, of a PID namespace that is not below ours.
    static func keepsSetIDs(_ caller: Caller) -> Bool { has(CAP_FSETID, caller) ?? false }

    /// Whether a listing tells it the names of `trusted` attributes. Their values are the kernel's to refuse.
    ///
    /// - Returns: of one that cannot be found, whether it is root: who copies a volume with all that it has must not
    ///   miss them.
    static func seesTrusted(_ caller: Caller) -> Bool { has(CAP_SYS_ADMIN, caller) ?? (caller.uid == 0) }

    /// - Returns: nil for one that cannot be found.
    private static func has(_ capability: Int, _ caller: Caller) -> Bool? {
        guard caller.pid > 0, let capabilities = effectiveCapabilities(of: caller.pid),
            let namespace = userNamespace(of: caller.pid)
        else { return nil }
        return capabilities >> capability & 1 == 1 && namespace == firstUserNamespace
    }

    private static func effectiveCapabilities(of pid: Int32) -> UInt64? {
        guard let file = fopen("/proc/\(pid)/status", "re") else { return nil }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 4096)
        while fgets(&line, Int32(line.count), file) != nil {
            let words = line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }.split { $0 <= 0x20 }
            guard words.count == 2, words[0].elementsEqual("CapEff:".utf8) else { continue }
            return UInt64(String(decoding: words[1], as: UTF8.self), radix: 16)
        }
        return nil
    }

    private static func userNamespace(of pid: Int32) -> String? {
        var target = [CChar](repeating: 0, count: 64)
        let count = readlink("/proc/\(pid)/ns/user", &target, target.count)
        guard count > 0 else { return nil }
        return String(decoding: target[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
