import CTestBed
import EngineTestSupport
import Foundation
import Glibc
import VolumeModel

@testable import TestBed

/// Changes a tree of its own in the ways that `Writer` does not: any bytes at any place, cuts to any size, attributes,
/// directories, symbolic links, files that had no name or have none any more.
///
/// What it says of each name is what POSIX promises, and as ext4 has it: a new file's own sync keeps its name.
struct TreeWriter {
    /// A file whose bytes change, and what a power loss may make of it.
    private struct File {
        private(set) var content: [UInt8] = []
        private(set) var possible = PossibleBytes([])
        private(set) var mayBeAbsent = true

        var worlds: [Thing] { (mayBeAbsent ? [.absent] : []) + [.file(possible)] }

        /// It may end anywhere on the way: where its bytes do.
        private mutating func grow(to size: Int) {
            guard size > content.count else { return }
            possible.sizes.append(content.count...size)
            content += [UInt8](repeating: 0, count: size - content.count)
            possible.contents.append(content)
        }

        mutating func write(_ bytes: [UInt8], at offset: Int) {
            grow(to: offset + bytes.count)
            content.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            possible.contents.append(content)
        }

        mutating func resize(to size: Int) {
            if size > content.count { return grow(to: size) }
            content.removeLast(content.count - size)
            possible.sizes.append(size...size)
            possible.contents.append(content)
        }

        /// Up to the end of the file.
        mutating func zero(_ range: Range<Int>) {
            let range = range.clamped(to: 0..<content.count)
            content.replaceSubrange(range, with: [UInt8](repeating: 0, count: range.count))
            possible.contents.append(content)
        }

        mutating func noteSynced() {
            possible = PossibleBytes(content)
            mayBeAbsent = false
        }
    }

    static let root = "tree"
    private static let hashedBlock = 1 << 20
    private let mountPoint: String
    private let log: String
    private let promises: PromiseLog
    private var generator: Generator
    private var files: [String: File] = [:]
    /// What else there may be, by what it is about; the last one is what programs see now.
    private var worlds: [String: [World]] = [:]
    private var traits: [String: Traits] = [:]
    /// Files that have no name any more, and their bytes.
    private var unlinked: [(descriptor: Int32, content: [UInt8])] = []

    init(mountPoint: String, log: String, seed: UInt64, _ promises: PromiseLog) {
        (self.mountPoint, self.log, self.promises) = (mountPoint, log, promises)
        generator = Generator(seed: seed)
    }

    mutating func run(steps: Int) throws {
        defer { for (descriptor, _) in unlinked { close(descriptor) } }
        try check(mkdir(path(Self.root), 0o755), "mkdir")
        for number in 0..<2 { try check(mkdir(path(parent(number)), 0o755), "mkdir") }
        try synchronize("")
        try makeLarge()
        try makeMovingDirectory()
        for number in 0..<4 { try makeTraits("\(Self.root)/t\(number)", isDirectory: number == 3) }
        for step in 0..<steps {
            switch generator.next(below: 24) {
            case 0...6: try changeBytes("\(Self.root)/b\(generator.next(below: 5))")
            case 7...8: try changeLarge()
            case 9: try writeDirectly()
            case 10...11: try copyRange()
            case 12...15: try changeTraits("\(Self.root)/t\(generator.next(below: 4))")
            case 16...17: try toggleDirectory("\(Self.root)/d\(generator.next(below: 3))")
            case 18: try toggleLink("\(Self.root)/s\(generator.next(below: 3))")
            case 19...20: try moveDirectory()
            case 21: try nameUnnamed("\(Self.root)/u\(step)")
            default: try keepUnlinked("\(Self.root)/k\(step)")
            }
        }
    }

    // MARK: calls

    private func path(_ name: String) -> String { "\(mountPoint)/\(name)" }

    private func check(_ result: some BinaryInteger, _ call: String) throws {
        let number = errno
        guard result < 0 else { return }
        throw LabError.systemCall(call, detail: "tree", errno: number)
    }

    /// A negative errno.
    private func check(raised result: some SignedInteger, _ call: String) throws {
        guard result < 0 else { return }
        throw LabError.systemCall(call, detail: "tree", errno: Int32(clamping: -result))
    }

    private func opened<Result>(
        _ name: String, _ flags: Int32, _ body: (Int32) throws -> Result
    ) throws -> Result {
        let descriptor = open(path(name), flags, 0o644)
        try check(descriptor, "open \(name)")
        defer { close(descriptor) }
        return try body(descriptor)
    }

    private func write(_ bytes: [UInt8], to descriptor: Int32, at offset: Int) throws {
        let count = pwrite(descriptor, bytes, bytes.count, off_t(offset))
        try check(count, "pwrite")
        guard count == bytes.count else { throw LabError.invalid("a write was cut short") }
    }

    /// A file or directory.
    private func synchronize(_ name: String) throws {
        try opened(name, O_RDONLY) { try check(fsync($0), "fsync \(name)") }
    }

    private mutating func chance(_ part: Int, of whole: Int) -> Bool { generator.next(below: whole) < part }

    // MARK: promises

    private func promise(_ subject: String, _ worlds: [World]) throws {
        var status = stat()
        try check(stat(log, &status), "stat")
        let promise = TreePromise(moment: UInt64(status.st_size), worlds: worlds)
        promises.change { $0.tree[subject, default: []].append(promise) }
    }

    private func promise(_ name: String, _ file: File) throws {
        try promise(name, file.worlds.map { [name: $0] })
    }

    /// To be called before it is done.
    private mutating func may(_ subject: String, _ world: World) throws {
        worlds[subject, default: []].append(world)
        try promise(subject, worlds[subject] ?? [])
    }

    /// The last one is safe.
    private mutating func must(_ subject: String) throws {
        worlds[subject] = worlds[subject].map { $0.suffix(1) }
        try promise(subject, worlds[subject] ?? [])
    }

    // MARK: bytes

    private mutating func changeBytes(_ name: String) throws {
        var file = files[name] ?? File()
        if files[name] == nil { try promise(name, file) }
        try opened(name, O_RDWR | O_CREAT) { descriptor in
            for _ in 0..<1 + generator.next(below: 3) { try change(name, &file, descriptor) }
            try synchronizeAsARule(name, &file, descriptor)
        }
        files[name] = file
    }

    private mutating func synchronizeAsARule(_ name: String, _ file: inout File, _ descriptor: Int32) throws {
        guard chance(2, of: 3) else { return }
        try check(chance(1, of: 2) ? fsync(descriptor) : fdatasync(descriptor), "fsync")
        file.noteSynced()
        try promise(name, file)
    }

    /// One change, to places that are no multiples of anything.
    private mutating func change(_ name: String, _ file: inout File, _ descriptor: Int32) throws {
        let count = file.content.count
        let place = generator.next(below: count + 1)
        let length = 1 + generator.next(below: 9000)
        switch generator.next(below: 8) {
        case 0:
            file.resize(to: place)
            try promise(name, file)
            try check(ftruncate(descriptor, off_t(place)), "ftruncate")
        case 1 where count < 100_000:
            file.resize(to: count + length)
            try promise(name, file)
            try check(ftruncate(descriptor, off_t(count + length)), "ftruncate")
        case 2 where count < 100_000:
            // Without or with FALLOC_FL_KEEP_SIZE: room for what comes.
            let keepsSize = chance(1, of: 2)
            if !keepsSize, place + length > count { file.resize(to: place + length) }
            try promise(name, file)
            try check(
                raised: tb_fallocate(descriptor, keepsSize ? 1 : 0, Int64(place), Int64(length)), "fallocate")
        case 3:
            // FALLOC_FL_PUNCH_HOLE or FALLOC_FL_ZERO_RANGE, both with FALLOC_FL_KEEP_SIZE.
            file.zero(place..<place + length)
            try promise(name, file)
            let mode: Int32 = chance(1, of: 2) ? 3 : 17
            try check(raised: tb_fallocate(descriptor, mode, Int64(place), Int64(length)), "fallocate")
        default:
            let offset = min(place, 100_000)
            try write(name, &file, generator.bytes(length), at: offset, descriptor)
        }
    }

    private func write(
        _ name: String, _ file: inout File, _ bytes: [UInt8], at offset: Int, _ descriptor: Int32
    ) throws {
        file.write(bytes, at: offset)
        try promise(name, file)
        try write(bytes, to: descriptor, at: offset)
    }

    private static let large = root + "/large"

    /// More than two blocks of those that scrubs hash.
    private mutating func makeLarge() throws {
        var file = File()
        try promise(Self.large, file)
        try opened(Self.large, O_RDWR | O_CREAT) { descriptor in
            try write(
                Self.large, &file, generator.bytes(2 * Self.hashedBlock + 50_001), at: 0, descriptor)
            try check(fsync(descriptor), "fsync")
        }
        file.noteSynced()
        try promise(Self.large, file)
        files[Self.large] = file
    }

    /// Over the borders of blocks.
    private mutating func changeLarge() throws {
        guard var file = files[Self.large] else { return }
        try opened(Self.large, O_RDWR) { descriptor in
            let offset = (1 + generator.next(below: 2)) * Self.hashedBlock - generator.next(below: 60_000)
            try write(
                Self.large, &file, generator.bytes(1 + generator.next(below: 120_000)), at: offset, descriptor
            )
            try synchronizeAsARule(Self.large, &file, descriptor)
        }
        files[Self.large] = file
    }

    /// With O_DIRECT.
    private mutating func writeDirectly() throws {
        let name = Self.root + "/direct"
        var file = files[name] ?? File()
        if files[name] == nil { try promise(name, file) }
        let byteCount = 4096 * (1 + generator.next(below: 4))
        let offset = 4096 * generator.next(below: 8)
        let bytes = generator.bytes(byteCount)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 4096)
        defer { buffer.deallocate() }
        buffer.copyBytes(from: bytes)
        try opened(name, O_RDWR | O_CREAT | oDirect) { descriptor in
            file.write(bytes, at: offset)
            try promise(name, file)
            let count = pwrite(descriptor, buffer.baseAddress, byteCount, off_t(offset))
            try check(count, "pwrite")
            guard count == byteCount else { throw LabError.invalid("a write was cut short") }
            try synchronizeAsARule(name, &file, descriptor)
        }
        files[name] = file
    }

    /// copy_file_range(2), from one of the files to another.
    private mutating func copyRange() throws {
        let name = Self.root + "/copy"
        let from = "\(Self.root)/b\(generator.next(below: 5))"
        guard let source = files[from], source.content.count > 1 else { return }
        var file = files[name] ?? File()
        if files[name] == nil { try promise(name, file) }
        let start = generator.next(below: source.content.count)
        let part = Array(source.content[start...].prefix(1 + generator.next(below: 30_000)))
        let offset = generator.next(below: min(file.content.count, 60_000) + 1)
        try opened(name, O_RDWR | O_CREAT) { descriptor in
            file.write(part, at: offset)
            try promise(name, file)
            try opened(from, O_RDONLY) { origin in
                var done = 0
                while done < part.count {
                    let count = tb_copy_range(
                        origin, Int64(start + done), descriptor, Int64(offset + done), part.count - done)
                    try check(raised: count, "copy_file_range")
                    guard count > 0 else { throw LabError.invalid("a copy was cut short") }
                    done += Int(count)
                }
            }
            try synchronizeAsARule(name, &file, descriptor)
        }
        files[name] = file
    }

    // MARK: attributes

    private mutating func makeTraits(_ name: String, isDirectory: Bool) throws {
        if isDirectory {
            try check(mkdir(path(name), 0o755), "mkdir")
        } else {
            try opened(name, O_RDWR | O_CREAT) { _ in }
        }
        var made = Traits(permissions: 0o751)
        made.modificationTime = FileTime(seconds: 1_000_000_000, nanoseconds: Self.nanoseconds)
        try check(chmod(path(name), made.permissions), "chmod")
        try setTime(of: name, 1_000_000_000)
        try synchronize(name)
        traits[name] = made
        worlds["traits of \(name)"] = [[name: .traits(made)]]
        try must("traits of \(name)")
    }

    private static let nanoseconds: UInt32 = 123_456_789

    private func setTime(of name: String, _ seconds: Int) throws {
        let time = timespec(tv_sec: seconds, tv_nsec: Int(Self.nanoseconds))
        try check(utimensat(AT_FDCWD, path(name), [time, time], 0), "utimensat")
    }

    private mutating func mayHave(_ name: String, _ changed: Traits) throws {
        traits[name] = changed
        try may("traits of \(name)", [name: .traits(changed)])
    }

    private mutating func changeTraits(_ name: String) throws {
        for _ in 0..<1 + generator.next(below: 3) { try changeOneTrait(name) }
        guard chance(2, of: 3) else { return }
        try synchronize(name)
        try must("traits of \(name)")
    }

    private mutating func changeOneTrait(_ name: String) throws {
        guard var changed = traits[name] else { return }
        switch generator.next(below: 6) {
        case 0:
            changed.permissions = UInt32(0o600 + generator.next(below: 0o200))
            changed.giveList()
            try mayHave(name, changed)
            try check(chmod(path(name), changed.permissions), "chmod")
        case 1:
            (changed.uid, changed.gid) = (
                UInt32(generator.next(below: 70_000)), UInt32(generator.next(below: 9))
            )
            try mayHave(name, changed)
            try check(chown(path(name), changed.uid, changed.gid), "chown")
        case 2:
            let seconds = 1 + generator.next(below: 2_000_000_000)
            changed.modificationTime = FileTime(seconds: Int64(seconds), nanoseconds: Self.nanoseconds)
            try mayHave(name, changed)
            try setTime(of: name, seconds)
        case 3:
            changed.attributes[Traits.listName] = []
            changed.giveList()
            try mayHave(name, changed)
            let list = changed.attributes[Traits.listName] ?? []
            try check(
                raised: tb_set_attribute(path(name), Traits.listName, list, list.count), "setxattr, a list")
        case 4:
            let attribute = "user.a\(generator.next(below: 3))"
            guard changed.attributes.removeValue(forKey: attribute) != nil else { return }
            try mayHave(name, changed)
            try check(raised: tb_remove_attribute(path(name), attribute), "removexattr")
        default:
            let attribute = "user.a\(generator.next(below: 3))"
            let value = generator.bytes(1 + generator.next(below: 6000))
            changed.attributes[attribute] = value
            try mayHave(name, changed)
            try check(raised: tb_set_attribute(path(name), attribute, value, value.count), "setxattr")
        }
    }

    // MARK: names

    /// Makes what is not there, and removes what is.
    private mutating func toggle(
        _ name: String, _ thing: Thing, make: () throws -> Void, remove: () throws -> Void,
        synchronize: () throws -> Void
    ) throws {
        if worlds[name] == nil { worlds[name] = [[name: .absent]] }
        let isThere = worlds[name]?.last?[name] != .absent
        try may(name, [name: isThere ? .absent : thing])
        if isThere { try remove() } else { try make() }
        guard chance(2, of: 3) else { return }
        // A new directory's own sync keeps its name as well.
        if !isThere, thing == .directory, chance(1, of: 2) {
            try synchronize()
        } else {
            try self.synchronize(Self.root)
        }
        try must(name)
    }

    private mutating func toggleDirectory(_ name: String) throws {
        let path = path(name)
        try toggle(name, .directory) {
            if mkdir(path, 0o755) != 0 { throw LabError.systemCall("mkdir", detail: name, errno: errno) }
        } remove: {
            if rmdir(path) != 0 { throw LabError.systemCall("rmdir", detail: name, errno: errno) }
        } synchronize: { [self] in
            try synchronize(name)
        }
    }

    private mutating func toggleLink(_ name: String) throws {
        let (path, target) = (path(name), "somewhere/\(generator.next())")
        try toggle(name, .symbolicLink(target)) {
            if symlink(target, path) != 0 {
                throw LabError.systemCall("symlink", detail: name, errno: errno)
            }
        } remove: {
            if unlink(path) != 0 { throw LabError.systemCall("unlink", detail: name, errno: errno) }
        } synchronize: {
        }
    }

    private func parent(_ number: Int) -> String { "\(Self.root)/p\(number)" }

    private static let inner = "moving/deep/file"

    /// A directory with a file in it, in one of two others.
    private func world(ofMovingIn number: Int, _ content: [UInt8]) -> World {
        [
            "\(parent(number))/moving": .directory,
            "\(parent(number))/\(Self.inner)": .file(PossibleBytes(content)),
            "\(parent(1 - number))/moving": .absent,
        ]
    }

    private var moving: (place: Int, content: [UInt8]) = (0, [])

    private mutating func makeMovingDirectory() throws {
        moving.content = generator.bytes(5000)
        for name in ["moving", "moving/deep"] {
            try check(mkdir(path("\(parent(0))/\(name)"), 0o700), "mkdir")
        }
        try opened("\(parent(0))/\(Self.inner)", O_WRONLY | O_CREAT) { descriptor in
            try write(moving.content, to: descriptor, at: 0)
            try check(fsync(descriptor), "fsync")
        }
        worlds["moving"] = [world(ofMovingIn: 0, moving.content)]
        try must("moving")
    }

    private mutating func moveDirectory() throws {
        let (from, to) = (moving.place, 1 - moving.place)
        try may("moving", world(ofMovingIn: to, moving.content))
        try check(rename(path("\(parent(from))/moving"), path("\(parent(to))/moving")), "rename")
        moving.place = to
        guard chance(2, of: 3) else { return }
        // As on ext4 either of both is enough.
        try synchronize(parent(generator.next(below: 2)))
        try must("moving")
    }

    /// A file that gets its name when its bytes are there: O_TMPFILE and linkat(2).
    private mutating func nameUnnamed(_ name: String) throws {
        var file = File()
        file.write(generator.bytes(1 + generator.next(below: 12_000)), at: 0)
        let content = file.content
        try opened(Self.root, oTemporaryFile | O_RDWR) { descriptor in
            try write(content, to: descriptor, at: 0)
            let isSynced = chance(1, of: 2)
            if isSynced { try check(fsync(descriptor), "fsync") }
            worlds[name] = [[name: .absent]]
            try may(name, [name: .file(isSynced ? PossibleBytes(content) : file.possible)])
            try check(
                linkat(
                    AT_FDCWD, "/proc/self/fd/\(descriptor)", AT_FDCWD, path(name), AT_SYMLINK_FOLLOW),
                "linkat")
            guard chance(2, of: 3) else { return }
            try check(fsync(descriptor), "fsync")
            worlds[name] = [[name: .file(PossibleBytes(content))]]
            try must(name)
        }
    }

    /// A file that is written to and synced when its name is gone for long.
    private mutating func keepUnlinked(_ name: String) throws {
        if unlinked.count == 4 {
            let (descriptor, content) = unlinked.removeFirst()
            defer { close(descriptor) }
            var bytes = [UInt8](repeating: 0, count: content.count + 1)
            guard pread(descriptor, &bytes, bytes.count, 0) == content.count, bytes.dropLast() == content[...]
            else { throw LabError.invalid("a file without a name has other bytes than it should") }
        }
        for index in unlinked.indices where chance(1, of: 2) {
            let bytes = generator.bytes(1 + generator.next(below: 5000))
            try write(bytes, to: unlinked[index].descriptor, at: 0)
            let old = unlinked[index].content
            unlinked[index].content = bytes + old.dropFirst(bytes.count)
            try check(fsync(unlinked[index].descriptor), "fsync of a file without a name")
        }
        let content = generator.bytes(6000)
        let descriptor = open(path(name), O_RDWR | O_CREAT, 0o644)
        try check(descriptor, "open")
        unlinked.append((descriptor, content))
        try write(content, to: descriptor, at: 0)
        try check(fsync(descriptor), "fsync")
        worlds[name] = [[name: .file(PossibleBytes(content))]]
        try must(name)
        try may(name, [name: .absent])
        try check(unlink(path(name)), "unlink")
        // Its own sync says nothing of a name that is gone.
        try synchronize(Self.root)
        try must(name)
    }
}

extension Traits {
    static let listName = "system.posix_acl_access"

    /// Where it has an access control list: the one that fits its mode, whose group bits are the list's mask.
    ///
    /// - Source: acl(5); linux/posix_acl_xattr.h: a version, and for each entry its tag, permissions and whose.
    fileprivate mutating func giveList() {
        guard attributes[Self.listName] != nil else { return }
        let user = permissions >> 6 & 7
        let (mask, others) = (permissions >> 3 & 7, permissions & 7)
        let entries: [(tag: UInt16, permissions: UInt32, whose: UInt32)] = [
            (1, user, .max), (2, 5, 4711), (4, 4, .max), (16, mask, .max), (32, others, .max),
        ]
        var list: [UInt8] = [2, 0, 0, 0]
        for entry in entries {
            withUnsafeBytes(of: entry.tag.littleEndian) { list += $0 }
            withUnsafeBytes(of: UInt16(entry.permissions).littleEndian) { list += $0 }
            withUnsafeBytes(of: entry.whose.littleEndian) { list += $0 }
        }
        attributes[Self.listName] = list
    }
}
