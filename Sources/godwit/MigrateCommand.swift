internal import ArgumentParser
internal import ControlProtocol
internal import Foundation
internal import Glibc

/// `godwit migrate`
struct MigrateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate", abstract: "Hand a volume to another site, and follow its bytes.",
        discussion: """
            Run at the site that owns the volume. The target owns it, and can mount and write it, as soon as \
            the phase 'hydrating' is shown; its bytes stream behind. Ended at any time, the move goes on, but for \
            waiting (--wait); started again, the display goes on where it is.

            Examples:
              godwit migrate data --to sydney
              godwit migrate data --to sydney --json --wait 60
              godwit migrate data --to sydney --prepare-only --ahead
            """)

    @OptionGroup var site: SiteOptions
    @Argument(help: "The volume's name or identifier.") var volume: String
    @Option(help: "The site that is to own it.") var to: String
    @Option(
        help: ArgumentHelp(
            "Wait this long, a day at most, for the volume to be unmounted here.", valueName: "seconds"))
    var wait: Double = 0
    @Flag(help: "Only prepare the target: its catalog follows, nothing is handed over.") var prepareOnly =
        false
    @Flag(
        help: """
            With --prepare-only: the target takes bytes as well, from now on, so that few have to follow a hand-over. It \
            goes on until 'godwit volume hydrate --no-ahead' is said there.
            """)
    var ahead = false
    @Flag(help: "End when the target owns it, without following its bytes.") var detach = false
    @Flag(help: "Print each step as a line of JSON.") var json = false

    func validate() throws {
        guard !ahead || prepareOnly else { throw ValidationError("--ahead is said with --prepare-only.") }
        guard wait >= 0, wait <= 86_400 else { throw ValidationError("--wait is 0 to 86400 seconds") }
    }

    func run() async throws {
        try await reporting {
            var request = Godwit_Control_V1_MigrateRequest()
            request.volume = volume
            request.to = to
            request.prepareOnly = prepareOnly
            request.ahead = ahead
            request.waitMilliseconds = UInt32(wait * 1000)
            request.detach = detach
            var display = MigrationDisplay(target: to, json: json, isTerminal: isatty(STDOUT_FILENO) == 1)
            try await ControlClient(site).stream("Migrate", request) {
                (progress: Godwit_Control_V1_MigrateProgress) in
                display.show(progress)
            }
            display.end()
        }
    }
}

/// Progress for a person at a terminal (one line that changes), for a log (a line now and then), or for a
/// program (JSON lines).
struct MigrationDisplay {
    typealias Progress = Godwit_Control_V1_MigrateProgress

    private let target: String
    private let json: Bool
    private let isTerminal: Bool
    private var lastPhase = ""
    private var lastLine = -10.0
    private var hasOpenLine = false
    /// Seconds and missing bytes of the last ten seconds, for the rate.
    private var samples: [(seconds: Double, missing: UInt64)] = []

    init(target: String, json: Bool, isTerminal: Bool) {
        self.target = target
        self.json = json
        self.isTerminal = isTerminal
    }

    mutating func show(_ progress: Progress) {
        if progress.phase == "hydrating" {
            samples.append((progress.elapsedSeconds, progress.missingByteCount))
            samples.removeAll { $0.seconds < progress.elapsedSeconds - 10 }
        }
        if json {
            print(jsonLine(progress))
            fflush(nil)
            return
        }
        let isNewPhase = progress.phase != lastPhase
        lastPhase = progress.phase
        if isTerminal {
            if isNewPhase, hasOpenLine { print() }
            print("\r\u{1b}[K" + line(progress), terminator: "")
            hasOpenLine = true
        } else if isNewPhase || progress.elapsedSeconds - lastLine >= 5 {
            lastLine = progress.elapsedSeconds
            print(line(progress))
        }
        fflush(nil)
    }

    mutating func end() {
        if hasOpenLine { print() }
        hasOpenLine = false
    }

    /// Bytes a second over the last seconds; nil before there are two samples.
    private var rate: Double? {
        guard let first = samples.first, let last = samples.last, last.seconds > first.seconds,
            first.missing >= last.missing
        else { return nil }
        return Double(first.missing - last.missing) / (last.seconds - first.seconds)
    }

    private func line(_ progress: Progress) -> String {
        let time = "[" + Text.decimal(progress.elapsedSeconds, places: 1) + " s] "
        switch progress.phase {
        case "preparing": return time + "preparing \(target): its catalog is brought up to date"
        case "ready": return time + "\(target) is ready"
        case "handing-over":
            let reason = progress.waitingReason
            return time
                + (reason.isEmpty ? "handing over" : "sealed here, not owned by \(target) yet: \(reason)")
        case "done":
            return time + "done: \(Text.size(progress.totalByteCount)) at \(target), the old copy is released"
        default: return time + hydrating(progress)
        }
    }

    private func hydrating(_ progress: Progress) -> String {
        let resident = progress.totalByteCount - min(progress.totalByteCount, progress.missingByteCount)
        let percent =
            progress.totalByteCount == 0 ? 100 : Double(resident) * 100 / Double(progress.totalByteCount)
        var text = "owned by \(target) at epoch \(progress.epoch)"
        if progress.handoffMilliseconds > 0 {
            text += " after \(Text.decimal(progress.handoffMilliseconds, places: 0)) ms"
        }
        text += "; \(Text.decimal(percent, places: 1)) % of \(Text.size(progress.totalByteCount)) resident"
        if let rate, rate > 0 {
            text +=
                ", \(Text.size(UInt64(rate)))/s, \(Text.duration(Double(progress.missingByteCount) / rate)) left"
        }
        if progress.faultCount > 0 {
            text += "; \(progress.faultCount) faults, p50 \(Text.milliseconds(progress.faultP50Microseconds))"
            text += ", p99 \(Text.milliseconds(progress.faultP99Microseconds))"
        }
        if !progress.waitingReason.isEmpty { text += "; waits: \(progress.waitingReason)" }
        return text
    }

    private func jsonLine(_ progress: Progress) -> String {
        var object = JSONObject()
        object.add("phase", progress.phase)
        object.add("elapsedSeconds", progress.elapsedSeconds)
        object.add("epoch", progress.epoch)
        object.add("handoffMilliseconds", progress.handoffMilliseconds)
        object.add("totalBytes", progress.totalByteCount)
        object.add("missingBytes", progress.missingByteCount)
        object.add("receivedBytes", progress.receivedByteCount)
        object.add("savedBytes", progress.savedByteCount)
        object.add("inodes", progress.inodeCount)
        object.add("bytesPerSecond", rate ?? 0)
        object.add("faults", progress.faultCount)
        object.add("faultP50Microseconds", progress.faultP50Microseconds)
        object.add("faultP99Microseconds", progress.faultP99Microseconds)
        object.add("waitingReason", progress.waitingReason)
        return object.text
    }
}
