import Catalog
import EngineTestSupport
import Hydration
import PeerProtocol
import SwiftProtobuf
import VolumeModel

@testable import Handoff
@testable import PeerService
@testable import Site

/// What peers ask and answer.
enum PeerTargets {
    static let all = [requests, answers, handoff]
    private static let here = HandoffSamples.here
    private static let peer = HandoffSamples.sites[1]
    private static let id = HandoffSamples.volume.description
    /// Names that a request may have at its beginning.
    private static let words = [id, "london", "sydney", "n1.london", "ReadWriteOnce", "Filesystem", "10Gi"]

    private static let claim = Godwit_Peer_V1_ClaimFacts.with {
        $0.namespace = "default"
        $0.name = "data"
        $0.labels = ["app": "db", "example.org/x": "y"]
        $0.storageClass = "fast"
        $0.requested = "10Gi"
        $0.capacity = "11Gi"
        $0.accessModes = ["ReadWriteOnce"]
        $0.volumeMode = "Filesystem"
    }

    private static let extents = (UInt64(2)...4).map { inode in
        Godwit_Peer_V1_Extent.with {
            $0.inode = inode
            $0.start = 4096
            $0.end = 50_000
            if inode % 2 == 0 { $0.hash = .init([UInt8](repeating: 9, count: 16)) }
        }
    }

    // MARK: requests

    private static let requests = FuzzTarget(
        "peer-requests", "what a peer asks, up to what is asked of the volume", byteLimit: 2048, words: words,
        kinds: [
            .message([offer]) { try take($0) },
            .message([
                Godwit_Peer_V1_ListRequest.with {
                    $0.volume = id
                    $0.epoch = 2
                    $0.places = [.with { $0.directory = 1 }]
                    $0.nameDirectory = 1
                    $0.name = .init(Array("file 3".utf8))
                    $0.inodes = [1, 4]
                    $0.descends = true
                    $0.maximumByteCount = 60_000
                }
            ]) { request in
                let wanted = try ListCoding.request(of: request)
                let again = try? ListCoding.request(of: ListCoding.message(of: wanted))
                try demand(again == wanted, "\(wanted) is another question when sent on")
                _ = try PeerServer.volume(request.volume)
                return true
            },
            .message([
                Godwit_Peer_V1_ReadRequest.with {
                    $0.volume = id
                    $0.epoch = 2
                    $0.extents = extents
                    $0.stateName = .init([UInt8](repeating: 3, count: 16))
                    $0.headName = $0.stateName
                    $0.seen = [
                        .with {
                            $0.inode = 5
                            $0.changeNanoseconds = .max
                        }
                    ]
                }
            ]) { request in
                let extents = try PeerServer.extents(request.extents)
                _ = try PeerServer.volume(request.volume)
                for extent in extents { try demand(!extent.range.isEmpty, "an extent without bytes") }
                _ = (StateName(request.stateName), SeenFiles(request))
                return true
            },
            .message([
                Godwit_Peer_V1_RestoreRequest.with {
                    $0.volume = id
                    $0.inode = 2
                    $0.end = 50_000
                    $0.hash = .init([UInt8](repeating: 9, count: 16))
                }
            ]) { request in
                var extent = Godwit_Peer_V1_Extent()
                (extent.inode, extent.start, extent.end) = (request.inode, request.start, request.end)
                guard let asked = try PeerServer.extents([extent]).first,
                    let block = LostBlock(asked, hash: Array(request.hash))
                else { return false }
                _ = block.knownContent
                _ = try PeerServer.volume(request.volume)
                return true
            },
            .message([
                Godwit_Peer_V1_LackingRequest.with {
                    $0.volume = id
                    $0.extents = extents
                    $0.milliseconds = .max
                    $0.hops = .max
                    $0.through = -1
                }
            ]) { request in
                _ = try PeerServer.extents(request.extents)
                _ = try PeerServer.volume(request.volume)
                _ = min(.milliseconds(Int64(request.milliseconds)), PeerLimits.lackingWait)
                return true
            },
            .message([
                Godwit_Peer_V1_ConfirmRequest.with {
                    $0.reigns = [
                        .with {
                            $0.volume = id
                            $0.epoch = 6
                            $0.handover = 5
                        }
                    ]
                }
            ]) { request in
                let owned = try ConfirmCoding.owned(in: request)
                for asked in owned.values where Epoch.first <= asked.epoch && asked.epoch <= .highest {
                    let claim = KnownReign(Reign(peer, asked.epoch), handover: asked.handover)
                    for record in HandoffSamples.records {
                        var heard = record
                        _ = try? heard.apply(.reignTold(claim))
                        try demand(
                            (try? HandoffSamples.read(HandoffSamples.stored(heard))) == heard, "\(heard)")
                        _ = record.objection(to: claim)
                    }
                }
                return !owned.isEmpty
            },
            .message([
                Godwit_Peer_V1_WithdrawRequest.with {
                    $0.volume = id
                    $0.epoch = 3
                    $0.revision = 4
                }
            ]) { request in
                _ = try PeerServer.volume(request.volume)
                _ = OfferStamp(epoch: Epoch(request.epoch), revision: request.revision)
                return true
            },
        ])

    private static let offer = Godwit_Peer_V1_OfferRequest.with {
        $0.volume = id
        $0.name = "data"
        $0.capacity = 1 << 30
        $0.inodeLimit = 1 << 20
        $0.epoch = 3
        $0.parameters = ["class": "fast"]
        $0.withoutReplica = true
        $0.claim = claim
        $0.settings.sharedWith = ["sydney", "tokyo"]
        $0.settings.hydrationBytesPerSecond = 1 << 20
        $0.settings.hydrationPrefetch = "start"
        $0.settings.claim.reason = "Bound"
        $0.revision = 7
    }

    /// What an offer comes to is stored.
    private static func take(_ request: Godwit_Peer_V1_OfferRequest) throws -> Bool {
        try PeerServer.check(request)
        let id = try PeerServer.volume(request.volume)
        var record = VolumeRecord(
            id: id, name: request.name,
            limits: VolumeLimits(byteCount: request.capacity, inodeCount: request.inodeLimit),
            parameters: request.parameters,
            head: try HeadRecord(followerAt: here, of: Reign(peer, Epoch(request.epoch))), sharedWith: [peer])
        record.isGuest = true
        if request.hasSettings { try record.take(request.settings) }
        if request.hasClaim {
            record.claim = ForeignClaim(
                facts: try ClaimCoding.facts(request.claim, from: peer),
                report: ClaimCoding.report(request.settings.claim))
        }
        try StateTargets.demandStorable(record)
        return true
    }

    // MARK: answers

    private static let answers = FuzzTarget(
        "peer-answers", "what a peer answers, up to the rows, bytes and names in it", byteLimit: 4096,
        words: words,
        kinds: [
            .message(followReplies) { reply in
                let position = reply.position.value
                try demand(Godwit_Peer_V1_CatalogPosition(position).value == position, "\(position)")
                let rows = try FollowCoding.rows(of: reply, from: peer)
                let again = try? FollowCoding.rows(
                    of: FollowCoding.encode(CatalogSamples.encoded(rows)), from: peer)
                try demand(again == rows, "\(rows) are others when sent on")
                return true
            },
            .message([ListCoding.encode(listing), ListCoding.encode(Listing())]) { reply in
                let listing = try ListCoding.listing(of: reply, from: peer)
                let again = try? ListCoding.listing(of: ListCoding.encode(listing), from: peer)
                try demand(again == listing, "\(listing) is another when sent on")
                return true
            },
            .message(readReplies) { reply in
                let pieces = try ReadCoding.decode(reply, asked: asked, from: peer)
                let again = try? ReadCoding.decode(ReadCoding.encode(pieces), asked: asked, from: peer)
                try demand(again == pieces, "\(pieces) are others when sent on")
                return true
            },
            .message([ReadCoding.encode(HeadReader.split(blockPiece))]) { reply in
                let content = try ReadCoding.content(of: block, in: reply, from: peer)
                try demand(content == blockContent, "another block than was asked for")
                return true
            },
            .message([ChangesCoding.encode(changes)]) { reply in
                try check(try ChangesCoding.decode(reply, after: InodeNumber(2), from: peer))
                return true
            },
            .message([
                Godwit_Peer_V1_OfferReply.with {
                    $0.sequence = 5
                    $0.claim.reason = "Bound"
                    $0.claim.message = "a line\nand another"
                }
            ]) { reply in
                let told = ClaimCoding.report(reply.claim)
                try demand(
                    ClaimCoding.report(ClaimCoding.peer(told)) == told, "\(told) is another when told on")
                _ = ClaimCoding.told(reply.claim)
                return true
            },
            .message([
                Godwit_Peer_V1_VolumeStatus.with {
                    $0.role = "owning"
                    $0.epoch = 3
                    $0.totalByteCount = 9
                    $0.missingByteCount = .max
                    $0.claim.message = "x"
                }
            ]) { status in
                _ = ClaimCoding.told(status.claim)
                return true
            },
        ])

    private static let followReplies: [Godwit_Peer_V1_FollowReply] = {
        let many = CatalogSamples.encoded(Array(repeating: CatalogSamples.rows, count: 20).flatMap { $0 })
        var last = FollowCoding.encode([])
        last.position = Godwit_Peer_V1_CatalogPosition(
            CatalogPosition(
                sequence: SequenceNumber(7),
                counters: CatalogCounters(
                    nextInode: InodeNumber(9), nextCookie: 3, inodeCount: 4, byteCount: 5,
                    allocatedByteCount: 6), limits: VolumeLimits(byteCount: 1 << 30, inodeCount: 0)))
        return [
            FollowCoding.encode(many), FollowCoding.encode(CatalogSamples.encoded(CatalogSamples.rows)), last,
        ]
    }()

    private static let listing = Listing(
        singles: Array(CatalogSamples.rows.prefix(1)),
        parts: [Listing.Part(directory: .root, after: 0, last: 9, isComplete: true)],
        rows: CatalogSamples.rows)

    private static let asked = [
        Extent(inode: InodeNumber(12), range: ByteRange(0, 9000)),
        Extent(inode: InodeNumber(13), range: ByteRange(4096, 8192)),
    ]
    private static let readReplies = [
        Generator(seed: 5).of(300), [UInt8](repeating: 7, count: 300),
    ].map { bytes in
        ReadCoding.encode([
            Piece(inode: InodeNumber(12), range: ByteRange(0, 300), content: .bytes(bytes)),
            Piece(inode: InodeNumber(12), range: ByteRange(300, 9000), content: .zeros),
            Piece(
                inode: InodeNumber(13), range: ByteRange(4096, 4396), content: .bytes(bytes.reversed())),
        ])
    }

    private static let blockContent =
        Generator(seed: 6).of(1500) + [UInt8](repeating: 0, count: 8192) + [1, 2, 3]
    private static let blockPiece = Piece(
        inode: InodeNumber(7), range: ByteRange(1 << 20, 1 << 20 + UInt64(blockContent.count)),
        content: .bytes(blockContent))
    private static let block = LostBlock(
        Extent(inode: blockPiece.inode, range: blockPiece.range), hash: ReadCoding.hash(blockContent[...]))!

    private static let changes: ChangesSince = {
        var inodes: [(inode: InodeNumber, bytes: ChangedBytes)] = []
        for inode in 3..<9 as Range<UInt64> {
            var bytes = ChangedBytes(unchangedOf: inode << 30)
            _ = bytes.insert(ByteRange(inode << 20, inode << 21))
            inodes.append((InodeNumber(inode), bytes))
        }
        return ChangesSince(
            kind: .exact, since: Epoch(7), firstNewInode: InodeNumber(9), inodes: inodes, isComplete: false)
    }()

    private static func check(_ changes: ChangesSince) throws {
        try demand(
            changes.isComplete || changes.kind == .exact && !changes.inodes.isEmpty, "changes without any")
        var last = InodeNumber(2)
        var union = ChangedBytes(unchangedOf: 1 << 40)
        for item in changes.inodes {
            try demand(item.inode > last, "inode \(item.inode) comes after \(last)")
            last = item.inode
            // Whatever they say, all of a range is either changed or not.
            let range = ByteRange(1 << 20, 1 << 26)
            let byteCount = item.bytes.parts(of: range).reduce(0) { $0 + $1.range.byteCount }
            try demand(byteCount == range.byteCount, "\(byteCount) bytes of \(range)")
            let first = item.bytes.firstChange(from: 0)
            try demand(first <= item.bytes.allFrom, "the first change, at \(first), is behind all")
            union.formUnion(item.bytes)
        }
    }

    // MARK: the hand-off

    /// An input is which record there is, and messages, each from one of two peers.
    private static let handoff = FuzzTarget(
        "handoff", "messages of a hand-off, and the record under them", byteLimit: 512, rounds: 2000,
        words: words,
        seeds: {
            let messages = try HandoffSamples.messages()
            return HandoffSamples.records.indices.flatMap { record in
                messages.enumerated().filter { $0.offset % 12 == record }.map { index, message in
                    let next = messages[(index + 7) % messages.count]
                    let parts: [[UInt8]] = [
                        [UInt8(record), UInt8(index % 2)], FuzzInput.joined([message]), [1],
                        FuzzInput.joined([next]),
                    ]
                    return parts.flatMap { $0 }
                }
            }
        },
        body: { bytes in
            var input = FuzzInput(bytes)
            var record = HandoffSamples.records[Int(input.byte()) % HandoffSamples.records.count]
            var isHeard = false
            while !input.isAtEnd {
                let site = HandoffSamples.sites[1 + Int(input.byte() % 2)]
                let message = try HandoffCoding.Message(serializedBytes: input.piece())
                if case .sealGrant(let grant) = message.message {
                    _ = try? FollowCoding.rows(of: grant.tail, from: site)
                    _ = try? ListCoding.listing(of: grant.firstListing, from: site)
                }
                guard let event = try HandoffCoding.event(of: message, from: site, self: here) else {
                    continue
                }
                isHeard = true
                try tell(&record, event)
            }
            return isHeard
        })

    /// The record refuses an event and stays as it is, or takes it and can be stored.
    private static func tell(_ record: inout HeadRecord, _ event: Event) throws {
        let before = record
        do {
            for action in try record.apply(event) {
                _ = HandoffCoding.message(of: action, volume: HandoffSamples.volume)
            }
        } catch {
            try demand(record == before, "\(event) is refused, but changes \(before)")
            return
        }
        guard record != before else { return }
        let again = Result<HeadRecord, any Error> {
            try HandoffSamples.read(HandoffSamples.stored(record))
        }
        try demand((try? again.get()) == record, "after \(event), \(before) cannot be read again: \(again)")
        _ = record.actionsAfterRestart()
    }
}

extension Generator {
    /// As many bytes, the same each time.
    fileprivate func of(_ count: Int) -> [UInt8] {
        var generator = self
        return generator.bytes(count)
    }
}
