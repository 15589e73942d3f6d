package import Hydration
package import VolumeModel

/// One way through the files of a volume that another site owns: what they have that is not here yet is taken, and what is
/// here already is compared by hash, which costs the link next to nothing.
package struct EarlyPass: Sendable {
    /// Bytes of one question. An answer holds no more.
    private static let portion = UInt64(PeerLimits.readAnswerByteCount)
    /// Questions under way at a time.
    private static let lanes = 4
    /// Files that are looked at ahead of those that are asked for.
    private static let queueLength = 4096

    /// How the owner is asked.
    package typealias Reader = @Sendable (_ asked: [Extent], _ own: [Extent: [UInt8]]) async throws -> [Piece]

    /// What became of it.
    package struct Outcome: Hashable, Sendable {
        /// Bytes that came and were not here.
        package var takenByteCount: UInt64 = 0
        package var comparedByteCount: UInt64 = 0
        /// Files that the owner could not give whole: they have changed since they were listed, or are not at the owner either.
        package var skippedCount = 0
    }

    private let bytes: EarlyBytes
    private let copy: OwnCopy?
    private let read: Reader
    private let pause: @Sendable (_ takenByteCount: UInt64) async throws -> Void

    /// - Parameters:
    ///   - copy: of an earlier state that is kept here: its bytes are not taken again.
    ///   - pause: called between questions with what has just come. Throws to end the pass.
    package init(
        into bytes: EarlyBytes, beside copy: OwnCopy? = nil,
        pause: @escaping @Sendable (_ takenByteCount: UInt64) async throws -> Void, read: @escaping Reader
    ) {
        self.bytes = bytes
        self.copy = copy
        self.pause = pause
        self.read = read
    }

    /// A file and what was not asked for yet.
    private struct Pending {
        let file: EarlyFile
        var ranges: [ByteRange]
    }

    private struct Question: Sendable {
        let asked: [Extent]
        let own: [Extent: [UInt8]]
    }

    /// Goes through all files. May be repeated: those that have not changed since cost a look.
    ///
    /// - Parameter files: some of those above a number, ascending; none at the end.
    /// - Throws: what the link or the disk say; then it is to be tried again.
    package func run(_ files: (_ after: InodeNumber) throws -> [EarlyFile]) async throws -> Outcome {
        var outcome = Outcome()
        var queue: [InodeNumber: Pending] = [:]
        var order: [InodeNumber] = []
        var last = InodeNumber(0)
        var isListed = false
        while true {
            try Task.checkCancellation()
            while !isListed, order.count < Self.queueLength / 2 {
                let page = try files(last)
                guard let end = page.last?.inode else {
                    isListed = true
                    break
                }
                last = end
                for file in page where !bytes.isCurrent(file) {
                    queue[file.inode] = Pending(file: file, ranges: [ByteRange(0, file.size)])
                    order.append(file.inode)
                }
            }
            guard !order.isEmpty else { return outcome }
            let questions = await questions(order, &queue)
            let answers = try await ask(questions)
            var taken: UInt64 = 0
            for (question, answer) in zip(questions, answers) {
                guard let answer else {
                    // The first extent of it is what cannot be had.
                    if let inode = question.asked.first?.inode, queue.removeValue(forKey: inode) != nil {
                        outcome.skippedCount += 1
                    }
                    for rest in question.asked { queue[rest.inode]?.ranges.append(rest.range) }
                    continue
                }
                taken += try note(answer, to: question, &queue, &outcome)
            }
            for inode in order {
                guard let pending = queue[inode], pending.ranges.isEmpty else { continue }
                try bytes.finish(pending.file)
                queue[inode] = nil
            }
            order.removeAll { queue[$0] == nil }
            outcome.takenByteCount += taken
            try await pause(taken)
        }
    }

    /// Takes as much off the queue as is asked for at a time.
    private func questions(_ order: [InodeNumber], _ queue: inout [InodeNumber: Pending]) async -> [Question]
    {
        var questions: [Question] = []
        var wanted: [Extent] = []
        var room = Self.portion
        func ask() async {
            let (asked, own) = await bytes.question(wanted) { await copy?.bytes(of: $0.inode, in: $0.range) }
            questions.append(Question(asked: asked, own: own))
            (wanted, room) = ([], Self.portion)
        }
        for inode in order {
            while questions.count < Self.lanes, let range = queue[inode]?.ranges.popLast() {
                let part = ByteRange(range.start, min(range.end, range.start + room))
                if part.end < range.end { queue[inode]?.ranges.append(ByteRange(part.end, range.end)) }
                wanted.append(Extent(inode: inode, range: part))
                room -= part.byteCount
                // Of a portion there are few blocks, so that a question holds all of it.
                if room == 0 || wanted.count == PeerLimits.extentCount / 4 { await ask() }
            }
            guard questions.count < Self.lanes else { return questions }
        }
        if !wanted.isEmpty { await ask() }
        return questions
    }

    /// - Returns: for each question what was answered; nil: its first extent cannot be had of the owner.
    private func ask(_ questions: [Question]) async throws -> [[Piece]?] {
        try await withThrowingTaskGroup(of: (Int, [Piece]?).self) { group in
            for (index, question) in questions.enumerated() {
                let read = self.read
                group.addTask {
                    do {
                        return (index, try await read(question.asked, question.own))
                    } catch PeerError.call(_, _, let status)
                        where status.code == .notFound || status.code == .dataLoss
                    {
                        return (index, nil)
                    }
                }
            }
            var answers: [[Piece]?] = Array(repeating: nil, count: questions.count)
            for try await (index, pieces) in group { answers[index] = pieces }
            return answers
        }
    }

    /// Keeps what came; what was not answered is asked for again.
    ///
    /// - Returns: how many bytes came that were not here.
    private func note(
        _ pieces: [Piece], to question: Question, _ queue: inout [InodeNumber: Pending],
        _ outcome: inout Outcome
    ) throws -> UInt64 {
        var taken: UInt64 = 0
        for piece in pieces {
            guard !piece.isOwn else {
                outcome.comparedByteCount += piece.range.byteCount
                continue
            }
            guard let size = queue[piece.inode]?.file.size, piece.range.start < size else { continue }
            let range = ByteRange(piece.range.start, min(piece.range.end, size))
            // A hole is named whole.
            let kept =
                piece.content == .zeros ? Piece(inode: piece.inode, range: range, content: .zeros) : piece
            try bytes.put(kept)
            if piece.content != .zeros { taken += piece.range.byteCount }
        }
        // A prefix of what was asked was answered, in order.
        guard !pieces.isEmpty else { throw PeerError.malformed(site: nil, "an empty answer") }
        guard let last = pieces.last,
            let index = question.asked.firstIndex(where: {
                $0.inode == last.inode && $0.range.start <= last.range.start
                    && last.range.start < $0.range.end
            })
        else { return taken }
        for extent in question.asked[index...] {
            let start = extent == question.asked[index] ? last.range.end : extent.range.start
            guard start < extent.range.end else { continue }
            queue[extent.inode]?.ranges.append(ByteRange(start, extent.range.end))
        }
        return taken
    }
}
