internal import Glibc

/// Why a test tool could not do what it was asked for.
package enum LabError: Error, Equatable, CustomStringConvertible {
    /// A system call failed; `detail` says on what.
    case systemCall(String, detail: String, errno: Int32)
    /// No such program on this machine.
    case programMissing(String)
    /// A program ended otherwise than with success; `output` is the end of what it wrote.
    case programFailed(String, exit: ProcessExit, output: String)
    /// It took longer than allowed.
    case tooSlow(String, limit: Duration)
    /// An argument or an answer makes no sense; the text says which and why.
    case invalid(String)
    /// The thing was closed already, or was never started.
    case notRunning(String)

    package var description: String {
        switch self {
        case .systemCall(let call, let detail, let number):
            "\(call) failed on \(detail): \(String(cString: strerror(number))) (errno \(number))"
        case .programMissing(let name):
            "the program \(name) is not installed"
        case .programFailed(let name, let exit, let output):
            "\(name) \(exit): \(output.isEmpty ? "it wrote nothing" : output)"
        case .tooSlow(let what, let limit):
            "\(what) took longer than \(limit)"
        case .invalid(let reason), .notRunning(let reason):
            reason
        }
    }
}

/// Makes an error of the negative error numbers that the C functions return.
func checked(_ result: Int32, _ call: String, _ detail: @autoclosure () -> String) throws(LabError) -> Int32 {
    guard result < 0 else { return result }
    throw .systemCall(call, detail: detail(), errno: -result)
}

/// The same for calls of the C library, which return -1 and set errno. Reads errno at once.
func checkedCall(
    _ call: String, _ detail: @autoclosure () -> String, _ body: () -> Int
) throws(LabError) -> Int {
    while true {
        let result = body()
        guard result < 0 else { return result }
        let number = errno
        if number == EINTR { continue }
        throw .systemCall(call, detail: detail(), errno: number)
    }
}

extension Duration {
    /// Whole nanoseconds, at most about 292 years.
    var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        guard !overflow else { return seconds < 0 ? .min : .max }
        let (sum, sumOverflow) = product.addingReportingOverflow(attoseconds / 1_000_000_000)
        return sumOverflow ? (seconds < 0 ? .min : .max) : sum
    }

    /// The same as a fraction, for people and for rates.
    package var seconds: Double { Double(nanoseconds) / 1e9 }
}
