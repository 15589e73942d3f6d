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
            return try message.checked()
        } catch {
            throw .refused(error.description)
        }
    }

    /// What the controller of this cluster says, as it is offered.
    static func offered(
        _ message: Godwit_Control_V1_ClaimFacts
    ) throws(SiteError) -> Godwit_Peer_V1_ClaimFacts {
        do {
            return Godwit_Peer_V1_ClaimFacts(try message.checked())
        } catch {
            throw .invalid(error.description)
        }
    }

    static func control(_ facts: ClaimFacts) -> Godwit_Control_V1_ClaimFacts { .init(facts) }
    static func control(_ report: ClaimReport) -> Godwit_Control_V1_ClaimReport { .init(report) }
    static func peer(_ facts: ClaimFacts) -> Godwit_Peer_V1_ClaimFacts { .init(facts) }
    static func peer(_ report: ClaimReport) -> Godwit_Peer_V1_ClaimReport { .init(report) }
    static func report(_ message: Godwit_Control_V1_ClaimReport) -> ClaimReport { message.checked() }
    static func report(_ message: Godwit_Peer_V1_ClaimReport) -> ClaimReport { message.checked() }

    /// A peer's report, cut to what a report may be.
    static func told(_ message: Godwit_Peer_V1_ClaimReport) -> Godwit_Control_V1_ClaimReport {
        .init(message.checked())
    }
}

/// Both wires say the same of a claim.
private protocol ClaimFactsMessage {
    init()
    var namespace: String { get set }
    var name: String { get set }
    var labels: [String: String] { get set }
    var storageClass: String { get set }
    var requested: String { get set }
    var capacity: String { get set }
    var accessModes: [String] { get set }
    var volumeMode: String { get set }
}

extension ClaimFactsMessage {
    fileprivate init(_ facts: ClaimFacts) {
        self.init()
        namespace = facts.namespace
        name = facts.name
        labels = facts.labels
        storageClass = facts.storageClass
        requested = facts.requested
        capacity = facts.capacity
        accessModes = facts.accessModes
    }

    fileprivate func checked() throws(ClaimFacts.Refusal) -> ClaimFacts {
        try ClaimFacts(
            namespace: namespace, name: name, labels: labels, storageClass: storageClass,
            requested: requested, capacity: capacity, accessModes: accessModes, volumeMode: volumeMode)
    }
}

extension Godwit_Peer_V1_ClaimFacts: ClaimFactsMessage {}
extension Godwit_Control_V1_ClaimFacts: ClaimFactsMessage {}

/// Both wires say the same of how a claim is doing.
private protocol ClaimReportMessage {
    init()
    var made: Bool { get set }
    var reason: String { get set }
    var message: String { get set }
}

extension ClaimReportMessage {
    fileprivate init(_ report: ClaimReport) {
        self.init()
        made = report.isMade
        reason = report.reason
        message = report.message
    }

    fileprivate func checked() -> ClaimReport {
        ClaimReport(isMade: made, reason: reason, message: message)
    }
}

extension Godwit_Peer_V1_ClaimReport: ClaimReportMessage {}
extension Godwit_Control_V1_ClaimReport: ClaimReportMessage {}
