/// How the two sides know each other.
package enum RPCSecurity: Sendable {
    case plaintext

    /// Each side shows a certificate, and each refuses a certificate that does not lead to its trusted roots.
    ///
    /// - certificateChainPEM: This side's certificate, followed by intermediate ones.
    /// - privateKeyPEM: Not encrypted; belongs to the first certificate.
    /// - expectedServerName: For channels: the name to find in the server's certificate, if not the host
    ///   of the endpoint. Needed for Unix sockets. Servers ignore it.
    case mutualTLS(
        certificateChainPEM: String, privateKeyPEM: String, trustedRootsPEM: String,
        expectedServerName: String?)
}

package struct RPCServerOptions: Sendable {
    /// For messages in either direction.
    package var maximumMessageByteCount = 16 << 20
    /// For the metadata of a call in either direction.
    package var maximumMetadataByteCount = 64 << 10
    /// For each connection. A client keeps further calls waiting.
    package var maximumConcurrentStreams = 1024
    /// For all connections together; further calls are answered with `.resourceExhausted`.
    package var maximumConcurrentCalls = 8192
    /// Bound of what gRPC holds in buffers for all connections together; beyond it gRPC ends calls. gRPC
    /// 1.51 collects a message to its declared length before its size is looked at, so this, and
    /// not the limit for messages, is what a hostile client can make the server hold.
    package var memoryQuotaByteCount = 256 << 20
    /// A client that is silent for so long is asked for a sign of life.
    package var keepaliveInterval = Duration.seconds(20)
    /// Connections whose other side gives no sign of life for so long after being asked are closed.
    package var keepaliveTimeout = Duration.seconds(10)
    /// Clients that ask more often than this, without sending anything, are disconnected.
    package var minimumPingInterval = Duration.seconds(1)
    /// Connections that have not agreed on protocol and encryption by then are closed.
    package var handshakeTimeout = Duration.seconds(10)
    /// Connections without a call for so long are closed; nil keeps them.
    package var maximumIdleTime: Duration?
    /// Of each TCP port; further ones are closed at once. nil: any number.
    package var maximumConnectionCount: Int?
    /// Called for each of those, on the thread that accepts them.
    package var noteRefusedConnection: @Sendable () -> Void = {}

    package init() {}
}

package struct RPCChannelOptions: Sendable {
    /// For messages in either direction.
    package var maximumMessageByteCount = 16 << 20
    /// For the metadata of a call, as received.
    package var maximumMetadataByteCount = 64 << 10
    /// Pause after the first failed attempt to connect; it grows by 1.6 each time.
    package var initialBackoff = Duration.milliseconds(100)
    package var maximumBackoff = Duration.seconds(2)
    /// How long one attempt to connect may take.
    package var connectTimeout = Duration.seconds(5)
    /// A server that is silent for so long is asked for a sign of life; nil never asks.
    package var keepaliveInterval: Duration? = Duration.seconds(20)
    package var keepaliveTimeout = Duration.seconds(10)
    /// Whether packets may gather before they are read (`PacketGathering`). The keepalive time-out is ten seconds then.
    package var gathersPackets = false
    /// Asks also while no call is running.
    package var keepaliveWithoutCalls = false
    /// Bound of what gRPC holds in buffers for this channel, as on the server.
    package var memoryQuotaByteCount = 256 << 20

    package init() {}
}

extension Duration {
    /// At least 1, at most what gRPC takes: 0 would mean its default, a greater number would trap.
    var millisecondsForGRPC: Int32 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 1 }
        guard seconds < 2_000_000 else { return Int32.max }
        return max(1, Int32(seconds * 1000 + attoseconds / 1_000_000_000_000_000))
    }

    /// Not negative, and at most a hundred years.
    var nanosecondsForGRPC: Int64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        return min(seconds, 3_155_760_000) * 1_000_000_000 + attoseconds / 1_000_000_000
    }
}
