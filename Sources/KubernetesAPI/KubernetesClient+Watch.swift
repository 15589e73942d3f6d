internal import Foundation
internal import NIOCore

/// What is told of the objects of a kind.
package enum WatchChange<Item: KubernetesResource>: Sendable {
    /// All that there is; what is not named is gone.
    case replaced([Item])
    /// New or changed.
    case applied(Item)
    case deleted(Item)
}

/// Where a watch is: decides what comes next, and does nothing itself.
package struct WatchPosition: Hashable, Sendable {
    package enum Step: Hashable, Sendable {
        case list
        case watch(from: String)
    }

    package private(set) var step: Step = .list

    package init() {}

    package mutating func listed(_ resourceVersion: String) {
        step = resourceVersion.isEmpty ? .list : .watch(from: resourceVersion)
    }

    /// An object or a bookmark of this version was seen.
    package mutating func saw(_ resourceVersion: String?) {
        guard let resourceVersion, !resourceVersion.isEmpty else { return }
        step = .watch(from: resourceVersion)
    }

    /// The watch or the list ended with an error. A version that is too old means to list again; anything else
    /// goes on from where it was.
    package mutating func failed(_ error: KubernetesError) {
        if case .gone = error { step = .list }
    }
}

/// A line of a watch.
struct WatchLine<Item: KubernetesResource>: Decodable {
    enum Content {
        case change(WatchChange<Item>)
        case bookmark
        case error(KubernetesError)
    }

    private struct Bookmark: Decodable { var metadata: ObjectMeta }
    private enum Key: String, CodingKey { case type, object }

    let content: Content
    let resourceVersion: String?

    init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        switch try container.decode(String.self, forKey: .type) {
        case "ADDED", "MODIFIED":
            let item = try container.decode(Item.self, forKey: .object)
            content = .change(.applied(item))
            resourceVersion = item.metadata.resourceVersion
        case "DELETED":
            let item = try container.decode(Item.self, forKey: .object)
            content = .change(.deleted(item))
            resourceVersion = item.metadata.resourceVersion
        case "BOOKMARK":
            content = .bookmark
            resourceVersion =
                try container.decode(Bookmark.self, forKey: .object).metadata.resourceVersion
        case "ERROR":
            let status = try container.decode(StatusObject.self, forKey: .object)
            content = .error(
                KubernetesError(
                    code: status.code ?? 500, reason: status.reason, message: status.message ?? "watch",
                    retryAfter: nil))
            resourceVersion = nil
        case let other:
            throw DecodingError.dataCorruptedError(
                forKey: .type, in: container, debugDescription: "a watch event of type '\(other)'")
        }
    }
}

extension KubernetesClient {
    /// The longest line that is believed: an object is at most 1.5 MiB in etcd.
    private static var lineLimit: Int { 16 << 20 }

    /// Follows all objects of a kind for as long as it is not cancelled: lists, watches, goes on from where it was
    /// after an interruption, and lists again when the server no longer knows that place.
    ///
    /// The handler sees every state that lasts, not every change; it is called one change at a time.
    ///
    /// - Parameters:
    ///   - session: after this the server ends a watch, in order, and the next begins. Where nothing ever happens it sends
    ///     nothing either, no bookmark even: so it is less than the client's time limit for reading, after which a connection
    ///     counts as dead.
    ///   - failed: told of each interruption, for the log.
    /// - Throws: only what waiting does not cure: no rights, a configuration that cannot be used, and whatever
    ///   the handler throws.
    package func follow<Item: KubernetesResource>(
        _ type: Item.Type, in namespace: String? = nil, labels: String? = nil,
        session: Duration = .seconds(80),
        failed: @Sendable (KubernetesError) -> Void = { _ in },
        _ handler: (WatchChange<Item>) async throws -> Void
    ) async throws {
        var position = WatchPosition()
        var backoff = Backoff()
        while !Task.isCancelled {
            do {
                switch position.step {
                case .list:
                    let (items, version) = try await list(type, in: namespace, labels: labels)
                    try await handler(.replaced(items))
                    position.listed(version)
                case .watch(let version):
                    try await watch(
                        type, in: namespace, labels: labels, from: version, session: session
                    ) { change, version in
                        if let change { try await handler(change) }
                        position.saw(version)
                        backoff.reset()
                    }
                }
            } catch let error as KubernetesError {
                switch error {
                case .cancelled: throw CancellationError()
                case .unauthorized, .forbidden, .configuration: throw error
                default: break
                }
                failed(error)
                position.failed(error)
                var wanted: Duration?
                if case .tooManyRequests(_, let after) = error { wanted = after }
                try await Task.sleep(for: backoff.next(atLeast: wanted))
            }
        }
        throw CancellationError()
    }

    /// One session: until the server ends it, which it does in order after a while.
    private func watch<Item: KubernetesResource>(
        _ type: Item.Type, in namespace: String?, labels: String?, from version: String, session: Duration,
        _ each: (WatchChange<Item>?, _ version: String?) async throws -> Void
    ) async throws {
        var request = Request(method: .get, path: Item.resource.path(namespace: namespace))
        request.query = [
            ("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", version),
            ("timeoutSeconds", String(max(1, session.components.seconds))),
        ]
        if let labels { request.query.append(("labelSelector", labels)) }
        let response = try await open(request)
        var pending = ByteBuffer()
        var body = response.body.makeAsyncIterator()
        while true {
            let part: ByteBuffer?
            do {
                part = try await body.next()
            } catch {
                throw Self.failure(error)
            }
            guard var part else { return }
            pending.writeBuffer(&part)
            while let end = pending.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) {
                let count = end - pending.readerIndex
                guard let line = pending.readBytes(length: count) else { break }
                pending.moveReaderIndex(forwardBy: 1)
                if line.isEmpty { continue }
                let event = try Self.decode(WatchLine<Item>.self, Data(line))
                switch event.content {
                case .change(let change): try await each(change, event.resourceVersion)
                case .bookmark: try await each(nil, event.resourceVersion)
                case .error(let error): throw error
                }
            }
            pending.discardReadBytes()
            guard pending.readableBytes <= Self.lineLimit else {
                throw KubernetesError.malformed("a watch event of more than 16 MiB")
            }
        }
    }
}
