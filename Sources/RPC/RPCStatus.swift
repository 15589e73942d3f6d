/// Why a call ended: gRPC's status codes with gRPC's meaning and numbers.
package enum RPCCode: Int, Sendable {
    case ok = 0
    case cancelled
    case unknown
    case invalidArgument
    case deadlineExceeded
    case notFound
    case alreadyExists
    case permissionDenied
    case resourceExhausted
    case failedPrecondition
    case aborted
    case outOfRange
    case unimplemented
    case internalError
    case unavailable
    case dataLoss
    case unauthenticated
}

/// How a call ended, or why it could not be made.
package struct RPCStatus: Error, Hashable, Sendable, CustomStringConvertible {
    package let code: RPCCode
    package let message: String

    package init(_ code: RPCCode, _ message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { message.isEmpty ? "\(code)" : "\(code): \(message)" }
}

extension RPCStatus {
    /// The longest message that is sent, in bytes of UTF-8. Escaping may triple it, and all metadata
    /// at the end of a call must fit in what the other side accepts (8 KiB unless it says otherwise).
    static let maximumMessageByteCount = 2048

    /// The message as it is sent: cut at a character, if it is too long.
    var messageToSend: String {
        guard message.utf8.count > Self.maximumMessageByteCount else { return message }
        var cut = ""
        var count = 3
        for character in message.unicodeScalars {
            count += UTF8.width(character)
            guard count <= Self.maximumMessageByteCount else { break }
            cut.unicodeScalars.append(character)
        }
        return cut + "…"
    }
}
