internal import Glibc

/// The user, group and supplementary groups that a program runs as.
package struct UserIdentity: Hashable, Sendable {
    package let user: UInt32
    package let group: UInt32
    package let groups: [UInt32]

    package init(user: UInt32, group: UInt32, groups: [UInt32] = []) {
        self.user = user
        self.group = group
        self.groups = groups
    }

    /// Looks a user up by name, with the groups it is in.
    package init(named name: String) throws(LabError) {
        var record = passwd()
        var found: UnsafeMutablePointer<passwd>?
        var buffer = [CChar](repeating: 0, count: 16384)
        let failure = getpwnam_r(name, &record, &buffer, buffer.count, &found)
        guard found != nil else {
            guard failure == 0 else { throw .systemCall("getpwnam_r", detail: name, errno: failure) }
            throw .invalid("there is no user \(name)")
        }
        var groups = [gid_t](repeating: 0, count: 1024)
        var count = Int32(groups.count)
        guard getgrouplist(name, record.pw_gid, &groups, &count) >= 0 else {
            throw .invalid("the user \(name) is in more than 1,024 groups")
        }
        self.init(user: record.pw_uid, group: record.pw_gid, groups: Array(groups.prefix(Int(count))))
    }
}
