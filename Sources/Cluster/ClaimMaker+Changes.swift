internal import Foundation
internal import KubernetesAPI
internal import VolumeModel

/// What changes about a claim in the other cluster after its twin was made here.
extension ClaimMaker {
    /// Why a claim that is made is looked at again: it is not as large as its volume yet.
    static let smaller = "Smaller"

    /// Sizes follow, and only grow: first what the volume has, then what the claim requests, so that a resizer finds all
    /// done. Labels follow while the claim is ours; those that were taken away there stay here, where they may be of use.
    ///
    /// - Returns: why the claim requests less than the one there; nil: it does not.
    func keepUp(
        _ persistent: PersistentVolume, _ claim: PersistentVolumeClaim, with volume: ForeignVolume
    ) async throws(KubernetesError) -> ClaimReport? {
        let facts = volume.claim.facts
        if Quantity.isLess(persistent.spec.capacity?["storage"], than: facts.capacity) {
            _ = try await client.patch(
                PersistentVolume.self, persistent.metadata.name ?? "",
                ["spec": ["capacity": ["storage": .string(facts.capacity)]]])
        }
        let (name, namespace) = (claim.metadata.name ?? "", claim.metadata.namespace)
        let isUsed = persistent.metadata.annotations?[ArrivingClaim.used] != nil
        let labels = facts.labels.filter { claim.metadata.labels?[$0.key] != $0.value }
        if ArrivingClaim.isOurs(claim.metadata, for: volume.id), !isUsed, !labels.isEmpty {
            _ = try await client.patch(
                PersistentVolumeClaim.self, name, in: namespace,
                ["metadata": ["labels": .object(labels.mapValues(JSONValue.string))]])
        }
        let request = claim.spec.resources?.requests?["storage"]
        guard Quantity.isLess(request, than: facts.requested) else { return nil }
        do throws(KubernetesError) {
            _ = try await client.patch(
                PersistentVolumeClaim.self, name, in: namespace,
                ["spec": ["resources": ["requests": ["storage": .string(facts.requested)]]]])
            return nil
        } catch {
            switch error {
            // A class that does not let claims grow, a quota, or a claim that is not bound yet.
            case .forbidden(let text), .invalid(let text): return Self.stays(claim, request, facts, text)
            default: throw error
            }
        }
    }

    private static func stays(
        _ claim: PersistentVolumeClaim, _ request: String?, _ facts: ClaimFacts, _ why: String
    ) -> ClaimReport {
        ClaimReport(
            isMade: true, reason: smaller,
            message:
                "claim \(claim.metadata.namespace ?? "")/\(claim.metadata.name ?? "") is there, and requests "
                + "\(request ?? "nothing") rather than \(facts.requested): \(why)")
    }
}

/// Sizes as Kubernetes writes them.
enum Quantity {
    private static let factors: [String: Double] = [
        "": 1, "Ki": 0x1p10, "Mi": 0x1p20, "Gi": 0x1p30, "Ti": 0x1p40, "Pi": 0x1p50, "Ei": 0x1p60, "m": 1e-3,
        "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    ]

    /// - Returns: exact up to 8 PiB; nil: it is no size.
    static func bytes(_ text: String) -> Double? {
        // `1e9` is a number, and `1E` is a unit.
        if let number = Double(text) { return number.isFinite && number >= 0 ? number : nil }
        let digits = text.prefix { $0.isNumber || $0 == "." }
        guard let number = Double(digits), let factor = factors[String(text.dropFirst(digits.count))] else {
            return nil
        }
        return number * factor
    }

    /// What cannot be compared is not less.
    static func isLess(_ one: String?, than other: String) -> Bool {
        guard let one = one.flatMap(bytes), let other = bytes(other) else { return false }
        return one < other
    }
}
