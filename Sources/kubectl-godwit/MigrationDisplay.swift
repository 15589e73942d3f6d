internal import ClusterResources

/// A move, for a person at a terminal (one line that changes, Events above it) or for a log (a line for each change).
struct MigrationDisplay {
    private static let barWidth = 30

    private let target: String
    private let isTerminal: Bool
    private var shown = ""
    private var lastLine = ContinuousClock.now - .seconds(60)
    private var lastPhase: MigrationResource.Phase?
    private var notes: Set<String> = []

    init(target: String, isTerminal: Bool) {
        self.target = target
        self.isTerminal = isTerminal
    }

    mutating func show(_ verdict: MigrationVerdict) {
        switch verdict {
        case .unheard(let isLate):
            if isLate { note("no controller has said anything of it yet: 'kubectl godwit doctor'") }
        case .underWay(let status), .done(let status): show(status)
        case .failed: break
        }
    }

    private mutating func show(_ status: MigrationResource.Status) {
        let line = Terminal.clean(Self.line(status))
        guard line != shown else { return }
        if isTerminal {
            Terminal.print("\r\u{1b}[K" + line, terminator: "")
        } else {
            // Of what only grows, a line now and then.
            guard status.phase != lastPhase || ContinuousClock.now - lastLine >= .seconds(5) else { return }
            Terminal.print(line)
        }
        lastLine = .now
        lastPhase = status.phase
        shown = line
    }

    /// Said once, however often it is the case.
    mutating func note(_ text: String) {
        guard notes.insert(text).inserted else { return }
        above(text)
    }

    mutating func tell(_ event: EventView) {
        above("\(event.type ?? "") \(event.reason ?? ""): \(event.message ?? "")")
    }

    private func above(_ text: String) {
        let isOpen = isTerminal && !shown.isEmpty
        Terminal.print((isOpen ? "\r\u{1b}[K" : "") + Terminal.clean(text))
        if isOpen { Terminal.print(shown, terminator: "") }
    }

    func end() {
        if isTerminal, !shown.isEmpty { Terminal.print("") }
    }

    static func line(_ status: MigrationResource.Status) -> String {
        let phase = status.phase.rawValue
        switch status.phase {
        case .hydrating, .handedOver, .done:
            let total = max(0, status.totalBytes ?? 0)
            let missing = min(total, max(0, status.missingBytes ?? (status.phase == .done ? 0 : total)))
            let share = total == 0 ? (status.phase == .done ? 1 : 0) : Double(total - missing) / Double(total)
            var line = "\(bar(share)) \(status.resident ?? "-") resident  \(phase)"
            if let rate = status.rate { line += "  \(rate)" }
            if let eta = status.eta, !eta.isEmpty { line += "  \(eta) left" }
            return line + "  " + status.message
        case .preparing, .ready, .handingOver, .failed, .cancelled: return "\(phase): \(status.message)"
        }
    }

    static func bar(_ share: Double) -> String {
        guard share.isFinite else { return bar(0) }
        // Full only when it is.
        let filled = share >= 1 ? barWidth : min(barWidth - 1, Int(max(0, share) * Double(barWidth)))
        return "[" + String(repeating: "=", count: filled) + String(repeating: " ", count: barWidth - filled)
            + "]"
    }
}
