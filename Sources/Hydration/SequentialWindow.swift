internal import VolumeModel

/// Decides how much to fetch for a fault: exactly what was asked when access is random, and a window that
/// doubles as long as faults of an inode follow each other.
struct SequentialWindow: Sendable {
    static let firstWindow: UInt64 = 64 << 10
    static let largestWindow: UInt64 = 4 << 20
    /// Files this small are fetched whole at the first fault: a second round trip costs more.
    static let smallFile: UInt64 = 32 << 10
    private static let rememberedInodes = 256

    private struct Access {
        var next: UInt64
        var window: UInt64
        var lastUse: UInt64
    }

    private var accesses: [InodeNumber: Access] = [:]
    private var clock: UInt64 = 0

    /// - Returns: the range worth fetching; it holds `fault` and ends at `size` at the latest.
    mutating func range(for fault: ByteRange, of inode: InodeNumber, size: UInt64) -> ByteRange {
        if size <= Self.smallFile { return ByteRange(0, max(size, fault.end)) }
        clock += 1
        var window: UInt64 = 0
        if let access = accesses[inode], fault.start <= access.next,
            fault.end > access.next || fault.start == access.next
        {
            window = access.window == 0 ? Self.firstWindow : min(access.window * 2, Self.largestWindow)
        }
        let end = max(fault.end, min(size, fault.end + window))
        accesses[inode] = Access(next: end, window: window, lastUse: clock)
        if accesses.count > Self.rememberedInodes { forgetOldest() }
        return ByteRange(fault.start, end)
    }

    private mutating func forgetOldest() {
        let oldest = accesses.values.map(\.lastUse).sorted()[accesses.count / 2]
        accesses = accesses.filter { $0.value.lastUse > oldest }
    }
}
