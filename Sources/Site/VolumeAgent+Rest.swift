internal import Catalog
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

    /// Leaves the present head closed at the start, where it was closed in order, agrees with its record and would rest
    /// anyway: to open each of a thousand volumes takes some syncs each, and to close them again a minute later some more.
    ///
    /// - Returns: whether it rests. If not, for whatever reason, it has to be opened to know what is to be done.
    func restUnopened() async -> Bool {
        let number = record.headNumber
        guard case .owning(let epoch, nil) = record.head.role, number != 0, heads.isEmpty, isUnneeded(number)
        else { return false }
        let directory = context.state.head(number, of: id)
        let quiet = try? await onBlockingThread {
            HeadDamage.isNone(in: directory) ? try CatalogView(of: directory).quiet() : nil
        }
        guard let quiet, quiet.epoch == epoch, quiet.limits == record.limits else { return false }
        var summary = VolumeSummary(record: record)
        summary.add(quiet)
        resting = RestingHead(number: number, summary: summary)
        servedEpoch = epoch
        return true
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
        guard case .owning = record.head.role, isUnneeded(head.number), !isEngaged,
            head.storage.trouble == nil
        else { return false }
        return head.isWhole
    }

    /// Whether neither a program nor another site needs the present head now. Without a source nothing is being fetched any
    /// more, nor is anybody still told that it has come.
    private func isUnneeded(_ number: UInt64) -> Bool {
        record.head.user == nil && obstacle == nil && record.head.sources.isEmpty
            && record.head.divergences.isEmpty && !record.keptNumbers.contains(number)
            && ownCopies[number] == nil && mounts.isEmpty && endings.isEmpty && divergenceMounts.isEmpty
    }
}

/// A head that is being closed: whoever needs it waits for that, which is a few syncs.
final class HeadEnding: Sendable {
    private let group = DispatchGroup()

    init() { group.enter() }

    func finish() { group.leave() }

    func wait() { group.wait() }
}
