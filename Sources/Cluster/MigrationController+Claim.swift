internal import ClusterResources
internal import Foundation
internal import KubernetesAPI

/// Why something that a claim's annotations ask for is not done, besides what is said of its move.
struct Complaint: Hashable, Sendable {
    var reason: String
    var message: String

    static let notOurs = Complaint(
        reason: "NotGodwit",
        message: "the claim's volume is not of \(MigrationController.driver): it stays here")

    static func goesFirst(to target: String) -> Complaint {
        Complaint(
            reason: "HandingOver",
            message:
                "the volume is sealed for site \(target) already: it goes there first, or comes home, and then "
                + "the claim's annotations are followed as they are by then")
    }

    init(reason: String, message: String) {
        self.reason = reason
        self.message = message
    }

    init(_ bad: ClaimWishes.BadValue) { self.init(reason: "BadValue", message: bad.message) }

    init(_ error: SiteControlError) {
        self.init(
            reason: error.isTransient ? "Unavailable" : "Refused",
            message: "the site does not do what the claim asks for: \(error.description)")
    }
}

extension PersistentVolumeClaim {
    /// The claim's own condition: False where something that its annotations ask for cannot be followed. It is there from
    /// the first time that this was so.
    static let followedCondition = "godwit.dev/Followed"

    var followed: Condition? { status?.conditions?.first { $0.type == Self.followedCondition } }
}

/// What is done about the claim itself, and said of it there: its settings, and what is wrong with them.
extension MigrationController {
    /// - Returns: why it could not be done: that stops nothing else.
    func setHydration(
        _ wanted: ClaimDecision.Hydration?, of volume: String, _ claim: PersistentVolumeClaim
    ) async throws(KubernetesError) -> Complaint? {
        guard let wanted else { return nil }
        do throws(SiteControlError) {
            try await site.setHydration(volume, wanted)
        } catch {
            return Complaint(error)
        }
        try await events.record("HydrationChanged", Self.describe(wanted), about: claim)
        return nil
    }

    private static func describe(_ hydration: ClaimDecision.Hydration) -> String {
        var parts: [String] = []
        if let paused = hydration.isPaused { parts.append(paused ? "paused" : "resumed") }
        if let rate = hydration.bytesPerSecond {
            parts.append(rate == 0 ? "without a limit" : "at most \(rate) bytes a second")
        }
        return "fetching in the background: " + parts.joined(separator: ", ")
    }

    /// Whether the claim says just this, and the Events of it are still there.
    func isShown(_ complaints: [Complaint], of claim: PersistentVolumeClaim) -> Bool {
        guard let known = claim.followed, known.status == "False" else { return complaints.isEmpty }
        return known.reason == complaints.first?.reason && known.message == Self.text(complaints)
            && (known.lastProbeTime ?? "") > Self.time(before: retelling)
    }

    /// Tells what is wrong by Events, and then by a condition that stays: a controller that ends in between tells it again.
    func show(_ complaints: [Complaint], of claim: PersistentVolumeClaim) async throws(KubernetesError) {
        guard !isShown(complaints, of: claim) else { return }
        for complaint in complaints {
            try await events.record(complaint.reason, complaint.message, about: claim, isWarning: true)
        }
        let now = Timestamps.seconds(Date())
        let status = complaints.isEmpty ? "True" : "False"
        let since = claim.followed.flatMap { $0.status == status ? $0.lastTransitionTime : nil } ?? now
        let condition: JSONValue = [
            "type": .string(PersistentVolumeClaim.followedCondition), "status": .string(status),
            "reason": .string(complaints.first?.reason ?? "Followed"),
            "message": .string(Self.text(complaints)), "lastProbeTime": .string(now),
            "lastTransitionTime": .string(since),
        ]
        do throws(KubernetesError) {
            // Conditions of others stay as they are.
            _ = try await client.patch(
                PersistentVolumeClaim.self, claim.metadata.name ?? "", in: claim.metadata.namespace,
                [
                    "metadata": ["uid": JSONValue(claim.metadata.uid)],
                    "status": ["conditions": [condition]],
                ], as: .apply(manager: ClusterNames.eventSource, force: true), subresource: "status")
        } catch {
            switch error {
            // Another claim by now, or none.
            case .conflict, .notFound: return
            default: throw error
            }
        }
    }

    private static func text(_ complaints: [Complaint]) -> String {
        complaints.isEmpty
            ? "what the annotations ask for is followed" : complaints.map(\.message).joined(separator: "; ")
    }

    /// As the API writes times, which sort like text.
    static func time(before duration: Duration) -> String {
        Timestamps.seconds(Date(timeIntervalSinceNow: -Double(duration.components.seconds)))
    }
}
