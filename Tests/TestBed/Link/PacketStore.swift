internal import CTestBed

/// Memory for the packets of one direction: large pieces, filled from the front and used again when all
/// packets in them are gone. Used by one thread.
final class PacketStore {
    final class Piece {
        fileprivate let memory = UnsafeMutableRawPointer.allocate(
            byteCount: PacketStore.pieceByteCount, alignment: 16)
        fileprivate var used = 0
        fileprivate var packetCount = 0
        deinit { memory.deallocate() }
    }

    /// A packet with its header. Give each back with `release` exactly once.
    struct Slice {
        fileprivate let piece: Piece
        fileprivate let offset: Int
        let byteCount: Int

        var bytes: UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(start: piece.memory + offset, count: byteCount)
        }
    }

    /// The largest IPv4 packet and the header before it.
    static let largestPacket = 65_535 + Int(TB_PACKET_HEADER_SIZE)
    private static let pieceByteCount = 512 << 10
    /// Beyond this, memory goes back to the system: 32 MiB.
    private static let mostSpares = 64

    private var current = Piece()
    private var spares: [Piece] = []

    /// Room for one packet of any size. Valid until the next call; nothing is kept before `keep`.
    func room() -> UnsafeMutableRawBufferPointer {
        if PacketStore.pieceByteCount - current.used < PacketStore.largestPacket {
            let full = current
            current = spares.popLast() ?? Piece()
            if full.packetCount == 0 { recycle(full) }
        }
        return UnsafeMutableRawBufferPointer(
            start: current.memory + current.used, count: PacketStore.largestPacket)
    }

    /// The packet that was just put into `room()`. The next `room()` is the same memory unless `keep` is
    /// called.
    func slice(byteCount: Int) -> Slice { Slice(piece: current, offset: current.used, byteCount: byteCount) }

    func keep(_ slice: Slice) {
        slice.piece.packetCount += 1
        slice.piece.used += (slice.byteCount + 15) & ~15
    }

    func release(_ slice: Slice) {
        slice.piece.packetCount -= 1
        if slice.piece.packetCount == 0, slice.piece !== current { recycle(slice.piece) }
    }

    private func recycle(_ piece: Piece) {
        piece.used = 0
        if spares.count < PacketStore.mostSpares { spares.append(piece) }
    }
}
