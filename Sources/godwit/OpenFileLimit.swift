internal import Glibc

/// How many files this process may have open: many systems give it 1,024 until it asks for more.
enum OpenFileLimit {
    /// Raises the limit to what is wanted, as far as it may be. A limit that is higher stays.
    ///
    /// - Returns: how many may be open now.
    @discardableResult
    static func raise(to wanted: Int) -> Int {
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        var limit = rlimit()
        guard getrlimit(resource, &limit) == 0 else { return 0 }
        if limit.rlim_cur < rlim_t(wanted) {
            let present = limit.rlim_cur
            limit.rlim_cur = min(limit.rlim_max, rlim_t(wanted))
            if setrlimit(resource, &limit) != 0 { limit.rlim_cur = present }
        }
        return Int(clamping: limit.rlim_cur)
    }
}
