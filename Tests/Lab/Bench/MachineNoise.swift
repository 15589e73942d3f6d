internal import Foundation
internal import Glibc
internal import TestBed

/// How late this machine is by itself: on a virtual one that shares its processors, figures of some milliseconds say more
/// of the host than of what is measured.
struct MachineNoise: Sendable, Encodable {
    private static let sleep = Duration.milliseconds(1)
    private static let count = 500

    /// How much later than asked a thread that slept for a millisecond ran again, in seconds.
    let latenessP99: Double
    let latenessWorst: Double
    /// The share of processor time that the host gave to others meanwhile; 0 where it does not tell.
    let stolenShare: Double

    /// Takes about a second, in which nothing else should run.
    static func measure() async throws -> MachineNoise {
        try await DedicatedThread.run("noise") {
            let before = try ticks()
            let late = (0..<count).map { _ in
                let start = ContinuousClock.now
                usleep(1000)
                return max(.zero, ContinuousClock.now - start - sleep)
            }
            let after = try ticks()
            guard let series = Series(late) else { throw LabError.invalid("nobody slept") }
            let all = max(1, after.all - before.all)
            return MachineNoise(
                latenessP99: series.percentile(99), latenessWorst: series.maximum,
                stolenShare: Double(after.stolen - before.stolen) / Double(all))
        }
    }

    var text: String {
        "this machine: of \(Self.count) sleeps of 1 ms, 1 % ended more than \(BenchText.milliseconds(latenessP99)) late, "
            + "the worst \(BenchText.milliseconds(latenessWorst)); \(fixed(stolenShare * 100, 0)) % of its processors' time "
            + "went to others"
    }

    /// Of all processors since the start, in hundredths of a second (proc(5), stat: steal is the eighth).
    private static func ticks() throws -> (all: Int, stolen: Int) {
        let text = try String(contentsOfFile: "/proc/stat", encoding: .utf8)
        let fields = text.prefix { $0 != "\n" }.split(separator: " ").dropFirst().compactMap { Int($0) }
        guard fields.count >= 8 else { throw LabError.invalid("/proc/stat has another form") }
        return (fields.prefix(8).reduce(0, +), fields[7])
    }
}
