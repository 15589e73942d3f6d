internal import Glibc
internal import Synchronization

/// A stack of actions that take back what a program did to the machine. They run last first: at the end, when
/// an error is thrown, and on SIGINT, SIGTERM and SIGHUP.
///
/// Register an action *before* making the thing, and let it succeed when there is nothing to take back: then
/// there is no moment at which a signal leaves something behind.
package final class Cleanup: Sendable {
    package struct Failure: Error, Sendable, CustomStringConvertible {
        package let what: String
        package let reason: String
        package var description: String { "\(what): \(reason)" }
    }

    /// Names a registered action.
    package struct Ticket: Hashable, Sendable {
        fileprivate let number: UInt64
    }

    private struct Action: Sendable {
        let ticket: Ticket
        let what: String
        let limit: Duration
        let undo: @Sendable () async throws -> Void
    }

    private struct State {
        var actions: [Action] = []
        var nextTicket: UInt64 = 0
        var undoing: Task<[Failure], Never>?
        var hasEnded = false
    }

    private let state = Mutex(State())

    package init() {}

    /// Puts an action on top of the stack.
    ///
    /// - Parameter limit: After this the action counts as failed, and the next one runs.
    /// - Throws: `.notRunning` if everything was taken back already: make nothing more.
    @discardableResult
    package func add(
        _ what: String, limit: Duration = .seconds(30), _ undo: @escaping @Sendable () async throws -> Void
    ) throws -> Ticket {
        try state.withLock { state in
            guard !state.hasEnded else {
                throw LabError.notRunning("too late for \(what): cleaning up has ended")
            }
            let ticket = Ticket(number: state.nextTicket)
            state.nextTicket += 1
            state.actions.append(Action(ticket: ticket, what: what, limit: limit, undo: undo))
            return ticket
        }
    }

    /// Takes an action off the stack, because the thing is gone or is to stay.
    package func forget(_ ticket: Ticket) {
        state.withLock { $0.actions.removeAll { $0.ticket == ticket } }
    }

    /// Runs one action now and takes it off the stack. Without effect if it ran already.
    package func undo(_ ticket: Ticket) async throws {
        let action = state.withLock { state -> Action? in
            guard let index = state.actions.firstIndex(where: { $0.ticket == ticket }) else { return nil }
            return state.actions.remove(at: index)
        }
        guard let action else { return }
        try await withLimit(action.limit, action.what, action.undo)
    }

    /// Runs all actions, last first, also those added meanwhile. Whoever calls second waits for the first.
    ///
    /// - Returns: what could not be taken back.
    @discardableResult
    package func undoAll() async -> [Failure] {
        let task = state.withLock { state in
            if let task = state.undoing { return task }
            let task = Task.detached { [self] in await run() }
            state.undoing = task
            return task
        }
        return await task.value
    }

    private func run() async -> [Failure] {
        var failures: [Failure] = []
        while true {
            let action = state.withLock { state -> Action? in
                if state.actions.isEmpty { state.hasEnded = true }
                return state.actions.popLast()
            }
            guard let action else { return failures }
            do {
                try await withLimit(action.limit, action.what, action.undo)
            } catch {
                failures.append(Failure(what: action.what, reason: "\(error)"))
            }
        }
    }
}

/// Waits for `body`, but not longer than `limit`. Work that is late is cancelled and left alone.
///
/// - Throws: `.tooSlow`, or what `body` throws.
package func withLimit<Result: Sendable>(
    _ limit: Duration, _ what: String, _ body: @escaping @Sendable () async throws -> Result
) async throws -> Result {
    let answer = FirstAnswer<Result>()
    let work = Task.detached { answer.give(await Swift.Result { try await body() }) }
    let clock = Task.detached {
        try await Task.sleep(for: limit)
        answer.give(.failure(LabError.tooSlow(what, limit: limit)))
    }
    defer {
        work.cancel()
        clock.cancel()
    }
    return try await withTaskCancellationHandler {
        try await withCheckedThrowingContinuation { answer.wait($0) }
    } onCancel: {
        answer.give(.failure(CancellationError()))
    }
}

/// Passes on the first of several answers to the one who waits.
private final class FirstAnswer<Value: Sendable>: Sendable {
    private enum State {
        case empty
        case waiting(CheckedContinuation<Value, any Error>)
        case answered(Result<Value, any Error>)
        case done
    }

    private let state = Mutex(State.empty)

    func give(_ answer: Result<Value, any Error>) {
        let continuation = state.withLock { state -> CheckedContinuation<Value, any Error>? in
            switch state {
            case .empty:
                state = .answered(answer)
                return nil
            case .waiting(let continuation):
                state = .done
                return continuation
            case .answered, .done:
                return nil
            }
        }
        continuation?.resume(with: answer)
    }

    func wait(_ continuation: CheckedContinuation<Value, any Error>) {
        let answer = state.withLock { state -> Result<Value, any Error>? in
            guard case .answered(let answer) = state else {
                state = .waiting(continuation)
                return nil
            }
            state = .done
            return answer
        }
        if let answer { continuation.resume(with: answer) }
    }
}

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do {
            self = .success(try await body())
        } catch {
            self = .failure(error)
        }
    }
}
