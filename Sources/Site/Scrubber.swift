internal import Hydration
internal import VolumeModel

/// How a site looks through what it stores while nobody asks for it.
package struct ScrubPolicy: Hashable, Sendable {
    /// 0: never. So that neither the disk nor a core has much to do with it; a TiB takes 15 hours.
    package var bytesPerSecond: UInt64
    /// How often each file is read again.
    package var every: Duration

    package init(bytesPerSecond: UInt64 = 20 << 20, every: Duration = .seconds(7 * 86_400)) {
        self.bytesPerSecond = bytesPerSecond
        self.every = every
    }

    /// How often is looked for what is due or new.
    var pause: Duration { min(every, .seconds(3600)) }

    /// How often is tried again to put right what is damaged: peers come back.
    var repairPause: Duration { min(every, .seconds(60)) }

    /// Bytes of a second that are fetched for it.
    var repairRate: UInt64 { bytesPerSecond > 0 ? bytesPerSecond : ScrubPolicy().bytesPerSecond }

    /// A start has other things to do.
    var delay: Duration { min(every, .seconds(60)) }

    /// What is written to again and again would be hashed again and again, for nothing.
    var terms: ScrubTerms {
        ScrubTerms(quiet: max(ScrubTerms.shortestQuiet, min(every, .seconds(600))), every: every)
    }
}

/// Looks through all heads of a site, one file at a time, slowly, for as long as it runs.
///
/// Opens no head and is no use of one: it reads the files in its directory, in use or not.
struct Scrubber: Sendable {
    let policy: ScrubPolicy
    let agents: @Sendable () async -> [VolumeAgent]

    /// Until it is cancelled.
    func run() async {
        for agent in await agents() { await agent.learnAllDamage() }
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await look() }
            group.addTask { await repair() }
        }
    }

    /// What is damaged is put right as soon as somebody can be asked who has it.
    private func repair() async {
        let (patience, rate) = (policy.pause, policy.repairRate)
        do {
            while true {
                for agent in await agents() {
                    try await agent.repair(patience: patience) { byteCount in
                        try await Task.sleep(for: .seconds(Double(byteCount) / Double(rate)))
                    }
                }
                try await Task.sleep(for: policy.repairPause)
            }
        } catch {
            // Cancelled.
        }
    }

    private func look() async {
        guard policy.bytesPerSecond > 0 else { return }
        do {
            try await Task.sleep(for: policy.delay)
            while true {
                for agent in await agents() {
                    for number in await agent.storedHeads { try await scrub(number, of: agent) }
                }
                try await Task.sleep(for: policy.pause)
            }
        } catch {
            // Cancelled.
        }
    }

    private func scrub(_ number: UInt64, of agent: VolumeAgent) async throws {
        let rate = policy.bytesPerSecond
        do {
            _ = try await agent.scrub(number, terms: policy.terms, again: false) { byteCount in
                try await Task.sleep(for: .seconds(Double(byteCount) / Double(rate)))
            }
        } catch is CancellationError {
            throw CancellationError()
        } catch {
            agent.logger.debug("head \(number) cannot be looked through: \(error)")
        }
    }
}
