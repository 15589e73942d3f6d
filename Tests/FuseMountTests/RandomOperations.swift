/// Random operations in the words of `replay.c`, on few names, so that they meet each other.
struct RandomOperations {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    /// SplitMix64: the same numbers for the same seed, on every machine.
    private mutating func number(below limit: UInt64) -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return (mixed ^ (mixed >> 31)) % limit
    }

    private mutating func pick<Element>(_ elements: [Element]) -> Element {
        elements[Int(number(below: UInt64(elements.count)))]
    }

    mutating func lines(count: Int) -> [String] {
        var lines = ["chmod . 0777", "umask 022"]
        for index in 1...count {
            let operation = operation()
            // To others the kernel may refuse a link by set-ID bits that a write has just cleared: so says the guide.
            lines += operation.hasPrefix("link ") ? ["as 0", operation] : [operation]
            if index % 150 == 0 || index == count { lines += ["as 0", "tree"] }
        }
        return lines
    }

    private mutating func operation() -> String {
        switch number(below: 100) {
        case 0..<34: nameOperation()
        case 34..<52: attributeOperation()
        case 52..<55: pick(["as 0", "as 0", "as 10", "as 11", "umask 022", "umask 077", "umask 0"])
        default: fileOperation()
        }
    }

    private mutating func path() -> String {
        let depth = pick([1, 1, 2, 2, 2, 3])
        return (0..<depth).map { _ in pick(["a", "b", "c", "d", "e"]) }.joined(separator: "/")
    }

    private mutating func nameOperation() -> String {
        switch number(below: 34) {
        case 0..<6: return "mkdir \(path()) \(pick(["0777", "0755", "0700", "01777"]))"
        case 6..<9: return "mknod \(path()) \(pick(["0100666", "010644", "020666", "0140600", "0104755"]))"
        case 9..<12: return "rmdir \(path())"
        case 12..<16: return "unlink \(path())"
        case 16..<20: return "link \(path()) \(path())"
        case 20..<22: return "symlink \(path()) \(path())"
        case 22..<30: return "rename \(path()) \(path()) \(pick([0, 0, 0, 1, 2]))"
        case 30: return "list \(path())"
        default: return "stat \(path())"
        }
    }

    private mutating func attributeOperation() -> String {
        let attribute = pick(["user.a", "user.b", "trusted.a", "security.x", "other.z"])
        let list = pick(["system.posix_acl_access", "system.posix_acl_access", "system.posix_acl_default"])
        switch number(below: 18) {
        case 0..<3:
            let modes = [
                "0644", "0600", "0755", "0777", "0700", "01777", "02775", "02767", "04755", "06775", "0",
                "0444",
            ]
            return "chmod \(path()) \(pick(modes))"
        case 3..<6:
            // With neither, the guide says what is otherwise than on ext4.
            let owner = pick([0, 10, 11, -1])
            return "chown \(path()) \(owner) \(owner < 0 ? pick([0, 10, 20]) : pick([0, 10, 20, -1]))"
        case 6..<8: return "times \(path()) \(number(below: 1_000_000)) \(number(below: 1_000_000_000))"
        case 8..<11:
            return
                "set \(path()) \(attribute) \(pick([0, 1, 40, 200])) \(number(below: 9)) \(pick([0, 0, 1, 2]))"
        case 11: return "remove \(path()) \(pick([attribute, attribute, list]))"
        case 12: return "attributes \(path())"
        case 13: return "access \(path()) \(number(below: 8))"
        default:
            // Owner, user, group, mask (which lets the group execute), other.
            let parts = [
                pick([7, 6]), number(below: 8), number(below: 8), number(below: 8) | 1, number(below: 8),
            ]
            let permissions = parts.reduce(UInt64(0)) { $0 << 3 | UInt64($1) }
            return "acl \(path()) \(list) \(permissions)"
        }
    }

    private mutating func fileOperation() -> String {
        let slot = number(below: 5)
        let offset = pick([0, number(below: 100), number(below: 20_000), number(below: 200_000)])
        let byteCount = pick([1, number(below: 100), 4096, number(below: 70_000)])
        switch number(below: 45) {
        case 0..<11:
            // O_RDONLY, O_RDWR with O_CREAT, O_EXCL, O_TRUNC, O_APPEND, and O_NOFOLLOW.
            let flags = pick([0, 0o2, 0o102, 0o102, 0o302, 0o1102, 0o2102, 0o1, 0o1001, 0o400002])
            return "open \(slot) \(path()) \(flags) \(pick(["0666", "0600", "0777"]))"
        case 11: return "open \(slot) \(pick([".", path()])) \(0o20200002) 0666"
        case 12: return "name \(slot) \(path())"
        case 13: return "close \(slot)"
        case 14..<23: return "write \(slot) \(offset) \(byteCount) \(number(below: 250))"
        case 23..<29: return "read \(slot) \(offset) \(byteCount)"
        case 29..<32: return "ftruncate \(slot) \(offset)"
        case 32: return "truncate \(path()) \(offset)"
        case 33..<37: return "fallocate \(slot) \(pick([0, 1, 3, 3, 16, 17, 2])) \(offset) \(byteCount)"
        case 37..<39: return "map \(slot) \(offset) \(byteCount) \(number(below: 250))"
        case 39: return "fsync \(slot)"
        case 40: return "fchmod \(slot) \(pick(["0644", "0600", "06777"]))"
        case 41..<43:
            return "copy \(slot) \(offset) \(number(below: 5)) \(number(below: 100_000)) \(byteCount)"
        default: return "fstat \(slot)"
        }
    }
}
