internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import VolumeModel

/// What is written down of a move, from what the site told: values to values.
struct MigrationReport {
    /// Missing bytes, and when they were.
    struct Sample: Hashable {
        var missing: UInt64
        var seconds: Double
    }

    static func status(
        _ progress: MoveProgress, target: String, earlier: Sample?, now: Sample
    ) -> MigrationResource.Status {
        var status = MigrationResource.Status(phase: progress.phase, message: message(progress, target))
        status.epoch = progress.epoch == 0 ? nil : Int64(clamping: progress.epoch)
        guard progress.phase == .hydrating || progress.phase == .done else { return status }
        status.totalBytes = Int64(clamping: progress.totalBytes)
        status.missingBytes = Int64(clamping: progress.missingBytes)
        let missing = min(progress.missingBytes, progress.totalBytes)
        let resident = progress.totalBytes - missing
        let percent =
            progress.totalBytes == 0 ? 100 : Double(resident) * 100 / Double(progress.totalBytes)
        // Never 100 % before the last byte.
        let shown = missing == 0 ? 100 : Int(min(99, percent.rounded(.down)))
        status.resident = "\(shown)%"
        guard progress.phase == .hydrating, let earlier, now.seconds > earlier.seconds,
            earlier.missing > now.missing
        else { return status }
        let rate = Double(earlier.missing - now.missing) / (now.seconds - earlier.seconds)
        status.rate = size(rate) + "/s"
        status.eta = duration(Double(missing) / rate)
        return status
    }

    private static func message(_ progress: MoveProgress, _ target: String) -> String {
        let reason = progress.waitingReason
        if !reason.isEmpty, progress.phase != .handingOver { return "bytes do not arrive: \(reason)" }
        return switch progress.phase {
        case .preparing: "site \(target) is getting the volume's catalog"
        case .ready:
            if let claim = progress.claim, !claim.isMade {
                "site \(target) follows, but the claim there is not made yet: \(claim.message)"
            } else {
                "site \(target) follows: stop the pod here and start it there"
            }
        case .handingOver:
            "the volume is sealed here, and site \(target) does not own it yet"
                + (reason.isEmpty ? "" : ": \(reason)")
        case .handedOver, .hydrating: "site \(target) owns the volume; its bytes follow"
        case .done: "every byte is at site \(target), and the copy here is released"
        case .failed, .cancelled: ""
        }
    }

    /// metav1.Conditions, with the time of a change only where something changed.
    static func conditions(
        _ status: MigrationResource.Status, reason: String, claim: ClaimReport? = nil, earlier: [Condition],
        isNew: Bool = false, generation: Int64? = nil, at time: String
    ) -> [Condition] {
        let phase = status.phase
        let isOwned = phase == .handedOver || phase == .hydrating || phase == .done
        let isReady = isOwned || phase == .ready || phase == .handingOver
        var wanted = [
            Condition("Validated", phase != .failed, reason: reason, message: status.message, at: time),
            Condition("Ready", isReady, reason: reason, message: status.message, at: time),
            Condition("HandedOver", isOwned, reason: reason, message: status.message, at: time),
            Condition("Completed", phase == .done, reason: reason, message: status.message, at: time),
        ]
        if let claim {
            wanted.append(
                Condition(
                    "ClaimMade", claim.isMade, reason: claim.reason, message: claim.message, at: time))
        } else if phase != .cancelled, !isNew, let known = earlier.first(where: { $0.type == "ClaimMade" }) {
            // Nothing new is known of it.
            wanted.append(known)
        }
        return wanted.map { condition in
            var condition = condition
            condition.observedGeneration = generation
            guard let known = earlier.first(where: { $0.type == condition.type }),
                known.status == condition.status
            else { return condition }
            condition.lastTransitionTime = known.lastTransitionTime
            return condition
        }
    }

    private static func size(_ bytes: Double) -> String {
        let units = ["B", "KiB", "MiB", "GiB"]
        var value = bytes
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return String(format: value < 10 ? "%.1f" : "%.0f", value) + units[unit]
    }

    private static func duration(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds >= 0, seconds < 1e8 else { return "" }
        let whole = Int(seconds.rounded(.up))
        if whole < 60 { return "\(whole)s" }
        if whole < 3600 { return "\(whole / 60)m\(whole % 60)s" }
        return "\(whole / 3600)h\(whole % 3600 / 60)m"
    }
}
