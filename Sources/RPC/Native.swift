internal import CGRPC

/// The one place where Swift values become C's and back. Pointers do not leave a closure here, apart from
/// the references to calls, channels and servers, which their one owner gives up in its `deinit`.
enum Native {
    // MARK: Texts and metadata

    /// Bytes of several texts in one buffer, so that C can borrow them all at once.
    private struct Texts {
        private(set) var bytes: [UInt8] = []

        mutating func add(_ text: String) -> Range<Int> { add(text.utf8) }

        mutating func add(_ text: some Collection<UInt8>) -> Range<Int> {
            let start = bytes.count
            bytes.append(contentsOf: text)
            return start..<bytes.count
        }

        static func view(_ range: Range<Int>, in base: UnsafeRawBufferPointer) -> cgrpc_text {
            guard !range.isEmpty, let start = base.baseAddress else {
                return cgrpc_text(start: nil, count: 0)
            }
            return cgrpc_text(
                start: (start + range.lowerBound).assumingMemoryBound(to: CChar.self), count: range.count)
        }
    }

    static func withText<Result>(_ text: String, _ body: (cgrpc_text) -> Result) -> Result {
        var texts = Texts()
        let range = texts.add(text)
        return texts.bytes.withUnsafeBytes { body(Texts.view(range, in: $0)) }
    }

    static func withMetadata<Result>(
        _ metadata: RPCMetadata, _ body: (UnsafePointer<cgrpc_pair>?, Int) -> Result
    ) -> Result {
        guard !metadata.isEmpty else { return body(nil, 0) }
        var texts = Texts()
        let ranges = metadata.entries.map { entry in
            let key = texts.add(entry.key)
            return switch entry.value {
            case .text(let text): (key, texts.add(text))
            case .binary(let bytes): (key, texts.add(bytes))
            }
        }
        return texts.bytes.withUnsafeBytes { base in
            let pairs = ranges.map {
                cgrpc_pair(key: Texts.view($0.0, in: base), value: Texts.view($0.1, in: base))
            }
            return pairs.withUnsafeBufferPointer { body($0.baseAddress, $0.count) }
        }
    }

    static func withTLS<Result>(
        _ security: RPCSecurity, _ body: (UnsafePointer<cgrpc_tls>?) -> Result
    ) -> Result {
        guard case .mutualTLS(let chain, let key, let roots, let expectedName) = security else {
            return body(nil)
        }
        var texts = Texts()
        let ranges = [chain, key, roots, expectedName ?? ""].map { texts.add($0) }
        return texts.bytes.withUnsafeBytes { base in
            var tls = cgrpc_tls(
                chain: Texts.view(ranges[0], in: base), key: Texts.view(ranges[1], in: base),
                roots: Texts.view(ranges[2], in: base), expected_name: Texts.view(ranges[3], in: base))
            return withUnsafePointer(to: &tls) { body($0) }
        }
    }

    static func withCallOptions<Result>(
        _ method: String, _ metadata: RPCMetadata, _ timeout: Duration?, _ waitForReady: Bool,
        _ body: (UnsafePointer<cgrpc_call_options>) -> Result
    ) -> Result {
        withText(method) { method in
            withMetadata(metadata) { pairs, count in
                var options = cgrpc_call_options(
                    method: method, metadata: pairs, metadata_count: count,
                    timeout: timeout?.nanosecondsForGRPC ?? -1, wait_for_ready: waitForReady)
                return withUnsafePointer(to: &options) { body($0) }
            }
        }
    }

    static func string(_ text: cgrpc_text) -> String {
        String(decoding: bytes(text), as: UTF8.self)
    }

    private static func bytes(_ text: cgrpc_text) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: text.start, count: text.count)
    }

    static func status(_ status: cgrpc_status) -> RPCStatus {
        RPCStatus(RPCCode(rawValue: Int(status.code)) ?? .unknown, string(status.message))
    }

    static func metadata(_ pairs: UnsafePointer<cgrpc_pair>?, _ count: Int) -> RPCMetadata {
        var metadata = RPCMetadata()
        for pair in UnsafeBufferPointer(start: pairs, count: count) { add(pair, to: &metadata) }
        return metadata
    }

    private static func add(_ pair: cgrpc_pair, to metadata: inout RPCMetadata) {
        metadata.addReceived(key: string(pair.key), value: Array(bytes(pair.value)))
    }

    /// Collects what `visitAll` shows.
    static func collect(_ visitAll: (UnsafeMutableRawPointer, cgrpc_visit) -> Void) -> RPCMetadata {
        var metadata = RPCMetadata()
        withUnsafeMutablePointer(to: &metadata) { pointer in
            visitAll(pointer) { context, pair in
                guard let context else { return }
                Native.add(pair, to: &context.assumingMemoryBound(to: RPCMetadata.self).pointee)
            }
        }
        return metadata
    }

    // MARK: Messages

    /// Keeps the storage of a message that gRPC sends from where it is.
    private final class Sent {
        let bytes: [UInt8]
        init(_ bytes: [UInt8]) { self.bytes = bytes }
    }

    /// Up to here a copy costs less than keeping the array and hearing back from gRPC.
    private static let largestCopy = 4096

    /// An array's elements stay where they are while the array is retained and not changed; `Sent` retains
    /// it until gRPC releases it, and another owner's change makes a copy of its own.
    static func withBytes<Result>(_ message: [UInt8], _ body: (cgrpc_bytes) -> Result) -> Result {
        let owner = message.count > largestCopy ? Unmanaged.passRetained(Sent(message)).toOpaque() : nil
        return message.withUnsafeBufferPointer { buffer in
            body(
                cgrpc_bytes(
                    start: buffer.baseAddress, count: buffer.count, owner: owner,
                    release: owner == nil
                        ? nil
                        : { owner in
                            if let owner { Unmanaged<Sent>.fromOpaque(owner).release() }
                        }))
        }
    }

    /// What a receive ended with. Owns the C message until `take`, which must be called exactly once.
    ///
    /// Unchecked, because it is handed from gRPC's thread to one waiting task and never shared.
    struct Received: @unchecked Sendable {
        fileprivate let message: OpaquePointer?
        /// Without a message: whether the other side said itself that there will be none.
        let isComplete: Bool

        /// The one copy on the way in.
        func take() -> [UInt8]? {
            guard let message else { return nil }
            let count = cgrpc_message_count(message)
            guard count > 0 else {
                cgrpc_message_discard(message)
                return []
            }
            return [UInt8](unsafeUninitializedCapacity: count) { buffer, initializedCount in
                cgrpc_message_take(message, buffer.baseAddress)
                initializedCount = count
            }
        }
    }

    // MARK: Waiting

    /// One suspended task as C's context: retained when an operation begins, released by its completion.
    private final class Waiter<Value: Sendable> {
        private let continuation: CheckedContinuation<Value, Never>

        init(_ continuation: CheckedContinuation<Value, Never>) { self.continuation = continuation }

        static func resume(_ context: UnsafeMutableRawPointer?, _ value: Value) {
            guard let context else { return }
            Unmanaged<Waiter>.fromOpaque(context).takeRetainedValue().continuation.resume(returning: value)
        }
    }

    /// Begins an operation that completes with success or not.
    static func wait(_ begin: (UnsafeMutableRawPointer, cgrpc_done) -> Void) async -> Bool {
        await withCheckedContinuation { continuation in
            begin(Unmanaged.passRetained(Waiter(continuation)).toOpaque()) { context, ok in
                Waiter<Bool>.resume(context, ok)
            }
        }
    }

    /// As `wait`, for an operation that may be refused at once: then nil.
    static func waitUnlessRefused(_ begin: (UnsafeMutableRawPointer, cgrpc_done) -> Bool) async -> Bool? {
        await withCheckedContinuation { (continuation: CheckedContinuation<Bool?, Never>) in
            let context = Unmanaged.passRetained(Waiter(continuation)).toOpaque()
            let hasBegun = begin(context) { context, ok in Waiter<Bool?>.resume(context, ok) }
            if !hasBegun { Waiter<Bool?>.resume(context, nil) }
        }
    }

    static func waitForMessage(_ begin: (UnsafeMutableRawPointer, cgrpc_received) -> Void) async -> Received {
        await withCheckedContinuation { continuation in
            begin(Unmanaged.passRetained(Waiter(continuation)).toOpaque()) { context, message, complete in
                Waiter<Received>.resume(context, Received(message: message, isComplete: complete))
            }
        }
    }

    typealias Answer = (status: RPCStatus, message: Received)

    /// - Parameter begin: Says whether the call was begun.
    static func waitForAnswer(
        _ begin: (UnsafeMutableRawPointer, cgrpc_answered) -> Bool
    ) async -> Answer? {
        await withCheckedContinuation { (continuation: CheckedContinuation<Answer?, Never>) in
            let context = Unmanaged.passRetained(Waiter(continuation)).toOpaque()
            let hasBegun = begin(context) { context, status, message in
                let received = Received(message: message, isComplete: true)
                Waiter<Answer?>.resume(context, (Native.status(status), received))
            }
            if !hasBegun { Waiter<Answer?>.resume(context, nil) }
        }
    }

    // MARK: Library

    static func setLog(minimum: Int32, isWanted: Bool) {
        cgrpc_set_log(
            isWanted
                ? { severity, line in RPCLog.write(severity: severity, line: Native.string(line)) } : nil,
            minimum)
    }
}

extension RPCSecurity {
    /// Refuses certificates and keys that cannot be used, before gRPC fails each call for it.
    func check() throws(RPCStatus) {
        var reason = [CChar](repeating: 0, count: 256)
        let isUsable = Native.withTLS(self) { tls in
            guard let tls else { return true }
            return reason.withUnsafeMutableBufferPointer { buffer in
                guard let start = buffer.baseAddress else { return false }
                return cgrpc_tls_check(tls, start, buffer.count)
            }
        }
        guard isUsable else {
            let text = String(
                decoding: reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            throw RPCStatus(.invalidArgument, text)
        }
    }
}

/// What makes a method name one: "/package.Service/Method".
func checkMethod(_ method: String) throws(RPCStatus) {
    guard method.hasPrefix("/"), method.utf8.allSatisfy({ (0x21...0x7e).contains($0) }) else {
        throw RPCStatus(.invalidArgument, "\(method.debugDescription) is not a method name")
    }
}

func checkSize(_ message: [UInt8], _ maximum: Int) throws(RPCStatus) {
    guard message.count <= maximum else {
        throw RPCStatus(
            .resourceExhausted, "a message of \(message.count) bytes is larger than the limit of \(maximum)")
    }
}
