package import KubernetesAPI

/// A claim that is to move, and how far it is: `kubectl get migrations`.
package struct MigrationResource: KubernetesResource {
    package static let resource = ResourceKind(
        group: "godwit.dev", version: "v1alpha1", kind: "Migration", plural: "migrations", isNamespaced: true)

    package struct Spec: Codable, Hashable, Sendable {
        package var claim: String
        package var volume: String
        package var from: String
        package var to: String

        package init(claim: String, volume: String, from: String, to: String) {
            self.claim = claim
            self.volume = volume
            self.from = from
            self.to = to
        }
    }

    package enum Phase: String, CaseIterable, Codable, Hashable, Sendable {
        /// The target's catalog is brought up to date.
        case preparing = "Preparing"
        /// The target follows; it takes over when a pod starts there.
        case ready = "Ready"
        /// This site has stopped for good, and the target has not begun: nobody serves it.
        case handingOver = "HandingOver"
        /// The target owns it; nothing is known of its bytes yet.
        case handedOver = "HandedOver"
        /// The target owns it, and bytes are on their way.
        case hydrating = "Hydrating"
        /// Every byte is at the target, and the copy here is released.
        case done = "Done"
        case failed = "Failed"
        case cancelled = "Cancelled"
    }

    package struct Status: Codable, Hashable, Sendable {
        package var phase: Phase
        package var message: String
        package var epoch: Int64?
        package var resident: String?
        package var rate: String?
        package var eta: String?
        package var totalBytes: Int64?
        package var missingBytes: Int64?
        package var updated: String?
        package var conditions: [Condition]?
        /// The annotation that asked for it has been taken away, or seen to be gone: one that is there is a new wish.
        package var closed: Bool?

        package init(phase: Phase, message: String) {
            self.phase = phase
            self.message = message
        }
    }

    package var metadata: ObjectMeta
    package var spec: Spec
    package var status: Status?

    package init(metadata: ObjectMeta, spec: Spec) {
        self.metadata = metadata
        self.spec = spec
    }

    /// The status, unless it is of another wish than the one that is there now.
    package var currentStatus: Status? {
        guard let observed = status?.conditions?.compactMap(\.observedGeneration).max(),
            let generation = metadata.generation
        else { return status }
        // Its deletion is counted as a change.
        let wished = metadata.deletionTimestamp == nil ? generation : max(generation, 1) - 1
        return observed < wished ? nil : status
    }

    /// Whether nothing is to be done for the wish that it was made for: one that is there is a new one.
    package var hasEnded: Bool {
        switch currentStatus?.phase {
        case .cancelled?: true
        case .done?: status?.closed == true
        case .preparing?, .ready?, .handingOver?, .handedOver?, .hydrating?, .failed?, nil: false
        }
    }

    // MARK: its end

    /// Keeps it until its target has been told that it is none any more, whoever deletes it, and whether or not a controller
    /// runs just then.
    package static let finalizer = "godwit.dev/withdraw"

    package var isKept: Bool { metadata.finalizers?.contains(Self.finalizer) ?? false }

    package mutating func keep() {
        if !isKept { metadata.finalizers = (metadata.finalizers ?? []) + [Self.finalizer] }
    }

    /// Whether its target may wait for a volume that it has not taken over yet.
    package var concernsTarget: Bool {
        switch currentStatus?.phase {
        case .preparing?, .ready?, .handingOver?, .failed?, nil: true
        case .handedOver?, .hydrating?, .done?, .cancelled?: false
        }
    }

    /// Whether it was made for this claim, rather than for one of the same name before.
    package func isOf(_ claim: PersistentVolumeClaim) -> Bool {
        guard let owner = metadata.ownerReferences?.first(where: { $0.kind == "PersistentVolumeClaim" })
        else {
            return true
        }
        return owner.uid == claim.metadata.uid
    }
}
