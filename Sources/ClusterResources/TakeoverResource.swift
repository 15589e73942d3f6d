package import KubernetesAPI

/// A question, or an order, about owning a volume whose owner's site is gone: `kubectl get takeovers`.
///
/// It is answered once. Who may make one may take any volume of the cluster over: a right of its own.
package struct TakeoverResource: KubernetesResource {
    package static let resource = ResourceKind(
        group: "godwit.dev", version: "v1alpha1", kind: "Takeover", plural: "takeovers", isNamespaced: false)

    package struct Spec: Codable, Hashable, Sendable {
        /// The volume's identifier.
        package var volume: String
        /// `namespace/name` of its claim here, to be told there as well.
        package var claim: String?
        /// false or absent: only tell.
        package var force: Bool?
        /// The epoch that is overruled.
        package var overrule: Int64?
        /// The state to begin with; absent: the first that is told.
        package var from: String?

        package init(volume: String, claim: String?) {
            self.volume = volume
            self.claim = claim
        }
    }

    package enum Phase: String, Codable, Hashable, Sendable {
        /// It is tried again: the site is away, or at something else.
        case waiting = "Waiting"
        /// Told, and nothing done.
        case told = "Told"
        case takenOver = "TakenOver"
        case refused = "Refused"

        package var isLast: Bool { self != .waiting }
    }

    /// A state of the volume that is here.
    package struct State: Codable, Hashable, Sendable {
        package var name: String
        package var sequence: Int64
        /// Since the owner was last known to have this state; nil: unknown.
        package var ageSeconds: Int64?
        package var inodes: Int64
        package var bytes: Int64
        package var missingBytes: Int64
        /// Of these what no site has that can be reached, and in how many files; nil: unknown.
        package var unreachableBytes: Int64?
        package var unreachableFiles: Int64?

        package init(
            name: String, sequence: Int64, ageSeconds: Int64?, inodes: Int64, bytes: Int64,
            missingBytes: Int64, unreachableBytes: Int64? = nil, unreachableFiles: Int64? = nil
        ) {
            self.unreachableBytes = unreachableBytes
            self.unreachableFiles = unreachableFiles
            self.name = name
            self.sequence = sequence
            self.ageSeconds = ageSeconds
            self.inodes = inodes
            self.bytes = bytes
            self.missingBytes = missingBytes
        }
    }

    package struct Status: Codable, Hashable, Sendable {
        package var phase: Phase
        package var message: String
        /// Who owns it, or did until now, and the epoch to be named in order to overrule it.
        package var owner: String?
        package var ownerEpoch: Int64?
        /// The new epoch.
        package var epoch: Int64?
        package var states: [State]?
        /// Sites that did not tell what they have.
        package var silentSites: [String]?
        /// Whether the owner can be reached: then there is a better way.
        package var ownerAnswers: Bool?
        package var updated: String?
        package var conditions: [Condition]?

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
}
