internal import Catalog
internal import Hydration
internal import PeerService
internal import RPC
internal import Synchronization
internal import VolumeModel

/// What was tried to put right what is damaged of a head, so that nobody is asked for the same all the time.
struct RepairAttempt {
    let blocks: Set<RestorableBlock>
    let since: ContinuousClock.Instant
    /// Who has none of these blocks.
    var asked: Set<SiteID> = []
}

/// Putting right what a disk has done to a volume's bytes.
///
/// Of a block whose hash is known any copy that has it will do, wherever it is: another head of the volume here, or at
/// a site, or a node of this one, that may know of the volume. Who has a copy, and of which time, is of no concern: the
/// hash decides, and nothing else.
extension VolumeAgent {
    /// Who is asked of all that know the volume.
    private static let peerLimit = 16

    /// Puts right what can be of all heads that are needed here.
    ///
    /// - Parameters:
    ///   - patience: for so long nobody is asked again who had nothing; nil: everybody is asked.
    ///   - pace: called with the bytes that were asked for, block by block.
    /// - Returns: what was put right, by the numbers of the heads, for people.
    @discardableResult
    func repair(
        patience: Duration?, pace: @Sendable (_ byteCount: UInt64) async throws -> Void
    ) async throws -> [(head: UInt64, text: String)] {
        var restored: [(head: UInt64, text: String)] = []
        for number in record.headNumbers where damage[number] != nil {
            while patience == nil, repairing.contains(number) { try await Task.sleep(for: .milliseconds(20)) }
            guard repairing.insert(number).inserted else { continue }
            defer { repairing.remove(number) }
            do {
                restored += try await repair(number, patience, pace).map { (number, $0) }
            } catch is CancellationError {
                throw CancellationError()
            } catch {
                logger.warning("what is damaged of head \(number) stays so for now: \(error)")
            }
        }
        return restored
    }

    private func repair(
        _ number: UInt64, _ patience: Duration?, _ pace: @Sendable (UInt64) async throws -> Void
    ) async throws -> [String] {
        let directory = context.state.head(number, of: id)
        let blocks = try await onBlockingThread { try HeadDamage.restorable(directory) }
        guard !blocks.isEmpty else { return [] }
        var attempt = RepairAttempt(blocks: Set(blocks), since: .now)
        var isFirst = true
        if let last = repairAttempts[number], let patience, last.blocks == attempt.blocks,
            ContinuousClock.now - last.since < patience
        {
            // Only those that were away then.
            (attempt, isFirst) = (last, false)
        }
        let asked = attempt.asked
        let peers = await peersThatMayHave().filter { !asked.contains($0) }
        guard isFirst || !peers.isEmpty else { return [] }
        let others = isFirst ? storedHeads.filter { $0 != number }.map { context.state.head($0, of: id) } : []
        var search = BlockSearch(volume: id, directories: others, peers: peers)
        var restored: [String] = []
        for block in blocks {
            try Task.checkCancellation()
            guard !isClosed, obstacle == nil, record.headNumbers.contains(number) else { return restored }
            // A scrub in the midst of a file begins it anew when it changes.
            guard !isBeingRead(block.data, ofHead: number) else {
                search.isComplete = false
                continue
            }
            let found = try await search.find(block.lost, context)
            // Who is asked in vain is asked no faster.
            try await pace(block.lost.extent.range.byteCount)
            guard let found else { continue }
            // That took a while: the head may be gone, or not be needed here any more.
            guard !isClosed, obstacle == nil, record.headNumbers.contains(number) else { return restored }
            guard !isBeingRead(block.data, ofHead: number) else {
                search.isComplete = false
                continue
            }
            let storage = try openHead(number).storage
            let byteCount = try await onBlockingThread { try storage.restore(block, from: found.content) }
            if byteCount > 0 {
                let name = await name(of: block, in: directory)
                let text = "\(name) are again what was written: restored from \(found.source)"
                logger.notice("\(text)", metadata: ["head": "\(number)"])
                forgetCached([block.lost.extent], ofHead: number)
                healed = text
                context.repairedByteCount.wrappingAdd(byteCount, ordering: .relaxed)
                restored.append(text)
            }
        }
        if search.isComplete { attempt.asked.formUnion(search.answered) }
        repairAttempts[number] = attempt
        if !restored.isEmpty { await learnDamage(number) }
        return restored
    }

    private func name(of block: RestorableBlock, in directory: String) async -> String {
        (try? await onBlockingThread { HeadDamage.name(of: block, in: directory) }) ?? "a file"
    }

    /// Who may know of the volume, and so have copies: sites, and nodes of this one.
    private func peersThatMayHave() async -> [SiteID] {
        let own = context.site
        var peers: [SiteID] = []
        let sites = record.sharedWith.union(own.node == nil ? [] : [own.site])
        for site in sites.sorted(by: { $0.description < $1.description }) {
            guard peers.count < Self.peerLimit else { break }
            do {
                peers += try await context.locate(id, at: site).holders.filter { $0 != own }
            } catch {
                logger.debug("\(site) is not asked for what is damaged here: \(error)")
            }
        }
        return Array(peers.prefix(Self.peerLimit))
    }

    // MARK: for others

    /// A block that a peer's disk has damaged, from any state of the volume that is here.
    ///
    /// - Parameter site: who asks. A node of this site may read all of it anyway.
    func content(of block: LostBlock, for site: SiteID) async throws -> [UInt8]? {
        let isForPeer = site.site != context.site.site
        let directories = storedHeads.map { context.state.head($0, of: id) }
        return try await onBlockingThread {
            for directory in directories {
                if let content = (try? block.find(in: directory, isForPeer: isForPeer)) ?? nil {
                    return content
                }
            }
            return nil
        }
    }
}

/// Looks for the blocks of one head.
private struct BlockSearch {
    let volume: VolumeID
    let directories: [String]
    private(set) var peers: [SiteID]
    /// Who has answered every question so far.
    private(set) var answered: Set<SiteID>
    /// Whether every block was asked for.
    var isComplete = true

    init(volume: VolumeID, directories: [String], peers: [SiteID]) {
        (self.volume, self.directories, self.peers) = (volume, directories, peers)
        answered = Set(peers)
    }

    /// - Returns: the block's bytes, with its hash, and where they are from; nil: nobody has them who could be asked.
    mutating func find(
        _ block: LostBlock, _ context: SiteContext
    ) async throws -> (content: [UInt8], source: String)? {
        let directories = self.directories
        let content = try await onBlockingThread { HeadDamage.content(of: block, in: directories) }
        if let content { return (content, block.knownContent == nil ? "another state here" : "its hash") }
        for peer in peers {
            do {
                let found = try await Self.ask(peer, for: block, of: volume, context)
                if let found { return (found, "site \(peer)") }
            } catch {
                try Task.checkCancellation()
                context.logger.debug("site \(peer) was asked for a damaged block: \(error)")
                // Not for each block anew.
                peers.removeAll { $0 == peer }
                answered.remove(peer)
            }
        }
        return nil
    }

    /// Waits where a peer bears no more questions for now: it bears some each minute (`PeerLimits`).
    private static func ask(
        _ peer: SiteID, for block: LostBlock, of volume: VolumeID, _ context: SiteContext
    ) async throws -> [UInt8]? {
        let end = ContinuousClock.now + .seconds(70)
        while true {
            try Task.checkCancellation()
            do {
                return try await context.client(of: peer).restore(block, of: volume)
            } catch PeerError.call(_, _, let status)
                where status.code == .resourceExhausted && ContinuousClock.now < end
            {
                try await Task.sleep(for: .seconds(5))
            }
        }
    }
}
