import EngineTestSupport

/// What the kernel asks a FUSE server, by the numbers of the kernel's fuse.h.
enum FuseOpcode: UInt32, CaseIterable {
    case lookup = 1
    case forget, getattr, setattr, readlink, symlink
    case mknod = 8
    case mkdir, unlink, rmdir, rename, link, open, read, write, statfs, release
    case fsync = 20
    case setxattr, getxattr, listxattr, removexattr, flush, initialize, opendir, readdir, releasedir, fsyncdir
    case getlk, setlk, setlkw, access, create, interrupt, bmap, destroy, ioctl, poll, notifyReply, batchForget
    case fallocate, readdirplus, rename2, lseek, copyFileRange, setupMapping, removeMapping, syncfs, tmpfile
    case statx

    /// Nobody waits for an answer to these.
    static func isSilent(_ opcode: UInt32) -> Bool {
        [Self.forget, .batchForget, .notifyReply].contains { $0.rawValue == opcode }
    }
}

/// A request, as bytes: header and what is behind it.
struct FuseMessage {
    var opcode: UInt32
    /// From the node id on: node id, user, group, process, padding, and the body.
    var rest: [UInt8]
    /// What the header says of the length; nil: the truth.
    var statedByteCount: UInt32?

    static let headerByteCount = 40

    init(
        _ opcode: FuseOpcode, node: UInt64 = 1, user: UInt32 = 0, process: UInt32 = 0, _ body: [UInt8] = []
    ) {
        self.opcode = opcode.rawValue
        rest = [UInt8](words: [node]) + [UInt8](halves: [user, user, process, 0]) + body
    }

    init(opcode: UInt32, rest: [UInt8]) {
        self.opcode = opcode
        // A shorter one is no message of /dev/fuse, which gives a header at least.
        self.rest = rest + [UInt8](repeating: 0, count: max(0, Self.headerByteCount - 16 - rest.count))
    }

    func bytes(unique: UInt64) -> [UInt8] {
        let byteCount = statedByteCount ?? UInt32(rest.count + 16)
        return [UInt8](halves: [byteCount, opcode]) + [UInt8](words: [unique]) + rest
    }

    /// INIT of a kernel with everything that this server may ask for.
    static func initialize(major: UInt32 = 7, minor: UInt32 = 38, flags: UInt32 = 0x73ff_fffb) -> FuseMessage
    {
        FuseMessage(
            .initialize,
            [UInt8](halves: [major, minor, 1 << 17, flags] + [UInt32](repeating: 0, count: 12)))
    }
}

extension [UInt8] {
    init(words: [UInt64]) { self = words.flatMap { Swift.withUnsafeBytes(of: $0) { [UInt8]($0) } } }
    init(halves: [UInt32]) { self = halves.flatMap { Swift.withUnsafeBytes(of: $0) { [UInt8]($0) } } }

    func half(at offset: Int) -> UInt32 {
        withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
    }

    func word(at offset: Int) -> UInt64 {
        withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
    }
}

/// What is sent back.
struct FuseAnswer {
    let error: Int32
    let payload: [UInt8]

    /// The node id that it gives the kernel, if the request makes or finds one.
    func node(for request: [UInt8]) -> UInt64? {
        let opcode = FuseOpcode(rawValue: request.half(at: 4))
        switch opcode {
        case .lookup, .symlink, .mknod, .mkdir, .link, .create, .tmpfile:
            return error == 0 && payload.count >= 8 && payload.word(at: 0) != 0 ? payload.word(at: 0) : nil
        default: return nil
        }
    }

    /// What is wrong with it; nil: nothing. Knows nothing of the file system: only what any answer must be like.
    func fault(for request: [UInt8]) -> String? {
        guard (-511...0).contains(error) else { return "the error is \(error)" }
        if request.half(at: 4) == FuseOpcode.interrupt.rawValue {
            return error == -11 && payload.isEmpty ? nil : "an interruption is answered with \(error)"
        }
        guard error == 0 else {
            return payload.isEmpty ? nil : "an error comes with \(payload.count) bytes"
        }
        guard let limits = Self.byteCounts(of: request) else { return "it was no request, and succeeded" }
        return limits.contains(payload.count)
            ? nil : "it has \(payload.count) bytes, where \(limits) are right"
    }

    /// How many bytes a success may have; nil: there may be none.
    private static func byteCounts(of request: [UInt8]) -> ClosedRange<Int>? {
        guard let opcode = FuseOpcode(rawValue: request.half(at: 4)) else { return nil }
        func asked(at offset: Int) -> Int {
            request.count >= 40 + offset + 4 ? Int(request.half(at: 40 + offset)) : 0
        }
        switch opcode {
        case .lookup, .symlink, .mknod, .mkdir, .link: return 128...128
        case .getattr, .setattr: return 104...104
        case .readlink: return 1...4095
        case .open: return 16...16
        case .create, .tmpfile: return 144...144
        case .write, .lseek: return 8...8
        case .statfs: return 80...80
        case .read, .readdir, .readdirplus: return 0...asked(at: 16)
        case .getxattr, .listxattr: return asked(at: 0) == 0 ? 8...8 : 0...asked(at: 0)
        case .unlink, .rmdir, .rename, .rename2, .release, .releasedir, .fsync, .fsyncdir, .setxattr,
            .removexattr, .destroy, .fallocate:
            return 0...0
        case .forget, .batchForget, .interrupt, .notifyReply, .initialize, .flush, .opendir, .getlk, .setlk,
            .setlkw, .access, .bmap, .ioctl, .poll, .copyFileRange, .setupMapping, .removeMapping, .syncfs,
            .statx:
            return nil
        }
    }
}
