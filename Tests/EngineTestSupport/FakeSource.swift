package import Catalog
package import Hydration
import Synchronization
package import VolumeModel

/// A source that gives what a function says, and can be slow, silent, broken or short of breath.
package final class FakeSource: ByteSource, DirectorySource {
    package enum Behaviour: Sendable {
        case answers
        case fails
        /// Waits for the time-out, then fails.
        case isSilent
        /// Ignores the time-out and never answers until it behaves otherwise.
        case hangs
    }

    package struct Failure: Error, CustomStringConvertible {
        package let description: String
    }

    package struct State: Sendable {
        package var behaviour = Behaviour.answers
        package var delay: Duration = .zero
        /// Besides, for what an application waits for.
        package var urgentDelay: Duration = .zero
        /// Whether only what an application asks for, or soon will, is answered.
        package var holdsBackground = false
        /// Most bytes in one answer.
        package var answerByteCount = 1 << 20
        /// Whether a hole is named to its end, also beyond what was asked.
        package var namesWholeHoles = false
        /// Inodes that it fails for.
        package var badInodes: Set<InodeNumber> = []
        /// Which inodes' bytes come from a copy that is here, and whether that is known before they are asked for.
        package var isOwn: @Sendable (InodeNumber) -> Bool = { _ in false }
        package var knowsOwn = false
        package var requests: [(extents: [Extent], urgency: Urgency)] = []
        /// If set, gives the answer instead.
        package var answer: (@Sendable ([Extent]) throws -> [Piece])?
        /// The catalog whose directories it lists; nil: it has none.
        package var catalog: Catalog?
        /// Most bytes of rows in one answer.
        package var listingByteCount = 1 << 20
        /// Whether only what somebody waits for is listed.
        package var holdsListings = false
        package var listings: [Listing] = []
        /// If set, gives the answer instead.
        package var listingAnswer: (@Sendable (ListingRequest) throws -> Listing)?
    }

    package let name = "site elsewhere"
    package let state: Mutex<State>
    private let content: @Sendable (InodeNumber) -> [UInt8]?

    /// - Parameter content: all bytes of a file; nil: there is no such file.
    package init(
        _ content: @escaping @Sendable (InodeNumber) -> [UInt8]?, _ prepare: (inout State) -> Void = { _ in }
    ) {
        self.content = content
        var state = State()
        prepare(&state)
        self.state = Mutex(state)
    }

    package func set(_ change: (inout State) -> Void) { state.withLock { change(&$0) } }

    package var requests: [(extents: [Extent], urgency: Urgency)] { state.withLock { $0.requests } }
    package var requestedByteCount: UInt64 {
        requests.reduce(0) { $0 + $1.extents.reduce(0) { $0 + $1.range.byteCount } }
    }

    package func read(_ extents: [Extent], urgency: Urgency, timeout: Duration) async throws -> [Piece] {
        let now = state.withLock { state in
            state.requests.append((extents, urgency))
            return state
        }
        while urgency == .background, state.withLock({ $0.holdsBackground }) {
            try await Task.sleep(for: .milliseconds(2))
        }
        let delay = now.delay + (urgency == .urgent ? now.urgentDelay : .zero)
        if delay > .zero { try await Task.sleep(for: delay) }
        switch now.behaviour {
        case .answers: break
        case .fails: throw Failure(description: "the line is down")
        case .isSilent:
            try await Task.sleep(for: timeout)
            throw Failure(description: "deadline exceeded")
        case .hangs:
            while case .hangs = state.withLock({ $0.behaviour }) {
                // Deaf to cancellation as well.
                await Task { try? await Task.sleep(for: .milliseconds(5)) }.value
            }
        }
        if let answer = now.answer { return try answer(extents) }
        return try pieces(of: extents, now)
    }

    package func linkByteCount(of extents: [Extent]) async throws -> UInt64 {
        let (knowsOwn, isOwn) = state.withLock { ($0.knowsOwn, $0.isOwn) }
        return extents.reduce(0) { $0 + (knowsOwn && isOwn($1.inode) ? 0 : $1.range.byteCount) }
    }

    /// What has been listed.
    package var listings: [Listing] { state.withLock { $0.listings } }

    package func list(
        _ request: ListingRequest, urgency: Urgency, timeout: Duration
    ) async throws -> Listing {
        while urgency != .urgent, state.withLock({ $0.holdsListings }) {
            try await Task.sleep(for: .milliseconds(2))
        }
        let now = state.withLock { $0 }
        if now.delay > .zero { try await Task.sleep(for: now.delay) }
        guard case .answers = now.behaviour, let catalog = now.catalog else {
            throw Failure(description: "the line is down")
        }
        var request = request
        request.byteCount = min(request.byteCount, now.listingByteCount)
        let listing = try now.listingAnswer?(request) ?? catalog.list(request).asSent()
        state.withLock { $0.listings.append(listing) }
        return listing
    }

    private func pieces(of extents: [Extent], _ state: State) throws -> [Piece] {
        var room = state.answerByteCount
        var pieces: [Piece] = []
        for extent in extents {
            guard !state.badInodes.contains(extent.inode), let bytes = content(extent.inode) else {
                throw Failure(description: "no bytes of inode \(extent.inode)")
            }
            var position = Int(extent.range.start)
            let end = Int(extent.range.end)
            while position < end {
                guard room > 0 else { return pieces }
                let run = Self.run(in: bytes, from: position)
                if run.isZero {
                    let stop = state.namesWholeHoles ? max(run.end, position + 1) : min(run.end, end)
                    pieces.append(
                        Piece(
                            inode: extent.inode, range: ByteRange(UInt64(position), UInt64(stop)),
                            content: .zeros, isOwn: state.isOwn(extent.inode)))
                    position = stop
                } else {
                    let stop = min(run.end, end, position + room)
                    pieces.append(
                        Piece(
                            inode: extent.inode, range: ByteRange(UInt64(position), UInt64(stop)),
                            content: .bytes(Array(bytes[position..<stop])),
                            isOwn: state.isOwn(extent.inode)))
                    room -= stop - position
                    position = stop
                }
            }
        }
        return pieces
    }

    /// The run of zeros or of other bytes that begins at a position; what is beyond the end is zero.
    private static func run(in bytes: [UInt8], from position: Int) -> (isZero: Bool, end: Int) {
        guard position < bytes.count else { return (true, Int.max / 2) }
        // Only runs of whole blocks count as holes.
        let block = 512
        func isZero(_ start: Int) -> Bool {
            bytes[start..<min(bytes.count, start + block)].allSatisfy { $0 == 0 }
        }
        let first = isZero(position)
        var end = position
        while end < bytes.count, isZero(end) == first { end += block }
        return (first, min(end, max(bytes.count, position + 1)))
    }
}

extension Listing {
    /// As it comes over the wire: without what is local to the origin.
    package func asSent() throws -> Listing {
        func sent(_ rows: [CatalogRow]) throws -> [CatalogRow] {
            var bytes: [UInt8] = []
            for row in rows { CatalogRowCoder.append(row, to: &bytes) }
            return try CatalogRowCoder.rows(of: bytes)
        }
        return Listing(singles: try sent(singles), parts: parts, rows: try sent(rows))
    }
}
