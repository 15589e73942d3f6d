/// A POSIX access control list, in the form that `system.posix_acl_access` and `system.posix_acl_default` have.
///
/// - Source: acl(5); the attribute's form is Linux's `posix_acl_xattr.h`, version 2, little-endian.
struct AccessControlList: Hashable, Sendable {
    static let accessName = Array("system.posix_acl_access".utf8)
    static let defaultName = Array("system.posix_acl_default".utf8)

    enum Tag: UInt16 {
        case owner = 0x01
        case user = 0x02
        case owningGroup = 0x04
        case group = 0x08
        case mask = 0x10
        case other = 0x20
    }

    struct Entry: Hashable, Sendable {
        let tag: Tag
        /// Read 4, write 2, execute 1.
        var permissions: UInt16
        /// Whom it is about; `undefined` where the tag says it all.
        let id: UInt32

        static let undefined = UInt32.max
    }

    private static let version: UInt32 = 2
    private(set) var entries: [Entry]

    /// Whether it says more than nine mode bits can.
    var isExtended: Bool { entries.contains { [.user, .group, .mask].contains($0.tag) } }

    /// The nine mode bits that stand for it: the group's are the mask's, where there is one.
    var modeBits: UInt32 {
        permissions(of: .owner) << 6 | permissions(of: groupClass) << 3 | permissions(of: .other)
    }

    private var groupClass: Tag { entries.contains { $0.tag == .mask } ? .mask : .owningGroup }

    private func permissions(of tag: Tag) -> UInt32 {
        UInt32(entries.first { $0.tag == tag }?.permissions ?? 0)
    }

    /// chmod(2) on a file that has this list.
    mutating func apply(modeBits: UInt32) {
        let groupClass = self.groupClass
        for index in entries.indices {
            switch entries[index].tag {
            case .owner: entries[index].permissions = UInt16(modeBits >> 6 & 7)
            case groupClass: entries[index].permissions = UInt16(modeBits >> 3 & 7)
            case .other: entries[index].permissions = UInt16(modeBits & 7)
            case .user, .owningGroup, .group, .mask: break
            }
        }
    }

    /// What a new file gets from its directory's default list: no class gets more than the maker asked for.
    func inherited(modeBits: UInt32) -> AccessControlList {
        var list = self
        list.apply(modeBits: self.modeBits & modeBits)
        return list
    }

    // MARK: the attribute's form

    /// - Returns: nil for bytes that are no list, and for a list that acl(5) does not allow.
    init?(attribute bytes: [UInt8]) {
        guard bytes.count >= 4, (bytes.count - 4) % 8 == 0, Self.number(bytes, 0, 4) == Self.version else {
            return nil
        }
        entries = []
        for start in stride(from: 4, to: bytes.count, by: 8) {
            guard let tag = Tag(rawValue: UInt16(Self.number(bytes, start, 2))) else { return nil }
            let permissions = Self.number(bytes, start + 2, 2)
            guard permissions <= 7 else { return nil }
            let hasID = tag == .user || tag == .group
            let id = Self.number(bytes, start + 4, 4)
            if hasID, id == Entry.undefined { return nil }
            entries.append(
                Entry(tag: tag, permissions: UInt16(permissions), id: hasID ? id : Entry.undefined))
        }
        guard isValid else { return nil }
    }

    private static func number(_ bytes: [UInt8], _ start: Int, _ count: Int) -> UInt32 {
        bytes[start..<start + count].reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Classes in their order, those without an ID once, and a mask if anybody is named.
    private var isValid: Bool {
        func count(_ tag: Tag) -> Int { entries.count { $0.tag == tag } }
        let isNaming = count(.user) + count(.group) > 0
        return zip(entries, entries.dropFirst()).allSatisfy { $0.tag.rawValue <= $1.tag.rawValue }
            && count(.owner) == 1 && count(.owningGroup) == 1 && count(.other) == 1
            && (isNaming ? count(.mask) == 1 : count(.mask) <= 1)
    }

    var attribute: [UInt8] {
        var bytes: [UInt8] = []
        func append(_ number: UInt32, _ count: Int) {
            for index in 0..<count { bytes.append(UInt8(truncatingIfNeeded: number >> (8 * index))) }
        }
        append(Self.version, 4)
        for entry in entries {
            append(UInt32(entry.tag.rawValue), 2)
            append(UInt32(entry.permissions), 2)
            append(entry.id, 4)
        }
        return bytes
    }
}
