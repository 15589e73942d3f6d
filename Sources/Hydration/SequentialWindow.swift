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
        var access = accesses[inode] ?? Access(next: 0, window: 0, lastUse: 0)
        var end = fault.end
        if accesses[inode] != nil, fault.start <= access.next, fault.end > access.next {
            // Goes on where the last one ended, or where what was asked for ahead ends.
            access.window =
                access.window == 0 ? Self.firstWindow : min(access.window * 2, Self.largestWindow)
            end = max(fault.end, min(size, fault.end + access.window))
            access.next = end
        } else if access.window > 0, fault.end <= access.next, fault.start + access.window >= access.next {
            // Has caught up with what was asked for ahead and is on its way: ask for more once half is read.
            if fault.end + access.window / 2 >= access.next {
                access.window = min(access.window * 2, Self.largestWindow)
                access.next = min(size, access.next + access.window)
                end = max(fault.end, access.next)
            }
        } else {
            access.window = 0
            access.next = fault.end
        }
        access.lastUse = clock
        accesses[inode] = access
        if accesses.count > Self.rememberedInodes { forgetOldest() }
        return ByteRange(fault.start, end)
    }

    private mutating func forgetOldest() {
        let oldest = accesses.values.map(\.lastUse).sorted()[accesses.count / 2]
        accesses = accesses.filter { $0.value.lastUse > oldest }
    }
}
