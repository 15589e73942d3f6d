import EngineTestSupport

/// Makes requests of every kind: the same from the same seed and the same node ids.
struct FuseRequestMaker {
    /// What their numbers and names are like.
    enum Temper {
        /// As the kernel's: of inodes that it knows, with names that its callers may use.
        case tame
        /// Of the right form, and senseless now and then.
        case wild
        /// Damaged as well.
        case broken
    }

    let temper: Temper
    /// Node ids that the server has given. It may have been told to forget them.
    private var nodes: [UInt64] = [1]
    private var mutator: Mutator
    private var earlier: [[UInt8]] = []

    init(seed: UInt64, _ temper: Temper) {
        self.temper = temper
        mutator = Mutator(seed: seed)
    }

    mutating func learn(_ new: [UInt64]) {
        // The later ones are more often still there.
        nodes = Array((nodes + new).suffix(64))
    }

    /// One of so many.
    mutating func next(below bound: Int) -> Int { mutator.generator.next(below: bound) }

    /// - Parameter open: a request that waits for an answer, for one that interrupts it.
    mutating func request(interrupting open: UInt64?) -> FuseMessage {
        var opcode = mutator.generator.element(of: Self.likely) ?? .getattr
        if next(below: 3) == 0 { opcode = mutator.generator.element(of: FuseOpcode.allCases) ?? .getattr }
        if open != nil, next(below: 20) == 0 { opcode = .interrupt }
        let node = self.node()
        let body = opcode == .interrupt ? [UInt8](words: [open ?? number()]) : body(of: opcode)
        let message = FuseMessage(
            opcode, node: node, user: next(below: 3) == 0 ? 1000 : 0, process: next(below: 4) == 0 ? 1 : 0,
            body)
        return temper == .broken ? damaged(message) : message
    }

    /// More often than others: what makes something to work on.
    private static let likely: [FuseOpcode] = [
        .lookup, .create, .mkdir, .symlink, .mknod, .open, .read, .write, .setattr, .rename2, .link, .unlink,
        .setxattr, .getxattr, .readdirplus, .forget, .fallocate, .lseek,
    ]

    // MARK: damage

    /// The unique number alone stays as it is: by it the answers are counted, and the kernel's never come twice.
    private mutating func damaged(_ message: FuseMessage) -> FuseMessage {
        earlier.append(message.rest)
        if earlier.count > 32 { earlier.removeFirst() }
        switch next(below: 12) {
        case 0: return FuseMessage(opcode: unusualOpcode(), rest: message.rest)
        case 1: return FuseMessage(opcode: message.opcode, rest: mutator.generator.element(of: earlier) ?? [])
        case 2:
            var lying = message
            lying.statedByteCount = UInt32(truncatingIfNeeded: number())
            return lying
        case 3:
            return FuseMessage(
                opcode: message.opcode, rest: message.rest + mutator.generator.bytes(next(below: 5000)))
        case 4...9: return FuseMessage(opcode: message.opcode, rest: mutator.damaged([message.rest]))
        default: return message
        }
    }

    private mutating func unusualOpcode() -> UInt32 {
        let unusual: [UInt32] = [0, 7, 19, 26, 38, 41, 48, 53, 255, 4095, 4096, 4097, 0x8000_0000, .max]
        return mutator.generator.element(of: unusual) ?? 0
    }

    // MARK: numbers and names

    private static let edges: [UInt64] = [
        0, 1, 2, 3, 511, 4095, 4096, 65_536, 1 << 31, 0xffff_ffff, 1 << 32, 1 << 44, (1 << 44) - 4096,
        UInt64(Int64.max) - 4096, UInt64(Int64.max), 1 << 63, (1 << 63) + 1, .max - 1, .max,
    ]

    private var isSenseless: Bool {
        mutating get { temper != .tame && next(below: 5) == 0 }
    }

    private mutating func number() -> UInt64 { mutator.generator.element(of: Self.edges) ?? 0 }

    private mutating func node() -> UInt64 {
        isSenseless ? number() : mutator.generator.element(of: nodes) ?? 1
    }

    /// A number below a bound, or any.
    private mutating func word(below bound: Int) -> UInt64 {
        isSenseless ? number() : UInt64(next(below: bound))
    }
    private mutating func half(below bound: Int) -> UInt32 { UInt32(truncatingIfNeeded: word(below: bound)) }
    /// Most bits of it, now and then.
    private mutating func flags(_ usual: [UInt32]) -> UInt32 {
        isSenseless
            ? UInt32(truncatingIfNeeded: mutator.generator.next()) : mutator.generator.element(of: usual) ?? 0
    }
    /// What a file handle is: its inode's number, which a server must not believe.
    private mutating func handle() -> UInt64 { node() }
    private mutating func offset() -> UInt64 { word(below: 1 << 18) }

    /// With its end.
    private mutating func name() -> [UInt8] {
        guard isSenseless else { return Array("n\(next(below: 12))".utf8) + [0] }
        switch next(below: 9) {
        case 0: return [0]
        case 1: return Array(".".utf8) + [0]
        case 2: return Array("..".utf8) + [0]
        case 3: return Array("a/b".utf8) + [0]
        case 4: return Array("/".utf8) + [0]
        case 5: return [UInt8](repeating: 0x6e, count: 254 + next(below: 3)) + [0]
        case 6: return [UInt8](repeating: 0x6e, count: 5000) + [0]
        case 7: return mutator.generator.bytes(20).map { $0 | 0x80 } + [0]
        // None: it ends where the request does.
        default: return Array("n1".utf8)
        }
    }

    private mutating func attributeName() -> [UInt8] {
        if isSenseless { return name() }
        let names = [
            "user.a", "user.b", "trusted.c", "security.capability", "system.posix_acl_access",
            "system.posix_acl_default",
        ]
        return Array((mutator.generator.element(of: names) ?? "").utf8) + [0]
    }

    /// How many bytes there are said to be.
    private mutating func count(of bytes: [UInt8]) -> UInt32 {
        isSenseless ? UInt32(truncatingIfNeeded: number()) : UInt32(bytes.count)
    }

    /// A list of owner, group and others, or just bytes.
    private mutating func attributeValue() -> [UInt8] {
        guard next(below: 3) == 0 else { return mutator.generator.bytes(next(below: 300)) }
        let entries: [(UInt32, UInt32)] = [(1, .max), (4, .max), (0x20, .max)]
        return [UInt8](halves: [2] + entries.flatMap { [$0.0 | UInt32(next(below: 8)) << 16, $0.1] })
    }

    // MARK: bodies

    private mutating func body(of opcode: FuseOpcode) -> [UInt8] {
        switch opcode {
        case .lookup, .unlink, .rmdir: name()
        case .removexattr: attributeName()
        case .symlink: name() + name()
        case .link: [UInt8](words: [node()]) + name()
        case .rename: [UInt8](words: [node()]) + name() + name()
        case .rename2:
            [UInt8](words: [node()]) + [UInt8](halves: [flags([0, 0, 1, 2, 4]), 0]) + name() + name()
        case .mknod: [UInt8](halves: [mode(), half(below: 300), 0o22, 0]) + name()
        case .mkdir: [UInt8](halves: [half(below: 0o1000), 0o22]) + name()
        case .create: [UInt8](halves: [flags([2, 0x8002, 0xc002]), mode(), 0o22, 0]) + name()
        case .tmpfile: [UInt8](halves: [flags([2]), mode(), 0, 0, 0x2f])
        case .forget: [UInt8](words: [word(below: 3)])
        case .batchForget: forgets()
        case .setattr: attributes()
        case .read, .readdir, .readdirplus: extent() + [UInt8](halves: [half(below: 70_000), 0]) + tail()
        case .write: write()
        case .setxattr: attribute()
        case .getxattr: [UInt8](halves: [half(below: 400), 0]) + attributeName()
        case .fallocate:
            extent() + [UInt8](words: [word(below: 1 << 18)])
                + [UInt8](halves: [flags([0, 1, 3, 16, 17]), 0])
        case .lseek: extent() + [UInt8](halves: [flags([3, 4]), 0])
        case .ioctl:
            [UInt8](words: [handle()]) + [UInt8](halves: [flags([0, 1, 16]), 1, 0, 0, count(of: []), 64])
        case .open, .opendir, .access, .listxattr: [UInt8](halves: [flags([0, 1, 2]), 0])
        case .getattr, .fsync, .fsyncdir: [UInt8](words: [word(below: 2), handle()])
        case .release, .releasedir, .flush, .poll: [UInt8](words: [handle(), word(below: 4), number()])
        case .interrupt, .syncfs: [UInt8](words: [number()])
        case .initialize: FuseMessage.initialize(major: half(below: 9), minor: half(below: 40)).initBody
        case .readlink, .statfs, .destroy: []
        case .getlk, .setlk, .setlkw, .bmap, .notifyReply, .copyFileRange, .setupMapping, .removeMapping,
            .statx:
            [UInt8](words: (0..<7).map { _ in number() })
        }
    }

    private mutating func mode() -> UInt32 {
        flags([0o100644, 0o100755, 0o104755, 0o010600, 0o140600, 0o060600])
    }

    /// Handle and offset, with which many begin.
    private mutating func extent() -> [UInt8] { [UInt8](words: [handle(), offset()]) }

    /// Lock owner, and the file's flags: O_DIRECT or none.
    private mutating func tail() -> [UInt8] {
        [UInt8](words: [0, UInt64(flags([0, 0, 0o40000, 0o1000000]))])
    }

    private mutating func write() -> [UInt8] {
        let bytes = mutator.generator.bytes(next(below: next(below: 4) == 0 ? 60_000 : 600))
        return extent() + [UInt8](halves: [count(of: bytes), flags([0, 1, 4])]) + tail() + bytes
    }

    private mutating func attribute() -> [UInt8] {
        let value = attributeValue()
        return [UInt8](halves: [count(of: value), flags([0, 0, 1, 2])]) + attributeName() + value
    }

    private mutating func attributes() -> [UInt8] {
        // Size and times more often than owners: most files stay readable.
        let valid = flags([1, 2, 4, 8, 8, 8, 0x10, 0x20, 0x1b0, 1 << 10, 1 << 11, 0x40 | 8])
        var words = [UInt64(valid), handle(), word(below: 1 << 18), 0]
        for _ in 0..<3 { words.append(number()) }
        let nanoseconds = (0..<3).map { _ in half(below: 1_000_000_000) }
        return [UInt8](words: words)
            + [UInt8](halves: nanoseconds + [mode(), 0, half(below: 2000), half(below: 2000), 0])
    }

    private mutating func forgets() -> [UInt8] {
        let items = (0..<next(below: 5)).flatMap { _ in [node(), word(below: 3)] }
        let count = isSenseless ? UInt32(truncatingIfNeeded: number()) : UInt32(items.count / 2)
        return [UInt8](halves: [count, 0]) + [UInt8](words: items)
    }
}

extension FuseMessage {
    fileprivate var initBody: [UInt8] { Array(rest.dropFirst(24)) }
}
