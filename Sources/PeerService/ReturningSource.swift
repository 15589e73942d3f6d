package import Hydration
internal import RPC
internal import Synchronization
package import VolumeModel

/// The origin of a head that was here before: a peer, and beside it the copy of what this site gave away.
///
/// The peer tells once which bytes have changed since, at whichever sites that was; what has not is taken from the copy,
/// without a word over the link. Where that is not known (a crash or a takeover by force in between, a site that did not
/// get to know of it, a state of the same number and another name) the hashes of our own pieces are sent and the peer says which it has alike. Nothing is taken for
/// unchanged for any other reason.
package final class ReturningSource: ByteSource, DirectorySource {
    /// Bytes that are taken from the copy, or compared, at a time.
    private static let portion: UInt64 = 1 << 20
    /// Bytes that are compared by one hash: what a change there costs.
    private static let comparedByteCount: UInt64 = 64 << 10
    /// Memory for what has changed; files beyond count as changed.
    private static let memoryByteCount = 64 << 20
    private static let pageTimeout: Duration = .seconds(20)

    private let peer: PeerSource
    /// Opens the copy: not before something is asked for, so that the hand-off does not wait for it.
    private let openCopy: @Sendable () async -> OwnCopy?
    private let log: @Sendable (String) -> Void
    private let state = Mutex(State())

    private struct State {
        var known: Known?
        var asking: Task<Known, any Error>?
    }

    /// What the peer has told, and of which copy.
    private struct Known {
        /// nil: there is none after all.
        var copy: OwnCopy?
        var kind: ChangesSince.Kind
        var firstNewInode = InodeNumber(0)
        var changed: [InodeNumber: ChangedBytes] = [:]
        /// Of inodes above this nothing was told.
        var last = InodeNumber(.max)
    }

    package init(
        peer: PeerSource, log: @escaping @Sendable (String) -> Void,
        openCopy: @escaping @Sendable () async -> OwnCopy?
    ) {
        self.peer = peer
        self.openCopy = openCopy
        self.log = log
    }

    package var name: String { peer.name }

    package func list(
        _ request: ListingRequest, urgency: Urgency, timeout: Duration
    ) async throws -> Listing {
        try await peer.list(request, urgency: urgency, timeout: timeout)
    }

    package func read(
        _ extents: [Extent], urgency: Urgency, timeout: Duration
    ) async throws -> [Piece] {
        guard let known = try await known(isUrgent: urgency == .urgent), let copy = known.copy,
            !copy.isGivenUp
        else { return try await peer.read(extents, urgency: urgency, timeout: timeout) }
        guard known.kind == .exact, copy.isCertain else {
            return try await compare(extents, known, copy, urgency: urgency, timeout: timeout)
        }
        var (pieces, rest) = await take(extents, known, copy)
        guard !rest.isEmpty else { return pieces }
        do {
            rest = Array(rest.prefix(PeerLimits.extentCount))
            pieces += try await peer.read(rest, urgency: urgency, timeout: timeout)
        } catch {
            // What is here is here; the rest is asked for again, and its failure told then.
            if pieces.isEmpty { throw error }
        }
        return pieces
    }

    /// Exact where it is known what has changed; else all of it, until the answer tells.
    package func linkByteCount(of extents: [Extent]) async throws -> UInt64 {
        let known = try await known(isUrgent: false)
        return extents.reduce(0) { sum, extent in
            guard let known, let copy = known.copy, !copy.isGivenUp, copy.isCertain, known.kind == .exact,
                extent.inode < known.firstNewInode, extent.inode <= known.last
            else { return sum + extent.range.byteCount }
            let parts = known.changed[extent.inode]?.parts(of: extent.range) ?? []
            return parts.reduce(sum) { $0 + ($1.isChanged ? $1.range.byteCount : 0) }
        }
    }

    // MARK: what is known

    /// - Returns: nil when an application would wait for the answer, or the peer refuses it at present: of an owner that went
    ///   back in time it cannot be known, and bytes that have not changed come all the same.
    private func known(isUrgent: Bool) async throws -> Known? {
        let (known, asking) = state.withLock { state -> (Known?, Task<Known, any Error>?) in
            if let known = state.known { return (known, nil) }
            if let asking = state.asking { return (nil, asking) }
            let asking = Task { try await self.ask() }
            state.asking = asking
            return (nil, asking)
        }
        if let known { return known }
        guard !isUrgent, let asking else { return nil }
        do {
            return try await asking.value
        } catch PeerError.call(_, _, let status) where status.code == .failedPrecondition {
            return nil
        }
    }

    private func ask() async throws -> Known {
        do {
            let copy = await openCopy()
            var known = Known(kind: .unknown)
            if let copy { known = try await askAll(copy) }
            state.withLock { state in
                state.known = known
                state.asking = nil
            }
            guard let copy else { return known }
            switch known.kind {
            case .exact where copy.isCertain:
                log(
                    "\(known.changed.count) files have changed since epoch \(copy.heir), others are taken from here"
                )
            case .exact, .uncertain, .unknown:
                log(
                    "what has changed since epoch \(copy.heir) is not known for sure: pieces are compared by hash"
                )
            }
            return known
        } catch {
            state.withLock { $0.asking = nil }
            throw error
        }
    }

    private func askAll(_ copy: OwnCopy) async throws -> Known {
        var known: Known?
        var after = InodeNumber(0)
        var byteCount = 0
        while true {
            let part: ChangesSince
            do {
                part = try await peer.changes(since: copy.heir, after: after, timeout: Self.pageTimeout)
                    .told(since: copy.name)
            } catch PeerError.malformed {
                // Asked again it would be the same.
                return Known(copy: copy, kind: .unknown)
            }
            var sum = known ?? Known(copy: copy, kind: part.kind, firstNewInode: part.firstNewInode)
            guard sum.kind == part.kind, sum.firstNewInode == part.firstNewInode else {
                return Known(copy: copy, kind: .unknown)
            }
            for item in part.inodes {
                byteCount += item.bytes.bits.count + 64
                sum.changed[item.inode] = item.bytes
                after = item.inode
            }
            if part.isComplete { return sum }
            sum.last = after
            if byteCount > Self.memoryByteCount { return sum }
            sum.last = InodeNumber(.max)
            known = sum
        }
    }

    // MARK: what has not changed

    /// Takes what has not changed from the copy, about a portion of it.
    ///
    /// - Returns: that, and what is to be asked for.
    private func take(
        _ extents: [Extent], _ known: Known, _ copy: OwnCopy
    ) async -> (pieces: [Piece], rest: [Extent]) {
        var pieces: [Piece] = []
        var rest: [Extent] = []
        var room = Self.portion
        for extent in extents {
            guard extent.inode < known.firstNewInode, extent.inode <= known.last else {
                rest.append(extent)
                continue
            }
            let changed = known.changed[extent.inode]
            for part in changed?.parts(of: extent.range) ?? [(extent.range, false)] {
                var position = part.range.start
                while !part.isChanged, room > 0, position < part.range.end {
                    let wanted = ByteRange(position, min(part.range.end, position + room))
                    let found = await copy.pieces(of: extent.inode, in: wanted)
                    guard !found.isEmpty else { break }
                    for piece in found where position < part.range.end {
                        // A hole is taken whole, as far as nothing of it has changed.
                        let end = min(
                            piece.range.end,
                            max(part.range.end, changed?.firstChange(from: position) ?? .max))
                        pieces.append(
                            Piece(
                                inode: extent.inode, range: ByteRange(position, end), content: piece.content,
                                isOwn: true))
                        if piece.content != .zeros { room -= min(room, end - position) }
                        position = end
                    }
                }
                // Unchanged and beyond this portion: next time, unless nothing else would come.
                let isLater = !part.isChanged && room == 0
                if position < part.range.end, !isLater {
                    rest.append(Extent(inode: extent.inode, range: ByteRange(position, part.range.end)))
                }
            }
        }
        return (pieces, rest)
    }

    // MARK: what may have changed

    /// Sends the hashes of what is here, and takes what the peer has alike from here.
    private func compare(
        _ extents: [Extent], _ known: Known, _ copy: OwnCopy, urgency: Urgency, timeout: Duration
    ) async throws -> [Piece] {
        var asked: [Extent] = []
        var own: [Extent: [UInt8]] = [:]
        var room = Self.portion
        for extent in extents {
            guard asked.count < PeerLimits.extentCount, room > 0 else { break }
            guard known.kind == .unknown || extent.inode < known.firstNewInode else {
                asked.append(extent)
                continue
            }
            var position = extent.range.start
            while position < extent.range.end, asked.count < PeerLimits.extentCount, room > 0 {
                let end = min(
                    extent.range.end,
                    (position / Self.comparedByteCount + 1) * Self.comparedByteCount)
                let part = Extent(inode: extent.inode, range: ByteRange(position, end))
                guard let bytes = await copy.bytes(of: extent.inode, in: part.range) else {
                    // Nothing to compare with, or a hole: the answer says how far that goes.
                    asked.append(Extent(inode: extent.inode, range: ByteRange(position, extent.range.end)))
                    break
                }
                asked.append(part)
                own[part] = bytes
                room -= min(room, part.range.byteCount)
                position = end
            }
        }
        return try await peer.read(asked, own: own, urgency: urgency, timeout: timeout)
            .flatMap { piece in
                guard piece.isOwn else { return [piece] }
                return HeadReader.split(piece).map {
                    Piece(inode: $0.inode, range: $0.range, content: $0.content, isOwn: true)
                }
            }
    }
}
