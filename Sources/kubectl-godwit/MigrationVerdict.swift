internal import ClusterResources
internal import KubernetesAPI

/// What a `Migration` says of the move that was just asked for: what is written of an earlier one is not believed.
enum MigrationVerdict: Equatable {
    /// No controller has said anything of this wish; `isLate` if one should have.
    case unheard(isLate: Bool)
    case underWay(MigrationResource.Status)
    case done(MigrationResource.Status)
    case failed(String)

    /// A controller looks at each claim every two seconds; another may have to win the lease first.
    static let patience: Duration = .seconds(30)

    /// - Parameter earlier: what was there before it was asked for.
    init(
        _ migration: MigrationResource?, target: String, earlier: MigrationResource?, waited: Duration
    ) {
        let isLate = waited >= Self.patience
        guard let migration, migration.spec.to == target, let status = migration.currentStatus else {
            self = .unheard(isLate: isLate)
            return
        }
        let isOld =
            earlier?.metadata.uid == migration.metadata.uid
            && earlier?.metadata.resourceVersion == migration.metadata.resourceVersion
        switch status.phase {
        case .preparing, .ready, .handingOver, .handedOver, .hydrating: self = .underWay(status)
        case .done:
            // Closed: of a wish that was fulfilled before, and the volume may have come home since.
            self = isOld && status.closed == true ? .unheard(isLate: isLate) : .done(status)
        case .failed:
            // The same failure again changes nothing in the object.
            self = isOld && !isLate ? .unheard(isLate: false) : .failed(status.message)
        case .cancelled:
            self = isOld ? .unheard(isLate: isLate) : .failed("cancelled: \(status.message)")
        }
    }
}
