internal import ControlProtocol
internal import PeerProtocol
internal import PeerService
internal import VolumeModel

/// Claims between the wire's messages, of peers and of the control socket, and checked values.
enum ClaimCoding {
    /// - Throws: `.refused` when a peer says what cannot be.
    static func facts(
        _ message: Godwit_Peer_V1_ClaimFacts, from site: SiteID
    ) throws(PeerError) -> ClaimFacts {
        do {
            return try ClaimFacts(
                namespace: message.namespace, name: message.name, labels: message.labels,
                storageClass: message.storageClass, requested: message.requested, capacity: message.capacity,
                accessModes: message.accessModes, volumeMode: message.volumeMode)
        } catch {
            throw .refused(error.description)
        }
    }

    /// What the controller of this cluster says, as it is offered.
    static func offered(_ message: Godwit_Control_V1_ClaimFacts) throws(SiteError)
        -> Godwit_Peer_V1_ClaimFacts
    {
        let facts: ClaimFacts
        do {
            facts = try ClaimFacts(
                namespace: message.namespace, name: message.name, labels: message.labels,
                storageClass: message.storageClass, requested: message.requested, capacity: message.capacity,
                accessModes: message.accessModes, volumeMode: message.volumeMode)
        } catch {
            throw .invalid(error.description)
        }
        var offer = Godwit_Peer_V1_ClaimFacts()
        offer.namespace = facts.namespace
        offer.name = facts.name
        offer.labels = facts.labels
        offer.storageClass = facts.storageClass
        offer.requested = facts.requested
        offer.capacity = facts.capacity
        offer.accessModes = facts.accessModes
        return offer
    }

    static func control(_ facts: ClaimFacts) -> Godwit_Control_V1_ClaimFacts {
        var message = Godwit_Control_V1_ClaimFacts()
        message.namespace = facts.namespace
        message.name = facts.name
        message.labels = facts.labels
        message.storageClass = facts.storageClass
        message.requested = facts.requested
        message.capacity = facts.capacity
        message.accessModes = facts.accessModes
        return message
    }

    static func control(_ report: ClaimReport) -> Godwit_Control_V1_ClaimReport {
        var message = Godwit_Control_V1_ClaimReport()
        message.made = report.isMade
        message.reason = report.reason
        message.message = report.message
        return message
    }

    static func peer(_ report: ClaimReport) -> Godwit_Peer_V1_ClaimReport {
        var message = Godwit_Peer_V1_ClaimReport()
        message.made = report.isMade
        message.reason = report.reason
        message.message = report.message
        return message
    }

    static func report(_ message: Godwit_Control_V1_ClaimReport) -> ClaimReport {
        ClaimReport(isMade: message.made, reason: message.reason, message: message.message)
    }

    /// A peer's report, cut to what a report may be.
    static func told(_ message: Godwit_Peer_V1_ClaimReport) -> Godwit_Control_V1_ClaimReport {
        control(ClaimReport(isMade: message.made, reason: message.reason, message: message.message))
    }
}
