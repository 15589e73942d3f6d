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
            let step = max(window / 16, SequentialWindow.firstWindow)
            // At the end all is asked for.
            guard wanted > next, wanted == size || wanted >= next + step else { return fault.end }
            next = max(wanted, fault.end)
            return next
        }
    }

    private struct File {
        /// The last one to ask is the last.
        var readers: [Reader] = []
        var lastUse: UInt64 = 0
    }

    private var files: [InodeNumber: File] = [:]
    private var clock: UInt64 = 0

    /// - Returns: the range worth fetching; it holds `fault` and ends at `size` at the latest.
    mutating func range(for fault: ByteRange, of inode: InodeNumber, size: UInt64) -> ByteRange {
        if size <= Self.smallFile { return ByteRange(0, max(size, fault.end)) }
        clock += 1
        var file = files[inode] ?? File()
        file.lastUse = clock
        var end = fault.end
        if let index = file.readers.lastIndex(where: { $0.goesOn(with: fault) }) {
            var reader = file.readers.remove(at: index)
            end = reader.go(on: fault, size: size)
            file.readers.append(reader)
        } else {
            file.readers = file.readers.suffix(Self.readersOfInode - 1) + [Reader(next: fault.end)]
        }
        files[inode] = file
        if files.count > Self.rememberedInodes { forgetOldest() }
        return ByteRange(fault.start, end)
    }

    private mutating func forgetOldest() {
        let oldest = files.values.map(\.lastUse).sorted()[files.count / 2]
        files = files.filter { $0.value.lastUse > oldest }
    }
}
