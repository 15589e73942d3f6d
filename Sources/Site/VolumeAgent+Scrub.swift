internal import Catalog
internal import ControlProtocol
internal import Hydration
internal import Synchronization
internal import VolumeModel

/// What the disk does to a volume's bytes.
extension VolumeAgent {
    /// All heads that are here, needed or only kept.
    var storedHeads: [UInt64] { record.storedHeadNumbers }

    /// What people are told of damage to what is needed.
    var damageText: String? {
        let findings = record.headNumbers.flatMap { damage[$0] ?? [] }
        guard let first = findings.first else { return nil }
        return first.text
            + (findings.count == 1 ? "" : "; \(findings.count - 1) more: 'godwit volume check' tells them")
    }

    func learnAllDamage() async { for number in storedHeads { await learnDamage(number) } }

    /// Takes up what scrubs have found of a head, from now on given to nobody.
    func learnDamage(_ number: UInt64) async {
        let directory = context.state.head(number, of: id)
        do {
            let found = try await onBlockingThread { try HeadDamage.findings(directory) }
            for finding in found where !(damage[number] ?? []).contains(finding) {
                logger.error("\(finding.text)")
            }
            damage[number] = found.isEmpty ? nil : found
            guard let storage = heads[number]?.storage else { return }
            forgetCached(try await onBlockingThread { try storage.learnDamage() }, ofHead: number)
        } catch {
            logger.debug("what is damaged of head \(number) is not known: \(error)")
        }
    }

    /// Programs here, too, are to ask anew.
    func forgetCached(_ extents: [Extent], ofHead number: UInt64) {
        let fuses =
            mounts.values.filter { $0.headNumber == number }.map(\.fuse) + divergenceMounts.values.map(\.fuse)
        for fuse in fuses {
            for extent in extents { fuse.invalidate(extent.inode, extent.range) }
        }
    }

    /// Whether a scrub is in the midst of a file.
    func isBeingRead(_ data: DataFileNumber, ofHead number: UInt64) -> Bool {
        scrubTurns[number]?.contains { $0.current == data } ?? false
    }

    /// Looks through a head, used or not, and makes known what it finds.
    ///
    /// - Parameters:
    ///   - again: whether to wait for files that were changed a moment before.
    ///   - pace: called with the bytes that were read, from time to time.
    func scrub(
        _ number: UInt64, terms: ScrubTerms, again: Bool,
        pace: @Sendable (_ byteCount: UInt64) async throws -> Void
    ) async throws -> ScrubProgress {
        let directory = context.state.head(number, of: id)
        let isInUse = heads[number] != nil || endingHeads[number] != nil
        let turn = try await onBlockingThread {
            try ScrubTurn(directory, isInUse: isInUse, terms: terms) { [weak self] place in
                try self?.storages.of(number)?.learnDamage(of: place)
            }
        }
        scrubTurns[number, default: []].append(turn)
        defer { scrubTurns[number]?.removeAll { $0 === turn } }
        try await step(turn, number, pace)
        if again, try await onBlockingThread({ turn.turnToBusyFiles() }) {
            try await Task.sleep(for: terms.quiet)
            try await step(turn, number, pace)
        }
        await learnDamage(number)
        return turn.progress
    }

    private func step(
        _ turn: ScrubTurn, _ number: UInt64, _ pace: @Sendable (UInt64) async throws -> Void
    ) async throws {
        // To tell of what was found takes as long as there is damage: it is told of each time there is twice as much.
        var told = 0
        while !isClosed, storedHeads.contains(number) {
            try Task.checkCancellation()
            let (cost, found, count) = try await onBlockingThread { try turn.step() }
            forgetCached(found, ofHead: number)
            if count > 0, count >= 2 * told {
                await learnDamage(number)
                told = count
            }
            guard let cost else { return }
            try await pace(cost)
        }
    }

    /// Verifies what is stored, beside whoever uses it.
    ///
    /// - Parameters:
    ///   - scrubs: whether to read all bytes as well.
    ///   - accepts: whether files that are damaged are to be taken for good as they are.
    ///   - repairs: whether what is damaged is to be restored from other copies.
    func check(
        scrubs: Bool, accepts: Bool, repairs: Bool
    ) async throws -> Godwit_Control_V1_CheckReply {
        var reply = Godwit_Control_V1_CheckReply()
        for number in storedHeads {
            let directory = context.state.head(number, of: id)
            if accepts {
                try await onBlockingThread { try HeadDamage.accept(directory) }
                await learnDamage(number)
            }
            if scrubs {
                do {
                    reply.add(try await scrub(number, terms: ScrubTerms(), again: true) { _ in })
                } catch is CancellationError {
                    throw CancellationError()
                } catch {
                    reply.add(
                        [HeadFinding(.damage, "it cannot be read through: \(error)")], record.name, directory)
                }
            }
        }
        if repairs {
            for number in storedHeads { await learnDamage(number) }
            for (number, text) in try await repair(patience: nil, pace: { _ in }) {
                let finding = HeadFinding(.damage, text)
                reply.addRepaired([finding], record.name, context.state.head(number, of: id))
            }
        }
        for number in storedHeads {
            let directory = context.state.head(number, of: id)
            guard !isClosed else { break }
            let findings = try await onBlockingThread {
                VolumeCheck.findings(directory) { try HeadCheck.run($0, isInUse: true) }
            }
            reply.add(findings, record.name, directory)
        }
        return reply
    }
}

/// A scrub under way. What it reads waits for the disk; what is asked of it meanwhile does not.
final class ScrubTurn: Sendable {
    private let scrub: Mutex<HeadScrub>
    private let file = Mutex<DataFileNumber?>(nil)

    init(
        _ directory: String, isInUse: Bool, terms: ScrubTerms,
        noteFound: @escaping @Sendable (DamagePlace?) throws -> Void
    ) throws {
        scrub = Mutex(try HeadScrub(directory, isInUse: isInUse, terms: terms, noteFound: noteFound))
    }

    /// The file that it is in the midst of.
    var current: DataFileNumber? { file.withLock { $0 } }

    var progress: ScrubProgress { scrub.withLock { $0.progress } }

    func turnToBusyFiles() -> Bool { scrub.withLock { $0.turnToBusyFiles() } }

    /// - Returns: what it cost, nil when all is done; what was found damaged, and how much of it in all.
    func step() throws -> (cost: UInt64?, found: [Extent], count: Int) {
        try scrub.withLock { scrub in
            let cost = try scrub.step()
            let current = scrub.current
            file.withLock { $0 = current }
            return (cost, scrub.takeFound(), scrub.progress.newDamageCount)
        }
    }
}
