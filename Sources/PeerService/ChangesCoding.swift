package import PeerProtocol
package import VolumeModel

/// How it travels which bytes have changed.
package enum ChangesCoding {
    package static func encode(_ changes: ChangesSince) -> Godwit_Peer_V1_ChangesReply {
        var reply = Godwit_Peer_V1_ChangesReply()
        reply.kind =
            switch changes.kind {
            case .unknown: .unknown
            case .uncertain: .uncertain
            case .exact: .exact
            }
        reply.since = changes.since?.number ?? 0
        reply.sinceName = .init(changes.sinceName?.bytes ?? [])
        reply.untilName = .init(changes.untilName?.bytes ?? [])
        reply.sinceKeeper = changes.sinceKeeper?.description ?? ""
        reply.firstNewInode = changes.firstNewInode.number
        reply.complete = changes.isComplete
        reply.inodes = changes.inodes.map { item in
            var message = Godwit_Peer_V1_ChangedInode()
            message.inode = item.inode.number
            message.allFrom = item.bytes.allFrom
            message.shift = UInt32(item.bytes.shift)
            message.granules = .init(item.bytes.bits)
            return message
        }
        return reply
    }

    /// - Parameter after: what was asked for: every answer must bring the question on.
    package static func decode(
        _ reply: Godwit_Peer_V1_ChangesReply, after: InodeNumber, from site: SiteID
    ) throws(PeerError) -> ChangesSince {
        let kind: ChangesSince.Kind
        switch reply.kind {
        case .unknown: return ChangesSince(kind: .unknown, untilName: StateName(reply.untilName))
        case .uncertain: kind = .uncertain
        case .exact: kind = .exact
        case .UNRECOGNIZED(let number): throw .malformed(site: site, "unknown kind of changes \(number)")
        }
        guard reply.inodes.count <= PeerLimits.largestChanges else {
            throw .malformed(site: site, "changes of \(reply.inodes.count) inodes at a time")
        }
        var last = after
        var inodes: [(inode: InodeNumber, bytes: ChangedBytes)] = []
        for message in reply.inodes {
            let inode = InodeNumber(message.inode)
            guard inode > last,
                let bytes = ChangedBytes(
                    allFrom: message.allFrom, shift: message.shift, bits: Array(message.granules))
            else { throw .malformed(site: site, "changes that cannot be, of inode \(inode)") }
            inodes.append((inode, bytes))
            last = inode
        }
        guard reply.complete || kind == .uncertain || !inodes.isEmpty else {
            throw .malformed(site: site, "a part of the changes without any")
        }
        return ChangesSince(
            kind: kind, since: reply.since == 0 ? nil : Epoch(reply.since),
            sinceName: StateName(reply.sinceName), untilName: StateName(reply.untilName),
            sinceKeeper: SiteID(reply.sinceKeeper), firstNewInode: InodeNumber(reply.firstNewInode),
            inodes: inodes,
            isComplete: reply.complete || kind == .uncertain)
    }
}
