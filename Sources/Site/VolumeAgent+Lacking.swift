internal import Catalog
internal import Handoff
internal import Hydration
internal import PeerService
internal import VolumeModel

/// What a head lacks that is at no site which can be reached.
struct Lack: Hashable, Sendable {
    var byteCount: UInt64 = 0
    var fileCount: UInt64 = 0
}

/// Finding out, before a takeover by force, which bytes nobody could give: what is missing here is asked for where it
/// would be fetched from, and what is missing there, further on. Nothing is fetched for it.
extension VolumeAgent {
    /// Who would give what a head lacks, and the epoch under which it is asked.
    struct Keeper: Hashable, Sendable {
        let site: SiteID
        let reign: Epoch
        /// Of its own head, which goes on: what was followed of it.
        var through: SequenceNumber?
    }

    /// How many inodes are looked at in one go.
    private static let inodeBatch = 1024
    /// How far a question is passed on. Longer lines than sites there are would go round in a circle.
    private static let hopLimit: UInt32 = 16
    /// Parts of one question that are passed on; what a peer asks beyond is said to be lacking.
    private static let partLimit = 16 * PeerLimits.extentCount

    /// - Parameters:
    ///   - keeper: nil: what is missing is nowhere.
    ///   - silent: who did not tell what it has, which counts as lacking. Who is in it is not asked again.
    /// - Returns: nil: it was not found out until the deadline.
    func lack(
        ofHead number: UInt64, keptBy keeper: Keeper?, until deadline: ContinuousClock.Instant,
        silent: inout Set<SiteID>
    ) async throws -> Lack? {
        let catalog = try openHead(number).storage.catalog
        var lack = Lack()
        var last = InodeNumber(0)
        while ContinuousClock.now < deadline {
            let first = last
            let (inodes, missing) = try await onBlockingThread {
                try Self.missing(in: catalog, after: first)
            }
            guard let end = inodes.last else { return lack }
            last = end
            let counts = await lacking(missing, at: keeper, until: deadline, hops: 0, silent: &silent)
            guard ContinuousClock.now < deadline else { return nil }
            var files: Set<InodeNumber> = []
            for (extent, count) in zip(missing, counts) where count > 0 {
                lack.byteCount = lack.byteCount.addingClamped(count)
                files.insert(extent.inode)
            }
            lack.fileCount += UInt64(files.count)
        }
        return nil
    }

    private static func missing(
        in catalog: Catalog, after last: InodeNumber
    ) throws -> (inodes: [InodeNumber], extents: [Extent]) {
        let inodes = try catalog.perform { try $0.backedInodes(after: last, limit: inodeBatch) }
        let whole = ByteRange(0, ByteRange.maximumOffset)
        let extents = try inodes.flatMap { inode in
            try catalog.perform { try $0.missingRanges(of: inode, in: whole) }
                .map { Extent(inode: inode, range: $0) }
        }
        return (inodes, extents)
    }

    /// How many bytes of each extent whoever keeps them cannot give.
    private func lacking(
        _ extents: [Extent], at keeper: Keeper?, until deadline: ContinuousClock.Instant, hops: UInt32,
        silent: inout Set<SiteID>
    ) async -> [UInt64] {
        var counts: [UInt64] = []
        while counts.count < extents.count, let keeper, !silent.contains(keeper.site),
            ContinuousClock.now < deadline
        {
            let part = Array(extents[counts.count...].prefix(PeerLimits.extentCount))
            do {
                let told = try await context.client(of: keeper.site).lacking(
                    part, of: id, reign: keeper.reign, through: keeper.through, hops: hops,
                    within: deadline - ContinuousClock.now)
                counts += zip(told.byteCounts, part).map { min($0, $1.range.byteCount) }
                silent.formUnion(told.silent)
            } catch {
                logger.debug("site \(keeper.site) does not tell what it has: \(error)")
                // Who was asked too late is not silent: nothing is known then.
                if ContinuousClock.now < deadline { silent.insert(keeper.site) } else { break }
            }
        }
        return counts + extents[counts.count...].map(\.range.byteCount)
    }

    /// The same for a peer, of the head that is kept for a reign of it; or of the present one, for who follows it.
    ///
    /// - Throws: `PeerError.refused` when neither is so.
    func lacking(
        _ extents: [Extent], for reign: Epoch, of site: SiteID, through sequence: SequenceNumber?,
        hops: UInt32,
        within limit: Duration
    ) async throws -> (byteCounts: [UInt64], silent: Set<SiteID>) {
        let deadline = ContinuousClock.now + limit
        let (reader, source) = try keptOrFollowed(reign, by: site, through: sequence)
        let parts = try await onBlockingThread { try reader.missingParts(of: extents) }
        var counts = [UInt64](repeating: 0, count: extents.count)
        var asked: [Extent] = []
        var places: [Int] = []
        for (place, extent) in extents.enumerated() {
            guard let missing = parts[place], asked.count + missing.count <= Self.partLimit else {
                counts[place] = extent.range.byteCount
                continue
            }
            asked += missing.map { Extent(inode: extent.inode, range: $0) }
            places += missing.map { _ in place }
        }
        let keeper = hops < Self.hopLimit ? source.map { Keeper(site: $0.site, reign: $0.reign) } : nil
        var silent: Set<SiteID> = []
        let told = await lacking(
            asked, at: keeper, until: deadline, hops: min(hops, Self.hopLimit) + 1, silent: &silent)
        for (place, count) in zip(places, told) { counts[place] += count }
        return (counts, silent)
    }

    /// - Parameter sequence: what is followed of the present head. A takeover with that would be given what has not changed
    ///   since (`reader(for:of:)`).
    private func keptOrFollowed(
        _ reign: Epoch, by site: SiteID, through sequence: SequenceNumber?
    ) throws -> (HeadReader, Source?) {
        if case .owning(reign, _) = record.head.role {
            try checkServed()
            let head = try openHead(record.headNumber)
            if let sequence {
                let isKnown = try head.storage.catalog.perform {
                    try $0.isPinned(for: site.description, at: sequence)
                }
                guard isKnown else { throw notKnownSince(site) }
            }
            let seen: HeadReader.Basis = if let sequence { .through(sequence) } else { .all }
            let reader = HeadReader(storage: head.storage, hydrator: nil, seen: seen)
            return (reader, record.head.origin)
        }
        let reader = try reader(for: reign, of: site)
        let kept = record.head.keptHead(for: Reign(site, reign))
        return (reader, kept.flatMap { record.head.source(ofHead: $0) })
    }
}

extension UInt64 {
    /// The sum, or the most there is: what peers tell may be anything.
    fileprivate func addingClamped(_ other: UInt64) -> UInt64 {
        let (sum, isTooLarge) = addingReportingOverflow(other)
        return isTooLarge ? .max : sum
    }
}
