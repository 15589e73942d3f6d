import CTestBed
import Foundation
import Glibc
import VolumeModel

/// What an application does to files of a volume, step by step, and what it may find afterwards.
///
/// A step that fails is given up; all others go on.
struct ScriptedLife: Sendable {
    /// What a name may be.
    enum State: Hashable, Sendable, CustomStringConvertible {
        case absent, directory
        case bytes([UInt8])

        var description: String {
            switch self {
            case .absent: "absent"
            case .directory: "a directory"
            case .bytes(let bytes): "\(bytes.count) bytes (\(bytes.first ?? 0) … \(bytes.last ?? 0))"
            }
        }
    }

    let name: String
    let mountPoint: String
    /// Names of which it is known what they may be: what was synced, and what was begun since.
    private var promised: [String: Set<State>] = [:]
    /// What was otherwise than it may be.
    var faults: [String] = []
    /// Calls that failed as they may.
    private(set) var failures: [String] = []
    /// The call of the site that was made to fail; empty: none was.
    var hit = ""

    init(name: String, mountPoint: String) {
        self.name = name
        self.mountPoint = mountPoint
    }

    private struct GivenUp: Error {}

    // MARK: calls

    private func path(_ name: String) -> String { mountPoint + "/" + name }

    /// - Throws: when the call failed. With what a disk may fail with; anything else is a fault.
    @discardableResult
    private mutating func call<Result: SignedInteger>(_ what: String, _ result: Result) throws -> Result {
        let number = errno
        guard result < 0 else { return result }
        failures.append("\(what): \(Errno(number))")
        if ![EIO, ENOSPC, EROFS].contains(number) { faults.append("\(what) failed with \(Errno(number))") }
        throw GivenUp()
    }

    /// A negative errno, as the other calls tell it.
    private static func raised<Result: FixedWidthInteger & SignedInteger>(_ result: Result) -> Result {
        guard result < 0 else { return result }
        errno = Int32(clamping: -result)
        return -1
    }

    private mutating func step(_ body: (inout ScriptedLife) throws -> Void) {
        do { try body(&self) } catch {}
    }

    private mutating func opened<Result>(
        _ name: String, _ flags: Int32, _ body: (inout ScriptedLife, Int32) throws -> Result
    ) throws -> Result {
        let descriptor = try call("open \(name)", open(path(name), flags, 0o644))
        defer { close(descriptor) }
        return try body(&self, descriptor)
    }

    private mutating func write(_ bytes: [UInt8], to descriptor: Int32, _ name: String, at offset: Int = 0)
        throws
    {
        var done = 0
        while done < bytes.count {
            done += try call(
                "write \(name)",
                bytes[done...].withUnsafeBytes {
                    pwrite(descriptor, $0.baseAddress, $0.count, off_t(offset + done))
                })
        }
    }

    private mutating func synchronize(_ descriptor: Int32, _ name: String) throws {
        try call("fsync \(name)", fsync(descriptor))
    }

    private mutating func synchronizeDirectory(_ name: String = "") throws {
        try opened(name, O_RDONLY | O_DIRECTORY) { try $0.synchronize($1, "directory '\(name)'") }
    }

    // MARK: promises

    private mutating func may(_ name: String, _ states: State...) {
        promised[name, default: [.absent]].formUnion(states)
    }

    private mutating func must(_ name: String, _ state: State) { promised[name] = [state] }

    private func bytes(_ seed: UInt8, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) &+ seed }
    }

    // MARK: its steps

    /// Makes and syncs a file of its own bytes. Until it is synced it may hold anything.
    private mutating func make(_ name: String, _ content: [UInt8]) throws {
        promised[name] = nil
        try opened(name, O_WRONLY | O_CREAT | O_TRUNC) { life, descriptor in
            try life.write(content, to: descriptor, name)
            try life.synchronize(descriptor, name)
        }
        try synchronizeDirectory(String(name.split(separator: "/").dropLast().joined(separator: "/")))
        must(name, .bytes(content))
    }

    /// What there is before anything fails.
    mutating func prepare() {
        step { life in
            try life.call("mkdir d", mkdir(life.path("d"), 0o755))
            for (index, name) in ["kept", "cut", "punched", "old", "doomed", "d/moving"].enumerated() {
                try life.make(name, life.bytes(UInt8(index), 20_000))
            }
            life.must("d", .directory)
        }
    }

    mutating func run() {
        step { try $0.make("new", $0.bytes(10, 20_000)) }
        step { life in
            let (before, after) = (life.bytes(3, 20_000), life.bytes(11, 9_000))
            try life.make("old.new", after)
            life.may("old.new", .absent)
            life.may("old", .bytes(before), .bytes(after))
            try life.call("rename", rename(life.path("old.new"), life.path("old")))
            try life.synchronizeDirectory()
            life.must("old", .bytes(after))
            life.must("old.new", .absent)
        }
        step { life in
            let after = Array(life.bytes(1, 20_000).prefix(5_000))
            try life.opened("cut", O_RDWR) { life, descriptor in
                life.may("cut", .bytes(after))
                try life.call("ftruncate", ftruncate(descriptor, 5_000))
                try life.synchronize(descriptor, "cut")
                life.must("cut", .bytes(after))
            }
        }
        step { life in
            let after = [UInt8](repeating: 0, count: 4096) + life.bytes(2, 20_000).dropFirst(4096)
            try life.opened("punched", O_RDWR) { life, descriptor in
                life.may("punched", .bytes(after))
                try life.call("fallocate", Self.raised(tb_fallocate(descriptor, 3, 0, 4096)))
                try life.synchronize(descriptor, "punched")
                life.must("punched", .bytes(after))
            }
        }
        step { life in
            let content = life.bytes(0, 20_000)
            life.may("linked", .bytes(content))
            try life.call("link", link(life.path("kept"), life.path("linked")))
            try life.synchronizeDirectory()
            life.must("linked", .bytes(content))
        }
        step { life in
            life.may("doomed", .absent)
            try life.call("unlink", unlink(life.path("doomed")))
            try life.synchronizeDirectory()
            life.must("doomed", .absent)
        }
        step { life in
            try life.opened("kept", O_RDWR) { life, descriptor in
                life.may("kept\0user.note", .bytes([1, 2, 3]))
                try life.call(
                    "setxattr",
                    Self.raised(tb_set_attribute(life.path("kept"), "user.note", [1, 2, 3] as [UInt8], 3)))
                try life.synchronize(descriptor, "kept")
                life.must("kept\0user.note", .bytes([1, 2, 3]))
            }
        }
        step { life in
            life.may("made", .directory)
            try life.call("mkdir", mkdir(life.path("made"), 0o755))
            try life.synchronizeDirectory()
            life.must("made", .directory)
            life.may("made", .absent)
            try life.call("rmdir", rmdir(life.path("made")))
            try life.synchronizeDirectory()
            life.must("made", .absent)
        }
        step { life in
            let content = life.bytes(12, 9_000)
            try life.opened("d", oTemporaryFile | O_RDWR) { life, descriptor in
                try life.write(content, to: descriptor, "an unnamed file")
                try life.synchronize(descriptor, "an unnamed file")
                life.may("d/named", .bytes(content))
                try life.call(
                    "linkat",
                    linkat(
                        AT_FDCWD, "/proc/self/fd/\(descriptor)", AT_FDCWD, life.path("d/named"),
                        AT_SYMLINK_FOLLOW))
                try life.synchronizeDirectory("d")
                life.must("d/named", .bytes(content))
            }
        }
        step { life in
            let content = life.bytes(5, 20_000)
            life.may("d/moving", .absent)
            life.may("moved", .bytes(content))
            try life.call("rename", rename(life.path("d/moving"), life.path("moved")))
            try life.synchronizeDirectory("d")
            try life.synchronizeDirectory()
            life.must("d/moving", .absent)
            life.must("moved", .bytes(content))
        }
        compare(mayFail: true)
    }

    /// After the volume was unmounted and mounted.
    mutating func goOn() {
        compare(mayFail: true)
        step { try $0.make("later", $0.bytes(13, 9_000)) }
    }

    // MARK: what there is

    /// Holds what is there against what may be.
    mutating func compare(mayFail: Bool) {
        for (name, states) in promised.sorted(by: { $0.key < $1.key }) {
            do {
                let found = try state(of: name)
                if !states.contains(found) {
                    faults.append("\(name.debugDescription) is \(found), and may be \(states)")
                }
            } catch {
                if !mayFail {
                    faults.append("\(name.debugDescription) cannot be read: \(failures.last ?? "")")
                }
            }
        }
    }

    private mutating func state(of name: String) throws -> State {
        let parts = name.split(separator: "\0")
        if parts.count == 2 {
            var value = [UInt8](repeating: 0, count: 64)
            let count = Self.raised(
                tb_get_attribute(path(String(parts[0])), String(parts[1]), &value, value.count))
            if count < 0, errno == ENODATA { return .absent }
            return .bytes(Array(value.prefix(Int(try call("getxattr", count)))))
        }
        var status = stat()
        let result = lstat(path(name), &status)
        if result != 0, errno == ENOENT { return .absent }
        try call("lstat \(name)", result)
        if status.st_mode & S_IFMT == S_IFDIR { return .directory }
        // Not what the kernel still has.
        return try opened(name, O_RDONLY | oDirect) { life, descriptor in
            var bytes: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 1 << 16)
            while true {
                let count = try life.call(
                    "read \(name)", pread(descriptor, &buffer, buffer.count, off_t(bytes.count)))
                guard count > 0 else { return .bytes(bytes) }
                bytes += buffer.prefix(count)
            }
        }
    }
}

/// O_TMPFILE and O_DIRECT, which Glibc's module lacks.
let oTemporaryFile: Int32 = 0o20_000_000 | O_DIRECTORY
#if arch(arm64)
    let oDirect: Int32 = 0o200_000
#else
    let oDirect: Int32 = 0o40_000
#endif
