internal import Catalog
package import RPC

/// How much one peer may ask for, and keep open here at a time: all of it in one place.
///
/// A peer is trusted to be the site that it says it is, and with the volumes that name it; not to be sound.
/// Whatever it sends, it must leave room for the others. Beyond a limit it gets `resourceExhausted`, or
/// `invalidArgument` where no later time would do; an honest peer asks again later, or for less.
package struct PeerLimits: Sendable {
    // MARK: what a peer has open

    /// Connections that have calls. An honest site has five to each process of a peer; 64 leave room for those that
    /// a broken link left behind, until keepalive has found them.
    package var connectionCount = 64
    /// Connections of all peers together, and of whoever else finds the port, with calls or without; further ones are
    /// closed at once, and of those over which no call has come one address has a quarter at most. A site of two hundred
    /// nodes that all have volumes of each other has a thousand. A descriptor each, of the 65,536 that a site asks for.
    package var openConnectionCount = 2048
    /// Connections without a call for so long are closed. A follower calls every ten seconds, and a peer that was closed
    /// comes again with its next call.
    package var idleTime: Duration = .seconds(300)
    /// Who has not shown its certificate by then is disconnected, however many bytes of it have come.
    package var handshakeTimeout: Duration = .seconds(10)
    /// Calls on all of its connections, also those whose request has not come yet or that wait for a volume.
    package var callCount = 2048
    /// Streams of changes. Each has a database connection, so three descriptors, and a snapshot that keeps the log from
    /// beginning anew. A site with more volumes follows the others a moment later.
    package var followCount = 256
    /// Answers of bytes and names under way: each may hold some MiB until it is sent. 128 are what hydrating one volume
    /// asks for at most in the background.
    package var readCount = 1024
    /// Those among them that nobody waits for: so there is room for a fault in any case.
    package var backgroundReadCount = 512
    /// Searches for damaged blocks, of which an honest site has one under way: each reads a block of every state of the
    /// volume that is here.
    package var restoreCount = 4
    /// Blocks that a peer may ask for in vain within a minute: enough for who looks for what it had, too few for who
    /// guesses what is here.
    package var missCount = 600

    // MARK: how long it may take

    /// A call's only request comes with it; over the worst link this is long.
    package var requestTimeout: Duration = .seconds(30)
    /// One message of an answer: 2 MiB within this are 60 kbit/s. A caller that does not read holds its call, and with
    /// Follow a snapshot, no longer than this.
    package var sendTimeout: Duration = .seconds(300)

    /// The same seen from a follower: an owner from which no batch of changes comes for so long is asked anew, later.
    /// Half a MiB within this are 35 kbit/s.
    package static let followPatience: Duration = .seconds(120)

    /// How long an owner waits, for one request, until a volume is let go; who would wait longer asks again. Short:
    /// of a site that is gone meanwhile the owner hears no sooner, and would seal the volume for nobody.
    package static let sealWait: Duration = .seconds(5)
    /// How long a site looks for who has what it lacks, for one question.
    package static let lackingWait: Duration = .seconds(10)
    /// How long a site may be told to wait for a volume that it is to take over.
    package static let takeOverWait: Duration = .seconds(86_400)

    // MARK: what it may send

    /// One request: the largest that is legal, an offer with all parameters, has less than a third of it.
    package var requestByteCount = 1 << 20

    /// Extents of a Read.
    package static let extentCount = 4096
    /// Directories and inodes of a List.
    package static let placeCount = 4096
    package static let inodeCount = 4096
    /// Sites that did not tell, in one answer to Lacking.
    static let silentSiteCount = 64
    /// Volumes of a Confirm.
    package static let reignCount = 4096
    /// Nodes of one site.
    package static let memberCount = 10_000
    /// Parameters of an Offer, and bytes of their keys and values: what Kubernetes allows a StorageClass.
    package static let parameterCount = 512
    package static let parameterByteCount = 256 << 10

    // MARK: what it is sent, and what is taken from it as an answer

    /// Answers up to this are left to gRPC: a fault's is one of them.
    static let shortAnswerByteCount = 32 << 10
    /// Of those so many to one site, until they are sent. A peer that does not take them is answered as with long ones,
    /// which count as calls for as long.
    static let unsentAnswerCount = 256
    /// Data in one answer to Read, whatever was asked.
    package static let readAnswerByteCount = 1 << 20
    /// The same as received, with room for what an older release may add.
    static let largestReadPayload = readAnswerByteCount + 65_536
    /// What is told of changed bytes in one answer to Changes, about.
    static let changesAnswerByteCount = 1 << 20
    /// Inodes in one, as received: half as many again as an honest one has room for.
    static let largestChanges = changesAnswerByteCount / 16
    /// Rows in one answer to List, whatever was asked.
    static let listAnswerByteCount = 2 << 20
    /// The same as received: the last entry may have large attributes.
    static let largestListing = listAnswerByteCount + (13 << 20)
    /// Rows in one message of Follow, as received.
    static let largestFollowBatch = Catalog.batchByteCount * 2 + (1 << 20)
    /// How many rows are taken from one answer, of either kind: more than the shortest rows are in what is sent. Each takes
    /// far more room than on the wire.
    static let rowCount = 1 << 19

    package init() {}

    // MARK: connections

    /// For all peers together. Messages: the largest listing and a bit. Handshakes, signs of life and what gRPC keeps in
    /// buffers: `RPCServerOptions` tells the reasons.
    package var serverOptions: RPCServerOptions {
        var options = RPCServerOptions()
        options.maximumMessageByteCount = 16 << 20
        options.maximumMetadataByteCount = 64 << 10
        options.maximumConcurrentStreams = 1024
        options.maximumConcurrentCalls = 8192
        options.maximumConnectionCount = openConnectionCount
        options.maximumIdleTime = idleTime
        options.handshakeTimeout = handshakeTimeout
        return options
    }

    /// For what a peer answers: the same messages.
    package static var channelOptions: RPCChannelOptions {
        var options = RPCChannelOptions()
        options.maximumMessageByteCount = 16 << 20
        options.maximumMetadataByteCount = 64 << 10
        return options
    }
}
