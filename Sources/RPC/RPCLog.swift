internal import Synchronization

/// What gRPC itself writes about connections and handshakes; to standard error unless directed elsewhere.
package enum RPCLog {
    package enum Severity: Int32, Sendable {
        case debug = 0
        case information
        case error
    }

    package typealias Sink = @Sendable (_ severity: Severity, _ line: String) -> Void

    /// Sends the library's lines to `sink` from now on, on any thread; nil drops them.
    package static func direct(from minimum: Severity = .error, to sink: Sink?) {
        current.withLock { $0 = sink }
        Native.setLog(minimum: minimum.rawValue, isWanted: sink != nil)
    }

    private static let current = Mutex<Sink?>(nil)

    static func write(severity: Int32, line: String) {
        let sink = current.withLock { $0 }
        sink?(Severity(rawValue: severity) ?? .error, line)
    }
}
