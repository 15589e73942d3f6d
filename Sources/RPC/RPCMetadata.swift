/// Keys and values that go with a call, in order; a key may occur more than once.
///
/// Keys are lower case. The value of a key that ends in "-bin" is bytes, of any other key it is printable
/// ASCII. What breaks these rules is refused when it is sent, with `.invalidArgument`.
package struct RPCMetadata: Hashable, Sendable {
    package enum Content: Hashable, Sendable {
        case text(String)
        case binary([UInt8])
    }

    package struct Entry: Hashable, Sendable {
        package let key: String
        package let value: Content
    }

    package private(set) var entries: [Entry] = []

    package init() {}

    package mutating func add(_ key: String, _ text: String) {
        entries.append(Entry(key: key.lowercased(), value: .text(text)))
    }

    /// - Parameter key: Ends in "-bin".
    package mutating func add(_ key: String, binary bytes: [UInt8]) {
        entries.append(Entry(key: key.lowercased(), value: .binary(bytes)))
    }

    package mutating func removeAll(_ key: String) {
        let key = key.lowercased()
        entries.removeAll { $0.key == key }
    }

    /// All values of a key, in order.
    package func values(_ key: String) -> [Content] {
        let key = key.lowercased()
        return entries.filter { $0.key == key }.map(\.value)
    }

    /// The first text of a key.
    package subscript(key: String) -> String? {
        for case .text(let text) in values(key) { return text }
        return nil
    }

    /// The first bytes of a key that ends in "-bin".
    package subscript(binary key: String) -> [UInt8]? {
        for case .binary(let bytes) in values(key) { return bytes }
        return nil
    }

    package var isEmpty: Bool { entries.isEmpty }
}

extension RPCMetadata: ExpressibleByDictionaryLiteral {
    package typealias Key = String
    package typealias Value = String

    package init(dictionaryLiteral elements: (String, String)...) {
        for (key, text) in elements { add(key, text) }
    }
}

extension RPCMetadata {
    /// HTTP/2's own, or gRPC's.
    private static let reservedKeys: Set<String> = [
        "connection", "content-length", "content-type", "host", "te", "transfer-encoding", "user-agent",
    ]

    /// gRPC ends the process on metadata that it finds illegal, so this is at least as strict.
    func check() throws(RPCStatus) {
        for entry in entries {
            let keyIsLegal = entry.key.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                    UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                    true
                default: false
                }
            }
            guard !entry.key.isEmpty, keyIsLegal else {
                throw RPCStatus(.invalidArgument, "metadata key \(entry.key.debugDescription) is not legal")
            }
            guard !entry.key.hasPrefix("grpc-"), !Self.reservedKeys.contains(entry.key) else {
                throw RPCStatus(.invalidArgument, "metadata key \(entry.key) is reserved")
            }
            switch entry.value {
            case .text(let text):
                guard !entry.key.hasSuffix("-bin"), text.utf8.allSatisfy({ (0x20...0x7e).contains($0) })
                else {
                    throw RPCStatus(
                        .invalidArgument, "the value of metadata key \(entry.key) is not printable ASCII")
                }
            case .binary:
                guard entry.key.hasSuffix("-bin") else {
                    throw RPCStatus(.invalidArgument, "metadata key \(entry.key) has bytes but no -bin")
                }
            }
        }
    }

    /// As received: nothing to check, for gRPC did.
    mutating func addReceived(key: String, value: [UInt8]) {
        let value: Content =
            key.hasSuffix("-bin") ? .binary(value) : .text(String(decoding: value, as: UTF8.self))
        entries.append(Entry(key: key, value: value))
    }
}
