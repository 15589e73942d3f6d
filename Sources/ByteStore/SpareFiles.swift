internal import Dispatch
internal import Glibc
internal import Synchronization
internal import VolumeModel

/// Data files that are made before they are asked for.
///
/// To make a file costs the disk's file system several times what it costs to open one, most of all an ext4 in which many
/// were deleted just now; and whoever writes the first bytes of a small file waits for it. Data files are numbered one
/// after the other: while somebody makes many, another thread makes the next ones.
///
/// Invariant: a spare is empty, and its number is one that no file of the catalog has: higher than any that was asked for,
/// which are asked for by who numbers new files, and by nobody else. What a crash leaves of
/// them nothing names; the next life makes its files over them.
final class SpareFiles: Sendable {
    /// As many lie ready at most.
    static let limit: UInt64 = 32
    /// Files made closer together than this are many.
    private static let pause = Duration.milliseconds(10)
    /// So many of them, one after the other.
    private static let run = 8
    /// Descriptors are kept for so long after the last one was asked for.
    private static let rest = Duration.seconds(2)

    fileprivate struct State {
        /// The highest number that was asked for.
        var highest: UInt64 = 0
        /// The highest number of which a spare was made, or tried.
        var made: UInt64 = 0
        /// Spares that are open, by number.
        var descriptors: [UInt64: Int32] = [:]
        /// Spares of which the descriptor was closed: they are as empty as before.
        var closed: Set<UInt64> = []
        /// Numbers whose files are just being made or deleted.
        var busy: ClosedRange<UInt64>?
        var lastRequest = ContinuousClock.now
        var runLength = 0
        var isMaking = false
        /// Whether somebody will look whether they can be closed.
        var isRestAwaited = false
        var hasEnded = false
    }

    fileprivate enum Spare {
        case absent
        case open(Int32)
        case closed
        /// Just being made or deleted.
        case busy
    }

    private let root: DataDirectory
    private let state = Mutex(State())
    /// Held while something is busy, and by who waits for that.
    private let making = Mutex(())

    init(in root: DataDirectory) { self.root = root }

    deinit { state.withLock { $0.closeAll() } }

    /// How many lie ready, and open.
    var openCount: Int { state.withLock { $0.descriptors.count } }

    /// The file of a number, if it lies ready. Each is given once.
    func take(_ number: DataFileNumber) -> Int32? {
        while true {
            let (spare, begins) = state.withLock { state -> (Spare, Bool) in
                guard state.busy?.contains(number.number) != true else { return (.busy, false) }
                let spare = state.takeSpare(number.number)
                state.note(number.number, isRunOf: Self.run, within: Self.pause, limit: Self.limit)
                let begins = state.needsSpares(runLength: Self.run, limit: Self.limit) && !state.isMaking
                if begins { state.isMaking = true }
                return (spare, begins)
            }
            if begins { DispatchQueue.global().async { self.make() } }
            switch spare {
            case .absent: return nil
            case .open(let descriptor): return descriptor
            case .closed: return try? root.open(ByteStore.name(of: number))
            case .busy: making.withLock { _ in }
            }
        }
    }

    /// Makes spares until there are enough, or nobody asks any more.
    private func make() {
        while makeOne() {}
        let isFirst = state.withLock { state in
            defer { state.isRestAwaited = true }
            return !state.isRestAwaited
        }
        if isFirst { letGoLater() }
    }

    private func letGoLater() {
        DispatchQueue.global().asyncAfter(deadline: .now() + .seconds(Int(Self.rest.components.seconds))) {
            [weak self] in
            if self?.letGo() == false { self?.letGoLater() }
        }
    }

    private func makeOne() -> Bool {
        making.withLock { _ in
            let next = state.withLock { state -> UInt64? in
                let next = max(state.highest, state.made) + 1
                guard !state.hasEnded, next <= state.highest + Self.limit else {
                    state.isMaking = false
                    return nil
                }
                state.busy = next...next
                state.made = next
                return next
            }
            guard let next else { return false }
            // One that is there already is of an earlier life: whoever asks for it empties it.
            var failure: ByteStoreError?
            var descriptor: Int32?
            do throws(ByteStoreError) {
                descriptor = try root.make(ByteStore.name(of: DataFileNumber(next)), replaces: false)
            } catch {
                failure = error
            }
            return state.withLock { state in
                state.busy = nil
                if let descriptor {
                    if next > state.highest, !state.hasEnded {
                        state.descriptors[next] = descriptor
                    } else {
                        close(descriptor)
                    }
                }
                // A disk that is full or fails is told to who asks.
                guard failure == nil || failure?.errno == .exists else {
                    state.isMaking = false
                    return false
                }
                return true
            }
        }
    }

    /// Closes what nobody has asked for in a while.
    ///
    /// - Returns: whether nothing is open any more.
    private func letGo() -> Bool {
        state.withLock { state in
            if ContinuousClock.now - state.lastRequest >= Self.rest { state.closeAll() }
            state.isRestAwaited = !state.descriptors.isEmpty
            return state.descriptors.isEmpty
        }
    }

    /// Makes no more of them, and deletes those that nobody asked for. Called before anybody else may use the directory.
    func end() {
        making.withLock { _ in
            let unused = state.withLock { state in
                state.hasEnded = true
                state.closeAll()
                state.closed = []
                state.busy = state.made > state.highest ? state.highest + 1...state.made : nil
                state.made = 0
                return state.busy
            }
            for number in unused.map(Array.init) ?? [] { deleteEmpty(number) }
            state.withLock { $0.busy = nil }
        }
    }

    /// Deletes what a crash has left of spares.
    ///
    /// - Parameter next: the number that the next data file gets.
    func deleteLeftovers(from next: DataFileNumber) {
        for number in next.number..<next.number + Self.limit { deleteEmpty(number) }
    }

    /// What cannot be deleted stays, and is found by a check.
    private func deleteEmpty(_ number: UInt64) {
        try? root.deleteEmpty(ByteStore.name(of: DataFileNumber(number)))
    }
}

extension SpareFiles.State {
    fileprivate mutating func closeAll() {
        for (number, descriptor) in descriptors {
            close(descriptor)
            closed.insert(number)
        }
        descriptors = [:]
    }

    fileprivate mutating func takeSpare(_ number: UInt64) -> SpareFiles.Spare {
        if let descriptor = descriptors.removeValue(forKey: number) { return .open(descriptor) }
        return closed.remove(number) == nil ? .absent : .closed
    }

    fileprivate mutating func note(
        _ number: UInt64, isRunOf length: Int, within pause: Duration, limit: UInt64
    ) {
        let now = ContinuousClock.now
        runLength = now - lastRequest < pause ? min(runLength + 1, length) : 0
        lastRequest = now
        guard number > highest else { return }
        highest = number
        for (other, descriptor) in descriptors where other <= number {
            close(descriptor)
            descriptors[other] = nil
            closed.insert(other)
        }
        // Those that ask side by side ask for numbers that are close together.
        closed = closed.filter { $0 + limit > number }
    }

    fileprivate func needsSpares(runLength length: Int, limit: UInt64) -> Bool {
        !hasEnded && runLength >= length && max(highest, made) < highest + limit / 2
    }
}
