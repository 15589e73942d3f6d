internal import CTestBed
internal import Glibc
internal import Synchronization

extension Cleanup {
    /// The signals that end a scope in order.
    package static let signals = [SIGINT, SIGTERM, SIGHUP]

    /// Runs `body`, and then, however it ends, takes back what it registered.
    ///
    /// On a signal: cancels `body`, gives it five seconds to end, takes everything back, and exits with 128
    /// plus the signal's number (130 for SIGINT, 143 for SIGTERM). The third signal exits at once. One scope
    /// that catches signals at a time.
    ///
    /// - Parameter report: Gets a line for each thing that could not be taken back.
    package static func scope<Value: Sendable>(
        catchingSignals: Bool = true, report: @escaping @Sendable (String) -> Void = writeError,
        _ body: @escaping @Sendable (Cleanup) async throws -> Value
    ) async throws -> Value {
        let cleanup = Cleanup()
        let work = Task { try await body(cleanup) }
        let finish: @Sendable () async -> Void = {
            for failure in await cleanup.undoAll() { report("not cleaned up: \(failure)") }
        }
        if catchingSignals {
            do {
                try SignalListener.shared.begin { signal in
                    Task.detached {
                        work.cancel()
                        _ = try? await withLimit(.seconds(5), "the work") { await work.result }
                        await finish()
                        exit(128 + signal)
                    }
                }
            } catch {
                work.cancel()
                _ = await work.result
                await finish()
                throw error
            }
        }
        let result = await withTaskCancellationHandler {
            await work.result
        } onCancel: {
            work.cancel()
        }
        await finish()
        if catchingSignals, SignalListener.shared.end() {
            // A signal came: the exit is near, and its code must be the signal's.
            while true { try? await Task.sleep(for: .seconds(1)) }
        }
        return try result.get()
    }
}

/// Writes a line to standard error.
@Sendable
package func writeError(_ line: String) {
    var bytes = Array((line + "\n").utf8)
    _ = write(2, &bytes, bytes.count)
}

/// Hears the signals that would end this process.
private final class SignalListener: Sendable {
    static let shared = SignalListener()

    private struct State {
        var handler: (@Sendable (Int32) -> Void)?
        var isListening = false
        var count = 0
    }

    private let state = Mutex(State())

    func begin(_ handler: @escaping @Sendable (Int32) -> Void) throws(LabError) {
        try state.withLock { state throws(LabError) in
            guard state.handler == nil else { throw .invalid("signals are caught by another scope already") }
            // The pipe is made once; a later scope finds the thread running and only catches again.
            if !state.isListening {
                let pipe = try checked(
                    tb_catch_signals(Cleanup.signals, Cleanup.signals.count), "sigaction", "signals")
                try DedicatedThread.start("signals") { [self] in listen(pipe) }
                state.isListening = true
            } else {
                _ = try checked(
                    tb_catch_again(Cleanup.signals, Cleanup.signals.count), "sigaction", "signals")
            }
            state.handler = handler
            state.count = 0
        }
    }

    /// Lets signals have their default action again.
    ///
    /// - Returns: whether one came.
    func end() -> Bool {
        state.withLock { state in
            guard state.count == 0 else { return true }
            tb_release_signals(Cleanup.signals, Cleanup.signals.count)
            state.handler = nil
            return false
        }
    }

    private func listen(_ pipe: Int32) {
        while true {
            var byte: UInt8 = 0
            let length = read(pipe, &byte, 1)
            if length < 0, errno == EINTR { continue }
            guard length == 1 else { return }
            let (handler, count) = state.withLock { state in
                state.count += state.handler == nil ? 0 : 1
                return (state.handler, state.count)
            }
            if count == 1 { handler?(Int32(byte)) }
            if count >= 3 { _exit(128 + Int32(byte)) }
        }
    }
}
