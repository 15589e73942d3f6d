internal import CLinux

/// What this process has waited for its disk: syncs of data files and their names, and of the catalogs' logs. (What SQLite
/// syncs itself, when it moves a log into its database, is not among them.)
package enum DiskSyncs {
    /// Those that have ended since the process began, and how long they took together.
    package static var totals: (count: UInt64, seconds: Double) {
        var count: UInt64 = 0
        var nanoseconds: UInt64 = 0
        gw_sync_totals(&count, &nanoseconds)
        return (count, Double(nanoseconds) / 1e9)
    }
}
