/// What is asked of a holder: one message on its socket, answered by one.
///
/// A message is a version (1), an operation, and the name to its end. `put` has two descriptors beside it, and the
/// answer to `take` has them.
enum HolderRequest: Hashable, Sendable {
    /// Keep these; what was kept under the name before goes.
    case put(String)
    /// Give them to me, and keep them no longer.
    case take(String)
    /// Let them go. Unknown, it is a success.
    case drop(String)
    /// Which names are there, in order, after this one.
    case list(after: String)

    static let version: UInt8 = 1
    static let nameLimit = 255

    var bytes: [UInt8] {
        switch self {
        case .put(let name): [Self.version, 1] + name.utf8
        case .take(let name): [Self.version, 2] + name.utf8
        case .drop(let name): [Self.version, 3] + name.utf8
        case .list(let name): [Self.version, 4] + name.utf8
        }
    }

    /// - Returns: nil for what is no request.
    init?(_ bytes: some Collection<UInt8>) {
        let bytes = Array(bytes)
        guard bytes.count >= 2, bytes.count <= 2 + Self.nameLimit, bytes[0] == Self.version,
            let name = String(validating: bytes[2...], as: UTF8.self), !name.utf8.contains(0)
        else { return nil }
        switch bytes[1] {
        case 4: self = .list(after: name)
        case 1...3 where name.isEmpty: return nil
        case 1: self = .put(name)
        case 2: self = .take(name)
        case 3: self = .drop(name)
        default: return nil
        }
    }
}

/// A holder's answer: the version, what became of it, and more to the message's end.
enum HolderReply: Hashable, Sendable {
    case done
    /// Nothing is kept under that name.
    case missing
    /// Why it was not done.
    case refused(String)
    /// As many as fit; the last one is where to go on.
    case names([String])

    static let byteLimit = 32 << 10

    var bytes: [UInt8] {
        var bytes = [HolderRequest.version]
        switch self {
        case .done: bytes.append(0)
        case .missing: bytes.append(1)
        case .refused(let reason): bytes += [2] + reason.utf8.prefix(1024)
        case .names(let names):
            bytes.append(3)
            for name in names {
                let name = Array(name.utf8.prefix(HolderRequest.nameLimit))
                guard bytes.count + 1 + name.count <= Self.byteLimit else { break }
                bytes.append(UInt8(name.count))
                bytes += name
            }
        }
        return bytes
    }

    /// - Returns: nil for what is no answer.
    init?(_ bytes: some Collection<UInt8>) {
        let bytes = Array(bytes)
        guard bytes.count >= 2, bytes[0] == HolderRequest.version else { return nil }
        let rest = bytes[2...]
        switch bytes[1] {
        case 0 where rest.isEmpty: self = .done
        case 1 where rest.isEmpty: self = .missing
        case 2: self = .refused(String(decoding: rest, as: UTF8.self))
        case 3:
            var names: [String] = []
            var left = rest
            while let count = left.popFirst() {
                guard count > 0, left.count >= count,
                    let name = String(validating: left.prefix(Int(count)), as: UTF8.self)
                else { return nil }
                names.append(name)
                left = left.dropFirst(Int(count))
            }
            self = .names(names)
        default: return nil
        }
    }
}
