internal import Handoff
internal import Logging
internal import PeerService
internal import Synchronization
internal import VolumeModel

/// Asks the sites that may know a volume, of each that this site takes for its own, whether a later reign has begun: it
/// has where the whole state of this site went back in time (`HeadRecord.objection`).
final class Confirmations: Sendable {
    private let schedule = Mutex(ConfirmationSchedule())
    /// Whose word of which volumes was not believed, and when that was told of.
    private let doubts = Mutex<[Doubt: ContinuousClock.Instant]>([:])

    /// How long one question may take.
    private static let timeout: Duration = .seconds(5)
    /// Volumes of one question: it comes over a link of 100 kbit/s within that time, and a hand-over behind it.
    private static let pageCount = 256
    /// Volumes that hear of a later reign at a time.
    private static let hearingCount = 8
    /// What was told of is not told again so soon; if there is more than this it is.
    private static let doubtInterval: Duration = .seconds(3600)
    private static let doubtCount = 4096

    private struct Doubt: Hashable {
        let site: SiteID
        let volume: VolumeID
    }

    private struct Asked: Sendable {
        let agent: VolumeAgent
        let reign: AskedReign
    }

    /// A site that asks understands the question.
    func noteQuestion(of site: SiteID) { schedule.withLock { $0.noteQuestion(of: site, at: .now) } }

    func begin() { schedule.withLock { $0.begin(at: .now) } }

    /// Right after a start: until these sites were asked, or for a short time.
    func wait(for sites: Set<SiteID>) async {
        while !schedule.withLock({ $0.isSettled(sites, at: .now) }) {
            guard (try? await Task.sleep(for: .milliseconds(5))) != nil else { return }
        }
    }

    /// Asks for as long as the site runs.
    ///
    /// - Parameter agents: all volumes of the site; nil: it is gone.
    func run(_ context: SiteContext, _ agents: @Sendable () async -> [VolumeAgent]?) async {
        while !Task.isCancelled, let all = await agents() {
            await ask(all, context)
            let pause = schedule.withLock { $0.pause(at: .now) }
            guard (try? await Task.sleep(for: pause)) != nil else { return }
        }
    }

    /// Asks about one volume, now, and for no longer than a start waits.
    func ask(_ agent: VolumeAgent, _ context: SiteContext) async {
        guard let (own, sites) = await agent.unconfirmed else { return }
        let reign = AskedReign(own.reign.epoch, handover: own.handover)
        let volumes = [agent.id: Asked(agent: agent, reign: reign)]
        await withTaskGroup(of: Void.self) { group in
            for site in sites {
                group.addTask {
                    _ = await Self.ask(site, volumes, context, timeout: ConfirmationSchedule.patience)
                }
            }
        }
    }

    private func ask(_ agents: [VolumeAgent], _ context: SiteContext) async {
        var asked: [SiteID: [VolumeID: Asked]] = [:]
        for agent in agents {
            guard let (own, sites) = await agent.unconfirmed else { continue }
            let reign = AskedReign(own.reign.epoch, handover: own.handover)
            for site in sites {
                asked[site, default: [:]][agent.id] = Asked(agent: agent, reign: reign)
            }
        }
        let due = schedule.withLock { $0.due(among: Set(asked.keys), at: .now) }
        await withTaskGroup(of: Void.self) { group in
            for site in due {
                let volumes = asked[site] ?? [:]
                group.addTask {
                    let outcome = await Self.ask(site, volumes, context)
                    self.schedule.withLock { $0.note(outcome, of: site, at: .now) }
                }
            }
        }
    }

    private static func ask(
        _ site: SiteID, _ volumes: [VolumeID: Asked], _ context: SiteContext,
        timeout: Duration = Confirmations.timeout
    ) async -> ConfirmationSchedule.Outcome {
        let client: PeerClient
        do {
            client = try context.client(of: site)
        } catch {
            return .unknown
        }
        let all = volumes.sorted { $0.key < $1.key }
        var outcome = ConfirmationSchedule.Outcome.answered
        do {
            for start in stride(from: 0, to: all.count, by: pageCount) {
                let page = all[start..<min(start + pageCount, all.count)]
                let owned = Dictionary(uniqueKeysWithValues: page.map { ($0.key, $0.value.reign) })
                guard let later = try await client.confirm(owned, timeout: timeout) else {
                    return .notUnderstood
                }
                let isHeard = await tell(page.map(\.value.agent), later, of: site)
                if !isHeard { outcome = .silent }
            }
        } catch {
            context.logger.debug("site \(site) is asked again for later reigns: \(error)")
            return .silent
        }
        return outcome
    }

    /// - Returns: whether each volume has noted what concerns it.
    private static func tell(
        _ agents: [VolumeAgent], _ later: [VolumeID: ToldReign], of site: SiteID
    ) async -> Bool {
        await withTaskGroup(of: Bool.self) { group in
            var isHeard = true
            for (index, agent) in agents.enumerated() {
                if index >= hearingCount { isHeard = await group.next() ?? true && isHeard }
                let told = later[agent.id].map {
                    KnownReign(Reign($0.owner, $0.epoch), handover: $0.handover)
                }
                group.addTask { await agent.hear(of: told, from: site) }
            }
            for await isNoted in group { isHeard = isHeard && isNoted }
            return isHeard
        }
    }

    /// Whether a site's word that it owns a volume, which is not believed, is to be told of in the log: it may come often.
    func isNews(_ site: SiteID, of volume: VolumeID) -> Bool {
        doubts.withLock { doubts in
            let now = ContinuousClock.now
            let doubt = Doubt(site: site, volume: volume)
            if let told = doubts[doubt], now - told < Self.doubtInterval { return false }
            if doubts.count >= Self.doubtCount { doubts = [:] }
            doubts[doubt] = now
            return true
        }
    }
}
