internal import Dispatch
internal import Handoff
internal import Hydration
internal import VolumeModel

/// Volumes that nobody uses keep no files open and little memory: of a site's volumes most are not mounted.
///
/// Only the present head of a volume that this site owns rests, and only when it is whole. It is opened again, which
/// takes some syncs, by whoever needs it.
extension VolumeAgent {
    /// What is told of a head that rests: nobody changes it meanwhile.
    struct RestingHead {
        let number: UInt64
        let summary: VolumeSummary
    }

    /// A follower that asked within this time may still be reading.
    private static let followerPatience: Duration = .seconds(3600)

    /// Closes the present head if nobody has used it for a while. Called from time to time.
    func restIfUnused() async {
        let number = record.headNumber
        guard let head = heads[number], mayRest(head) else { return }
        await head.pauseSettling()
        // Somebody may have come meanwhile.
        guard heads[number] === head, mayRest(head) else {
            head.resumeSettling()
            return
        }
        var summary = self.summary()
        // If there is any it is that of bytes, which is told beside.
        summary.trouble = nil
        heads[number] = nil
        let ending = HeadEnding()
        endingHeads[number] = ending
        do {
            try await onBlockingThread {
                defer { ending.finish() }
                try head.storage.close()
            }
            if heads[number] == nil { resting = RestingHead(number: number, summary: summary) }
        } catch {
            logger.error("closing head \(number): \(error)")
        }
        endingHeads[number] = nil
    }

    private func mayRest(_ head: OpenHead) -> Bool {
        let now = ContinuousClock.now
        guard head.lastUse + context.restAfter < now,
            followers.values.allSatisfy({ $0 + Self.followerPatience < now })
        else { return false }
        // Without a source nothing is being fetched any more, nor is anybody still told that it has come.
        guard case .owning = record.head.role, record.head.user == nil, obstacle == nil,
            record.head.sources.isEmpty,
            record.head.divergences.isEmpty, !record.keptNumbers.contains(head.number),
            ownCopies[head.number] == nil, mounts.isEmpty, endings.isEmpty, divergenceMounts.isEmpty,
            !isEngaged, head.storage.trouble == nil
        else { return false }
        return head.isWhole
    }
}

/// A head that is being closed: whoever needs it waits for that, which is a few syncs.
final class HeadEnding: Sendable {
    private let group = DispatchGroup()

    init() { group.enter() }

    func finish() { group.leave() }

    func wait() { group.wait() }
}
