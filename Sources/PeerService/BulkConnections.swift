internal import RPC
internal import Synchronization

/// The connections to a peer for what nobody waits for. One alone fills neither a long link, whose round trips its
/// window bounds, nor one that loses packets, each of which halves that. How much is under way on all of them together
/// is for the caller to say: it bounds the queue on the link, behind which faults would wait.
final class BulkConnections: Sendable {
    static let count = 4
    /// From so many other calls under way on, packets gather.
    private static let gatheringCount = 2

    private let channels: [RPCChannel]
    /// Calls under way on each.
    private let running = Mutex([Int](repeating: 0, count: count))

    /// - Parameter open: makes one, which connects when it is first used.
    init(_ open: () throws(RPCStatus) -> RPCChannel) throws(RPCStatus) {
        var channels: [RPCChannel] = []
        for _ in 0..<Self.count { channels.append(try open()) }
        self.channels = channels
    }

    /// Makes a call on the connection with the fewest, the first of these: little to do keeps to one.
    func call<Reply: Sendable, Failure: Error>(
        _ body: (RPCChannel) async throws(Failure) -> Reply
    ) async throws(Failure) -> Reply {
        let (index, gathers) = running.withLock { running in
            let index = running.indices.min { running[$0] < running[$1] } ?? 0
            // Of few answers the last packet's way counts.
            let gathers = running.reduce(0, +) >= Self.gatheringCount
            running[index] += 1
            return (index, gathers)
        }
        if gathers { PacketGathering.begin() }
        defer {
            if gathers { PacketGathering.end() }
            running.withLock { $0[index] -= 1 }
        }
        return try await body(channels[index])
    }

    func close() { for channel in channels { channel.close() } }
}
