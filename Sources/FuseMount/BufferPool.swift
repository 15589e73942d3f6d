internal import Locks

/// Memory for reads, so that none is allocated for each.
final class BufferPool: Sendable {
    /// Unchecked Sendable: a buffer is used by whoever took it, and by nobody else until it is given back.
    struct Buffer: @unchecked Sendable {
        let memory: UnsafeMutableRawBufferPointer
    }

    private static let keptCount = 16
    private let bufferByteCount: Int
    private let free = Lock<[Buffer]>([])

    init(bufferByteCount: Int) { self.bufferByteCount = bufferByteCount }

    deinit {
        free.withLock { free in
            for buffer in free { buffer.memory.deallocate() }
        }
    }

    func take() -> Buffer {
        free.withLock { $0.popLast() }
            ?? Buffer(memory: .allocate(byteCount: bufferByteCount, alignment: 4096))
    }

    func give(_ buffer: Buffer) {
        let isKept = free.withLock { free in
            guard free.count < Self.keptCount else { return false }
            free.append(buffer)
            return true
        }
        if !isKept { buffer.memory.deallocate() }
    }
}
