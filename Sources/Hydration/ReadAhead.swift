internal import VolumeModel

/// What is to be fetched ahead of programs that read files in sequence: of each such file how far has been asked, and how far is
/// wanted.
struct ReadAhead: Sendable {
    private struct Stream {
        /// What is before has been asked for.
        var next: UInt64
        var end: UInt64
        var wanted: ContinuousClock.Instant
        var requestCount = 0
    }

    private static let patience: Duration = .seconds(1)

    private var streams: [InodeNumber: Stream] = [:]

    var isEmpty: Bool { streams.isEmpty }

    /// Whether anything is on its way to a reader that has asked for something lately.
    func isAwaited(at now: ContinuousClock.Instant) -> Bool {
        streams.values.contains { now - $0.wanted < Self.patience }
    }

    /// Wants a range as well, if it adjoins what is wanted of that file; instead of it, if it lies elsewhere.
    mutating func want(_ range: ByteRange, of inode: InodeNumber, at now: ContinuousClock.Instant) {
        var stream = streams[inode] ?? Stream(next: range.start, end: range.start, wanted: now)
        stream.wanted = now
        if range.start > stream.end || range.end < stream.next {
            (stream.next, stream.end) = (range.start, range.end)
        } else {
            stream.end = max(stream.end, range.end)
        }
        streams[inode] = stream
    }

    /// - Parameter requestLimit: how many requests may be under way: an equal share for each file, and one at least.
    /// - Returns: where to look for what is missing and ask for it, and then `asked` is told; nil: nowhere, for now.
    func wanted(of inode: InodeNumber, requestLimit: Int) -> ByteRange? {
        guard let stream = streams[inode], stream.next < stream.end,
            stream.requestCount < max(1, requestLimit / streams.count)
        else { return nil }
        return ByteRange(stream.next, stream.end)
    }

    /// - Parameters:
    ///   - wanted: as it was given.
    ///   - offset: before which nothing is left to be asked for.
    ///   - isRequest: whether there is a request for it, of which `ended` is told.
    /// - Returns: false: something else is wanted by now, and nothing is to be asked for.
    mutating func asked(_ wanted: ByteRange, of inode: InodeNumber, upTo offset: UInt64, isRequest: Bool)
        -> Bool
    {
        guard var stream = streams[inode], stream.next == wanted.start else { return false }
        stream.next = offset
        if isRequest { stream.requestCount += 1 }
        streams[inode] = stream
        forgetIfDone(inode)
        return true
    }

    /// A request for a file's bytes has ended. If it has failed nothing more of that file is wanted.
    mutating func ended(of inode: InodeNumber, hasFailed: Bool) {
        guard var stream = streams[inode] else { return }
        stream.requestCount -= 1
        if hasFailed { stream.end = stream.next }
        streams[inode] = stream
        forgetIfDone(inode)
    }

    private mutating func forgetIfDone(_ inode: InodeNumber) {
        guard let stream = streams[inode], stream.requestCount == 0, stream.next >= stream.end else { return }
        streams[inode] = nil
    }
}
