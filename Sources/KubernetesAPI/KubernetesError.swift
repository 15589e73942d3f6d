/// Why the cluster's API did not do what it was asked.
package enum KubernetesError: Error, Hashable, Sendable, CustomStringConvertible {
    case notFound(String)
    /// The server has no such kind, and so says nothing of any object: nobody has installed it, or the server has just
    /// started and knows it in a moment.
    case unserved(String)
    case alreadyExists(String)
    /// The object is not the one that was read any more: read it again and decide anew.
    case conflict(String)
    /// The resource version, or the page's token, is too old: list again.
    case gone(String)
    case unauthorized(String)
    /// The rights do not suffice, or an admission or a quota refuses.
    case forbidden(String)
    /// The object makes no sense to the server; asking again does not help.
    case invalid(String)
    case tooManyRequests(String, retryAfter: Duration?)
    case server(Int, String)
    /// No answer. A change may have been made all the same.
    case unreachable(String)
    /// An answer that cannot be read.
    case malformed(String)
    /// A kubeconfig, certificate or token that cannot be used.
    case configuration(String)
    case cancelled

    /// Whether asking again later may help, without anybody changing anything.
    package var isTransient: Bool {
        switch self {
        case .unserved, .tooManyRequests, .server, .unreachable: true
        case .notFound, .alreadyExists, .conflict, .gone, .unauthorized, .forbidden, .invalid, .malformed,
            .configuration, .cancelled:
            false
        }
    }

    /// Whether nobody knows if a change that was asked for was made.
    package var isAmbiguous: Bool {
        switch self {
        case .server, .unreachable, .malformed, .cancelled: true
        case .notFound, .unserved, .alreadyExists, .conflict, .gone, .unauthorized, .forbidden, .invalid,
            .tooManyRequests, .configuration:
            false
        }
    }

    /// From an answer's code and the reason and message of its Status object.
    init(code: Int, reason: String?, message: String, retryAfter: Duration?) {
        self =
            switch code {
            case 400, 405, 406, 413, 415, 422: .invalid(message)
            case 401: .unauthorized(message)
            case 403: .forbidden(message)
            // The server's own word of an object is a Status; of a path that it does not know there is none.
            case 404: reason == "NotFound" ? .notFound(message) : .unserved(message)
            case 409: reason == "AlreadyExists" ? .alreadyExists(message) : .conflict(message)
            case 410: .gone(message)
            case 429: .tooManyRequests(message, retryAfter: retryAfter)
            default: .server(code, message)
            }
    }

    package var description: String {
        switch self {
        case .notFound(let text), .alreadyExists(let text), .conflict(let text), .gone(let text),
            .unauthorized(let text), .forbidden(let text), .invalid(let text), .malformed(let text),
            .configuration(let text):
            text
        case .unserved(let text): "the API server does not know this kind: \(text)"
        case .tooManyRequests(let text, _): "the API server asks to slow down: \(text)"
        case .server(let code, let text): "the API server answered \(code): \(text)"
        case .unreachable(let text): "the API server is not reachable: \(text)"
        case .cancelled: "cancelled"
        }
    }
}
