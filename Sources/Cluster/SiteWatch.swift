internal import Synchronization

/// Whether the site beside a controller answers.
///
/// A controller without its site does nothing, and as the leader it would keep another from working whose site answers. So
/// it gives the lease up after a while of silence (`silence`), and until its site answers it stands only for a lease that
/// nobody else takes (`isAnswering`).
package final class SiteWatch: Sendable {
    private struct State {
        /// What the last question came to.
        var isAnswering = false
        var answered: ContinuousClock.Instant?
    }

    private let patience: Duration
    private let ask: @Sendable () async -> Bool
    private let state = Mutex(State())

    /// - Parameters:
    ///   - patience: how long a leader waits for an answer.
    ///   - ask: whether there is an answer now. It may take as long as it likes: it is cancelled.
    package init(patience: Duration, ask: @escaping @Sendable () async -> Bool) {
        self.patience = patience
        self.ask = ask
    }

    package var isAnswering: Bool { state.withLock { $0.isAnswering } }

    /// Asks until cancelled.
    package func run() async {
        while !Task.isCancelled {
            await look()
            try? await Task.sleep(for: patience / 6)
        }
    }

    /// Asks once.
    package func look() async {
        let isAnswered = await withTaskGroup(of: Bool.self) { [ask, patience] group in
            group.addTask { await ask() }
            group.addTask {
                try? await Task.sleep(for: patience / 3)
                return false
            }
            defer { group.cancelAll() }
            return await group.next() ?? false
        }
        state.withLock { state in
            state.isAnswering = isAnswered
            if isAnswered { state.answered = .now }
        }
    }

    /// Returns when there was no answer for as long as the patience lasts, from now on.
    package func silence() async throws {
        let begun = ContinuousClock.now
        while true {
            let since = max(begun, state.withLock { $0.answered } ?? begun)
            let left = since + patience - ContinuousClock.now
            guard left > .zero else { return }
            try await Task.sleep(for: left)
        }
    }
}

extension SiteControl {
    /// Whether the site says anything at all.
    package func answers() async -> Bool {
        do throws(SiteControlError) {
            _ = try await info()
            return true
        } catch {
            return !error.isTransient
        }
    }
}
