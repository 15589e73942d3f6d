import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// Does random operations on a volume and on the model, and compares.
final class ModelRun {
    static let names = ["a", "b", "c", "d", "e"]
    static let largestFile = 150_000

    var volume: TestVolume
    let model: Model
    let source: FakeSource?
    let configuration: Hydrator.Configuration
    let temporary: TemporaryDirectory
    let seed: UInt64
    var generator: Generator
    var openHandles: [Model.Node] = []
    var trace: [String] = []
    private var copyCount = 0

    init(
        _ volume: TestVolume, _ model: Model, source: FakeSource?, configuration: Hydrator.Configuration,
        temporary: TemporaryDirectory, seed: UInt64
    ) {
        self.volume = volume
        self.model = model
        self.source = source
        self.configuration = configuration
        self.temporary = temporary
        self.seed = seed
        generator = Generator(seed: seed)
    }

    struct Difference: Error, CustomStringConvertible {
        let description: String
    }

    func fail(_ what: String) -> Difference {
        Difference(
            description: "seed \(seed): " + what + "\nlast steps:\n"
                + trace.suffix(25).joined(separator: "\n"))
    }

    func run(steps: Int, crashes: Bool) async throws {
        do {
            try await runUnguarded(steps: steps, crashes: crashes)
        } catch let error as Difference {
            throw error
        } catch {
            throw fail("\(error); log: \(volume.log)")
        }
    }

    private func runUnguarded(steps: Int, crashes: Bool) async throws {
        for step in 0..<steps {
            try await self.step()
            // Other tests wait for a thread.
            await Task.yield()
            if step % 25 == 24, try !volume.storage.catalog.perform({ $0.isArriving }) { try checkNames() }
            if step == steps / 2 { try await arrive() }
            if step % 120 == 119 { try await reopen() }
            if crashes, generator.next(below: 30) == 0 { try await checkCrash() }
        }
        try checkNames()
        try await checkAllContents()
    }

    /// Lets the names come that nobody has asked for yet.
    private func arrive() async throws {
        source?.set { $0.holdsListings = false }
        try await volume.bringAllNames()
        try checkNames()
    }

    // MARK: one step

    private func isOpen(_ node: Model.Node) -> Bool { openHandles.contains { $0 === node } }

    private func expect(
        _ expected: Errno?, _ what: String, _ body: () throws(FileSystemError) -> Void
    ) async throws {
        trace.append("\(what) → \(expected?.description ?? "ok")")
        var failure: FileSystemError?
        do throws(FileSystemError) { try await volume.faulting(body) } catch { failure = error }
        if failure != expected.map({ .errno($0) }) {
            throw fail(
                "\(what): \(failure.map { "\($0)" } ?? "success"), expected "
                    + "\(expected?.description ?? "success"); log: \(volume.log)")
        }
    }

    private func step() async throws {
        let weights: [(Int, () async throws -> Void)] = [
            (10, create), (5, makeDirectory), (2, makeLink), (3, addHardLink), (6, unlink),
            (3, removeDirectory), (10, rename), (18, write), (7, truncate), (4, punch), (4, setXattr),
            (2, removeXattr), (14, read), (5, synchronize), (3, openOne), (3, releaseOne), (2, settle),
            (2, makeUnnamed), (2, chmod), (2, repeatListing),
        ]
        var draw = generator.next(below: weights.reduce(0) { $0 + $1.0 })
        for (weight, action) in weights {
            draw -= weight
            if draw < 0 { return try await action() }
        }
    }

    private func place() async throws -> (directory: Model.Node, name: String) {
        // Few and not too deep, so that names meet.
        let directories = model.directories.prefix(8)
        let directory = directories[generator.next(below: directories.count)]
        try await reach(directory)
        return (directory, Self.names[generator.next(below: Self.names.count)])
    }

    private func pick(_ nodes: [Model.Node]) async throws -> Model.Node? {
        guard let node = generator.element(of: nodes) else { return nil }
        try await reach(node)
        return node
    }

    /// What the kernel does before it can name an inode: looks up its path.
    private func reach(_ node: Model.Node) async throws {
        guard try volume.storage.catalog.perform({ $0.isArriving }), let path = model.path(of: node) else {
            return
        }
        var current = InodeNumber.root
        for name in path {
            let directory = current
            current = try await volume.faulting { () throws(FileSystemError) in
                try volume.fileSystem.lookup(Array(name.utf8), in: directory)
            }.inode
        }
        guard current == node.inode else { throw fail("\(path) leads to \(current), not to \(node.inode)") }
    }

    /// An answer of the origin that comes once more, however old it is.
    private func repeatListing() throws {
        guard let listing = generator.element(of: source?.listings ?? []) else { return }
        trace.append("a listing of \(listing.parts.map(\.directory)) once more")
        try volume.storage.catalog.take(listing)
    }

    private func create() async throws {
        let (directory, name) = try await place()
        var made: InodeNumber?
        let expected: Errno? = directory.children[name] == nil ? nil : .exists
        try await expect(expected, "create \(directory.inode)/\(name)") { () throws(FileSystemError) in
            made = try volume.create(name, in: directory.inode)
        }
        if let made {
            model.add(
                Model.Node(inode: made, kind: .regular, permissions: 0o644, parent: directory), as: name,
                in: directory)
        }
    }

    private func makeUnnamed() async throws {
        let (directory, _) = try await place()
        let (attributes, _) = try volume.fileSystem.createUnnamed(
            in: directory.inode, permissions: 0o600, openFlags: 2, caller: .root)
        trace.append("unnamed \(attributes.inode)")
        let node = Model.Node(inode: attributes.inode, kind: .regular, permissions: 0o600, parent: directory)
        node.links = 0
        model.unnamed.append(node)
        openHandles.append(node)
    }

    private func makeDirectory() async throws {
        let (directory, name) = try await place()
        var made: InodeNumber?
        try await expect(
            directory.children[name] == nil ? nil : .exists, "mkdir \(directory.inode)/\(name)"
        ) { () throws(FileSystemError) in
            made =
                try volume.fileSystem.makeDirectory(
                    Array(name.utf8), in: directory.inode, permissions: 0o755, caller: .root
                ).inode
        }
        if let made {
            model.add(
                Model.Node(inode: made, kind: .directory, permissions: 0o755, parent: directory), as: name,
                in: directory)
        }
    }

    private func makeLink() async throws {
        let (directory, name) = try await place()
        let target = Array("to/\(generator.next(below: 1000))".utf8)
        var made: InodeNumber?
        try await expect(
            directory.children[name] == nil ? nil : .exists, "symlink \(directory.inode)/\(name)"
        ) { () throws(FileSystemError) in
            made =
                try volume.fileSystem.makeSymbolicLink(
                    Array(name.utf8), in: directory.inode, target: target, caller: .root
                ).inode
        }
        if let made {
            let node = Model.Node(inode: made, kind: .symbolicLink, permissions: 0o777, parent: directory)
            node.target = target
            model.add(node, as: name, in: directory)
        }
    }

    private func addHardLink() async throws {
        guard let node = try await pick(model.files) else { return }
        let (directory, name) = try await place()
        let expected = model.link(node, as: name, in: directory)
        try await expect(expected, "link \(node.inode) \(directory.inode)/\(name)") {
            () throws(FileSystemError) in
            _ = try volume.fileSystem.link(node.inode, as: Array(name.utf8), in: directory.inode)
        }
    }

    private func unlink() async throws {
        let (directory, name) = try await place()
        let node = directory.children[name]
        let expected = model.unlink(name, in: directory, isOpen: isOpen)
        try await expect(expected, "unlink \(directory.inode)/\(name)") { () throws(FileSystemError) in
            try volume.fileSystem.unlink(Array(name.utf8), in: directory.inode)
        }
        if expected == nil, let node { try await forgetIfGone(node) }
    }

    /// What the kernel does when the last name and the last handle of an inode are gone.
    private func forgetIfGone(_ node: Model.Node) async throws {
        guard node.links == 0 || node.kind == .directory, !isOpen(node) else { return }
        volume.fileSystem.forget(node.inode, count: 1)
        try await expect(.stale, "stat of the removed \(node.inode)") { () throws(FileSystemError) in
            _ = try volume.fileSystem.attributes(of: node.inode)
        }
    }

    private func removeDirectory() async throws {
        let (directory, name) = try await place()
        let node = directory.children[name]
        let expected = model.removeDirectory(name, in: directory)
        try await expect(expected, "rmdir \(directory.inode)/\(name)") { () throws(FileSystemError) in
            try volume.fileSystem.removeDirectory(Array(name.utf8), in: directory.inode)
        }
        if expected == nil, let node { try await forgetIfGone(node) }
    }

    private func rename() async throws {
        let (old, name) = try await place()
        let (new, newName) = try await place()
        let rule: RenameRule =
            [.replace, .replace, .replace, .refuseToReplace, .exchange][generator.next(below: 5)]
        let source = old.children[name]
        let replaced = new.children[newName]
        let expected = model.rename(name, in: old, to: newName, in: new, rule: rule, isOpen: isOpen)
        try await expect(
            expected, "rename \(old.inode)/\(name) \(new.inode)/\(newName) \(rule)"
        ) { () throws(FileSystemError) in
            try volume.fileSystem.rename(
                Array(name.utf8), in: old.inode, to: Array(newName.utf8), in: new.inode, rule: rule)
        }
        if expected == nil, rule == .replace, let replaced, replaced !== source {
            try await forgetIfGone(replaced)
        }
    }

    // MARK: bytes

    private func anyFile() async throws -> Model.Node? { try await pick(model.files) }

    private func write() async throws {
        guard let node = try await anyFile() else { return }
        let offset = generator.next(
            below: generator.next(below: 3) == 0 ? Self.largestFile : node.content.count + 1)
        let bytes = generator.bytes(1 + generator.next(below: generator.next(below: 2) == 0 ? 100 : 20_000))
        try await expect(nil, "write \(node.inode) \(offset)+\(bytes.count)") { () throws(FileSystemError) in
            try volume.write(node.inode, at: offset, bytes)
        }
        node.change { content in
            if content.count < offset + bytes.count {
                content += [UInt8](repeating: 0, count: offset + bytes.count - content.count)
            }
            content.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        }
    }

    private func truncate() async throws {
        guard let node = try await anyFile() else { return }
        let size = generator.next(below: 4) == 0 ? 0 : generator.next(below: node.content.count * 3 / 2 + 100)
        try await expect(nil, "truncate \(node.inode) \(size)") { () throws(FileSystemError) in
            try volume.truncate(node.inode, to: size)
        }
        node.change { content in
            content =
                size <= content.count
                ? Array(content.prefix(size)) : content + [UInt8](repeating: 0, count: size - content.count)
        }
    }

    private func punch() async throws {
        guard let node = try await anyFile() else { return }
        let offset = generator.next(below: node.content.count + 1000)
        let count = 1 + generator.next(below: 30_000)
        let mode: AllocationMode =
            [.punchHole, .zeroRange, .zeroRangeKeepingSize, .allocate, .allocateKeepingSize][
                generator.next(below: 5)]
        try await expect(nil, "\(mode) \(node.inode) \(offset)+\(count)") { () throws(FileSystemError) in
            try volume.fileSystem.allocate(
                node.inode, handle: FileHandle(node.inode.number), mode: mode, offset: UInt64(offset),
                byteCount: UInt64(count))
        }
        node.change { content in
            if mode == .zeroRange || mode == .allocate, content.count < offset + count {
                content += [UInt8](repeating: 0, count: offset + count - content.count)
            }
            guard mode != .allocate, mode != .allocateKeepingSize else { return }
            for index in min(offset, content.count)..<min(offset + count, content.count) {
                content[index] = 0
            }
        }
    }

    private func read() async throws {
        guard let node = try await anyFile() else { return }
        let offset = generator.next(below: node.content.count + 10)
        let count = 1 + generator.next(below: generator.next(below: 2) == 0 ? 4096 : 40_000)
        trace.append("read \(node.inode) \(offset)+\(count)")
        try await compare(node, offset..<offset + count)
    }

    private func compare(_ node: Model.Node, _ range: Range<Int>) async throws {
        let found = try await volume.read(node.inode, range)
        let expected = Array(
            node.content[
                min(range.lowerBound, node.content.count)..<min(range.upperBound, node.content.count)])
        guard found != expected else { return }
        let place = zip(found, expected).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? -1
        throw fail(
            "read \(node.inode) \(range): \(found.count) bytes, expected \(expected.count), differ at +\(place)"
        )
    }

    private func synchronize() async throws {
        guard let node = try await pick(model.all) else { return }
        let dataOnly = generator.next(below: 2) == 0
        try await expect(nil, "\(dataOnly ? "fdatasync" : "fsync") \(node.inode)") {
            () throws(FileSystemError) in
            try volume.synchronize(node.inode, dataOnly: dataOnly)
        }
        // What had no name would be removed at the next start.
        node.isSynced = node.links > 0
        node.history = [node.content]
    }

    private func settle() throws {
        trace.append("settle")
        try volume.storage.settle()
    }

    // MARK: attributes and handles

    private func setXattr() async throws {
        guard let node = try await pick(model.all) else { return }
        let name = "user." + Self.names[generator.next(below: 3)]
        let value = generator.bytes(generator.next(below: 50))
        try await expect(nil, "setxattr \(node.inode) \(name)") { () throws(FileSystemError) in
            try volume.fileSystem.setExtendedAttribute(
                Array(name.utf8), of: node.inode, value: value, mustCreate: false, mustReplace: false,
                caller: .root)
        }
        node.xattrs[name] = value
    }

    private func removeXattr() async throws {
        guard let node = try await pick(model.all) else { return }
        let name = "user." + Self.names[generator.next(below: 3)]
        try await expect(
            node.xattrs[name] == nil ? .noData : nil, "removexattr \(node.inode) \(name)"
        ) { () throws(FileSystemError) in
            try volume.fileSystem.removeExtendedAttribute(Array(name.utf8), of: node.inode)
        }
        node.xattrs[name] = nil
    }

    private func chmod() async throws {
        guard let node = try await pick(model.all) else { return }
        var changes = AttributeChanges()
        changes.permissions = UInt32(generator.next(below: 0o1000))
        try await expect(nil, "chmod \(node.inode)") { () throws(FileSystemError) in
            _ = try volume.fileSystem.setAttributes(changes, of: node.inode, caller: .root)
        }
        node.permissions = changes.permissions ?? 0
    }

    private func openOne() async throws {
        guard let node = try await anyFile() else { return }
        trace.append("open \(node.inode)")
        _ = try volume.fileSystem.open(node.inode, openFlags: 2)
        openHandles.append(node)
    }

    private func releaseOne() async throws {
        guard !openHandles.isEmpty else { return }
        try await release(openHandles.remove(at: generator.next(below: openHandles.count)))
    }

    private func release(_ node: Model.Node) async throws {
        trace.append("release \(node.inode)")
        let isLast = node.links == 0 && !isOpen(node)
        // The kernel's forget and release are served by different threads: either may come first.
        let forgetsFirst = generator.next(below: 2) == 0
        if isLast, forgetsFirst { volume.fileSystem.forget(node.inode, count: 1) }
        volume.fileSystem.release(node.inode, handle: FileHandle(node.inode.number))
        guard isLast else { return }
        if !forgetsFirst { volume.fileSystem.forget(node.inode, count: 1) }
        model.unnamed.removeAll { $0 === node }
        try await expect(.stale, "stat of the removed \(node.inode)") { () throws(FileSystemError) in
            _ = try volume.fileSystem.attributes(of: node.inode)
        }
    }

    // MARK: larger steps

    private func reopen() async throws {
        while let node = openHandles.popLast() { try await release(node) }
        trace.append("close and open")
        try await volume.close()
        volume = try TestVolume(
            opening: volume.directory, source: source, configuration: configuration, openFileLimit: 16)
        volume.startHydration()
        for node in model.all {
            node.isSynced = true
            node.history = [node.content]
        }
        if try !volume.storage.catalog.perform({ $0.isArriving }) { try checkNames() }
    }

    /// Compares names, kinds, sizes, links, permissions, targets and attributes of everything.
    func checkNames() throws {
        let image = try CatalogImage(volume.storage.catalog, others: model.unnamed.map(\.inode))
        let faults = image.faults(unnamed: model.unnamed.count)
        guard faults.isEmpty else { throw fail(faults.joined(separator: "\n")) }
        let nodes = model.all
        guard Set(nodes.map(\.inode)) == Set(image.nodes.keys) else { throw fail("other inodes") }
        for node in nodes {
            guard let found = image.nodes[node.inode] else { throw fail("\(node.inode) is gone") }
            let attributes = found.attributes
            let xattrs = Dictionary(uniqueKeysWithValues: node.xattrs.map { (Array($0.key.utf8), $0.value) })
            guard attributes.kind == node.kind, Int(attributes.linkCount) == node.links,
                attributes.permissions == node.permissions, found.target == node.target,
                found.xattrs == xattrs,
                node.kind != .regular || attributes.size == UInt64(node.content.count)
            else {
                throw fail(
                    "\(node.inode) is \(attributes), expected \(node.links) links, \(node.content.count) bytes"
                )
            }
            guard node.kind == .directory else { continue }
            let listed = try volume.fileSystem.readDirectory(
                node.inode, offset: 0, limit: 1000)
            let pairs = listed.map { (String(decoding: $0.name, as: UTF8.self), $0.attributes.inode) }
            guard pairs.count == node.children.count,
                pairs.allSatisfy({ node.children[$0.0]?.inode == $0.1 })
            else { throw fail("directory \(node.inode) lists \(pairs)") }
        }
    }

    func checkAllContents() async throws {
        for node in model.files { try await compare(node, 0..<node.content.count + 1) }
        let counted = try volume.storage.catalog.perform { $0.missingByteCount }
        let missing = try countMissingBytes(volume.storage.catalog)
        if source == nil || volume.log.isEmpty, counted != missing {
            throw fail("\(missing) bytes are missing, counted \(counted)")
        }
    }

    /// What a crash at this moment would leave: everything synced, and no byte that never was there.
    private func checkCrash() async throws {
        trace.append("crash copy")
        copyCount += 1
        let copy = temporary.path + "/copy\(copyCount)"
        await volume.stopHydration()
        try TemporaryDirectory.copyHead(from: volume.directory, to: copy)
        volume.startHydration()
        let crashed = try TestVolume(opening: copy, source: source, configuration: configuration)
        try await crashed.bringAllNames()
        // Opening removes what had no name.
        let image = try CatalogImage(crashed.storage.catalog)
        let faults = image.faults()
        guard faults.isEmpty else { throw fail("after a crash: " + faults.joined(separator: "\n")) }
        let counted = try crashed.storage.catalog.perform { $0.missingByteCount }
        let missing = try countMissingBytes(crashed.storage.catalog)
        guard counted == missing else {
            throw fail("after a crash \(missing) bytes are missing, counted \(counted)")
        }
        for node in model.all where node.links > 0 {
            guard let found = image.nodes[node.inode] else {
                if node.isSynced {
                    throw fail("after a crash \(node.inode) is gone, though it was synced")
                }
                continue
            }
            guard node.kind == .regular else { continue }
            guard node.history.contains(where: { UInt64($0.count) == found.attributes.size }) else {
                throw fail(
                    "after a crash \(node.inode) has \(found.attributes.size) bytes, which it never had")
            }
            // What the crash left beyond the end must not come to light when the file grows.
            let size = Int(found.attributes.size)
            let growth = generator.next(below: 2) * 40_000
            if growth > 0 { try crashed.truncate(node.inode, to: size + growth) }
            let bytes = try await crashed.read(node.inode, 0..<size + growth)
            guard bytes.count == size + growth, bytes[size...].allSatisfy({ $0 == 0 }) else {
                throw fail("after a crash \(node.inode) grows by something else than zeros")
            }
            for (index, byte) in bytes.prefix(size).enumerated()
            where !node.history.contains(where: { index < $0.count ? $0[index] == byte : byte == 0 }) {
                throw fail("after a crash byte \(index) of \(node.inode) is one that never was there")
            }
        }
        try await crashed.close()
        try FileManager.default.removeItem(atPath: copy)
    }
}
