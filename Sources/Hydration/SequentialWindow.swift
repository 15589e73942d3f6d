internal import VolumeModel

/// Decides how much to fetch for a fault: exactly what was asked when access is random, and a window ahead of it that doubles as
/// long as faults of an inode follow each other. Several readers of one file each have their own.
struct SequentialWindow: Sendable {
    static let firstWindow: UInt64 = 64 << 10
    static let largestWindow: UInt64 = 8 << 20
    /// Files this small are fetched whole at the first fault: a second round trip costs more.
    static let smallFile: UInt64 = 32 << 10
    private static let rememberedInodes = 256
    private static let readersOfInode = 4
    /// Who reads in sequence may ask so far from where that is expected: the kernel reads ahead with several requests at a
    /// time, which come in any order.
    private static let largestSlack: UInt64 = 512 << 10

    private struct Reader {
        /// Where that ends which was asked for, by it or ahead of it.
        var next: UInt64
        /// 0: nothing has followed yet.
        var window: UInt64 = 0
        /// Who has read so far, half of a window, gets twice as much.
        var growth: UInt64 = 0

        func goesOn(with fault: ByteRange) -> Bool {
            guard window > 0 else { return fault.start <= next && fault.end > next }
            let slack = min(2 * window, SequentialWindow.largestSlack)
            return fault.start <= next + slack && fault.end + window + slack >= next
        }

        /// - Returns: where what is worth fetching ends.
        mutating func go(on fault: ByteRange, size: UInt64) -> UInt64 {
            if fault.end >= growth {
                window = max(SequentialWindow.firstWindow, min(window * 2, SequentialWindow.largestWindow))
                growth = fault.end + window / 2
            }
            // Little by little: what is asked for at once is answered at once, and nothing comes until more is asked for.
            let wanted = min(size, fault.end + window)
            guard wanted >= min(size, next + max(window / 16, SequentialWindow.firstWindow)) else {
                return fault.end
            }
            next = max(wanted, fault.end)
            return next
        }
    }

    /// The last one to ask is the last.
    private var readers: [InodeNumber: [Reader]] = [:]
    private var lastUses: [InodeNumber: UInt64] = [:]
    private var clock: UInt64 = 0

    /// - Returns: the range worth fetching; it holds `fault` and ends at `size` at the latest.
    mutating func range(for fault: ByteRange, of inode: InodeNumber, size: UInt64) -> ByteRange {
        if size <= Self.smallFile { return ByteRange(0, max(size, fault.end)) }
        clock += 1
        lastUses[inode] = clock
        var all = readers[inode] ?? []
        var end = fault.end
        if let index = all.lastIndex(where: { $0.goesOn(with: fault) }) {
            var reader = all.remove(at: index)
            end = reader.go(on: fault, size: size)
            all.append(reader)
        } else {
            all = all.suffix(Self.readersOfInode - 1) + [Reader(next: fault.end)]
        }
        readers[inode] = all
        if readers.count > Self.rememberedInodes { forgetOldest() }
        return ByteRange(fault.start, end)
    }

    private mutating func forgetOldest() {
        let oldest = lastUses.values.sorted()[lastUses.count / 2]
        lastUses = lastUses.filter { $0.value > oldest }
        readers = readers.filter { lastUses[$0.key] != nil }
    }
}
