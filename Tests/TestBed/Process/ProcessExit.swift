/// How a program ended.
package enum ProcessExit: Hashable, Sendable, CustomStringConvertible {
    case exited(Int32)
    case signalled(Int32)

    /// - Parameter status: as wait4(2) gives it.
    init(waitStatus status: Int32) {
        let signal = status & 0x7f
        self = signal == 0 ? .exited((status >> 8) & 0xff) : .signalled(signal)
    }

    package var isSuccess: Bool { self == .exited(0) }

    package var description: String {
        switch self {
        case .exited(0): "ended well"
        case .exited(let code): "ended with code \(code)"
        case .signalled(let number): "was ended by signal \(number)"
        }
    }
}

/// What a program used, with all children of it that it waited for.
package struct ProcessUsage: Hashable, Sendable {
    package let userTime: Duration
    package let systemTime: Duration
    package let peakResidentByteCount: Int

    package var processorTime: Duration { userTime + systemTime }
}
