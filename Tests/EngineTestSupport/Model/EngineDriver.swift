internal import Catalog
internal import Glibc
package import VolumeFileSystem
package import VolumeModel

/// Calls the file system as the FUSE server does, without a kernel.
package final class EngineDriver: ModelDriver {
    package private(set) var volume: TestVolume
    package let caller = Caller.root
    package let patience = Duration.zero
    package let keepsDirectories = false
    package let readsAhead = false
    private var generator: Generator
    /// Told already that the kernel does not know them any more.
    private var forgotten: Set<InodeNumber> = []

    package init(_ volume: TestVolume, seed: UInt64) {
        self.volume = volume
        generator = Generator(seed: seed &+ 1)
    }

    package func refusal(of operation: ModelOperation) -> Errno? { nil }

    package func perform(
        _ operation: ModelOperation, in model: Model
    ) async throws(FileSystemError) -> InodeNumber? {
        switch operation {
        case .create, .makeDirectory, .makeSymbolicLink, .makeUnnamed, .link, .unlink, .removeDirectory,
            .rename:
            return try await changeNames(operation)
        case .open(let target, _, let opening):
            if opening == .truncating { try volume.truncate(target.node.inode, to: 0) }
            _ = try volume.fileSystem.open(target.node.inode, openFlags: O_RDWR)
        case .close(let handle): close(handle, in: model)
        case .synchronize(let target, let dataOnly):
            try volume.synchronize(target.node.inode, dataOnly: dataOnly)
        case .write, .truncate, .allocate, .copy: try await changeBytes(operation)
        case .setAttribute, .removeAttribute, .changeMode, .changeOwner, .setTimes:
            try changeAttributes(operation)
        case .forgetBytes: break
        }
        return nil
    }

    private func changeNames(_ operation: ModelOperation) async throws(FileSystemError) -> InodeNumber? {
        let volume = self.volume
        return try await volume.faulting { () throws(FileSystemError) -> InodeNumber? in
            try Self.changeNames(operation, in: volume)
        }
    }

    private static func changeNames(
        _ operation: ModelOperation, in volume: TestVolume
    ) throws(FileSystemError) -> InodeNumber? {
        let fileSystem = volume.fileSystem
        switch operation {
        case .create(let place): return try volume.create(place.name, in: place.directory.inode)
        case .makeDirectory(let place):
            return try fileSystem.makeDirectory(
                Array(place.name.utf8), in: place.directory.inode, permissions: 0o755, caller: .root
            ).inode
        case .makeSymbolicLink(let place, let target):
            return try fileSystem.makeSymbolicLink(
                Array(place.name.utf8), in: place.directory.inode, target: target, caller: .root
            ).inode
        case .makeUnnamed(let directory, _):
            return try fileSystem.createUnnamed(
                in: directory.inode, permissions: 0o600, openFlags: O_RDWR, caller: .root
            ).0.inode
        case .link(let target, let place):
            _ = try fileSystem.link(
                target.node.inode, as: Array(place.name.utf8), in: place.directory.inode)
        case .unlink(let place):
            try fileSystem.unlink(Array(place.name.utf8), in: place.directory.inode)
        case .removeDirectory(let place):
            try fileSystem.removeDirectory(Array(place.name.utf8), in: place.directory.inode)
        case .rename(let old, let new, let rule):
            try fileSystem.rename(
                Array(old.name.utf8), in: old.directory.inode, to: Array(new.name.utf8),
                in: new.directory.inode, rule: rule)
        default: break
        }
        return nil
    }

    /// The kernel's forget and release are served by different threads: either may come first.
    private func close(_ handle: Model.Handle, in model: Model) {
        let inode = handle.node.inode
        let isLast = handle.node.links == 0 && model.handles.count { $0.node === handle.node } == 1
        if isLast, generator.next(below: 2) == 0 {
            volume.fileSystem.forget(inode, count: 1)
            forgotten.insert(inode)
        }
        volume.fileSystem.release(inode, handle: FileHandle(inode.number))
    }

    package func letGo(of node: Model.Node) async throws {
        if forgotten.remove(node.inode) == nil { volume.fileSystem.forget(node.inode, count: 1) }
        var failure: FileSystemError?
        do throws(FileSystemError) {
            _ = try volume.fileSystem.attributes(of: node.inode)
        } catch {
            failure = error
        }
        guard failure == .errno(.stale) else {
            throw ModelRun.Difference(description: "\(node.inode) is there, though nothing leads to it")
        }
    }

    private func changeBytes(_ operation: ModelOperation) async throws(FileSystemError) {
        switch operation {
        case .write(let target, let offset, let bytes):
            let count = try volume.write(target.node.inode, at: offset, bytes)
            guard count == bytes.count else { throw .errno(.inputOutput) }
        case .truncate(let target, let size): try volume.truncate(target.node.inode, to: size)
        case .allocate(let target, let mode, let offset, let count):
            try volume.fileSystem.allocate(
                target.node.inode, handle: FileHandle(target.node.inode.number), mode: mode,
                offset: UInt64(offset), byteCount: UInt64(count))
        case .copy(let source, let offset, let target, let place, let count):
            // As the kernel does it.
            let bytes = try await volume.read(source.node.inode, offset..<offset + count)
            if !bytes.isEmpty { try volume.write(target.node.inode, at: place, bytes) }
        default: break
        }
    }

    private func changeAttributes(_ operation: ModelOperation) throws(FileSystemError) {
        var changes = AttributeChanges()
        switch operation {
        case .setAttribute(let target, let name, let value, let rule):
            return try volume.fileSystem.setExtendedAttribute(
                Array(name.utf8), of: target.node.inode, value: value, mustCreate: rule == .mustCreate,
                mustReplace: rule == .mustReplace, caller: caller)
        case .removeAttribute(let target, let name):
            return try volume.fileSystem.removeExtendedAttribute(Array(name.utf8), of: target.node.inode)
        case .changeMode(_, let mode): changes.permissions = mode
        case .changeOwner(_, let uid, let gid): (changes.uid, changes.gid) = (uid, gid)
        case .setTimes(_, let access, let modification):
            (changes.accessTime, changes.modificationTime) = (.at(access), .at(modification))
        default: return
        }
        for node in operation.nodes {
            _ = try volume.fileSystem.setAttributes(changes, of: node.inode, caller: caller)
        }
    }

    /// What the kernel does before it can name an inode: looks up its path.
    package func reach(_ node: Model.Node, in model: Model) async throws(FileSystemError) {
        guard volume.storage.catalog.isArriving, let path = model.paths(of: node).first else { return }
        var current = InodeNumber.root
        for name in path { current = try await lookup(name, in: current) }
        // Another one there is no error that a file system gives.
        guard current == node.inode else { throw .errno(.stale) }
    }

    private func lookup(
        _ name: String, in directory: InodeNumber
    ) async throws(FileSystemError) -> InodeNumber {
        let fileSystem = volume.fileSystem
        return try await volume.faulting { () throws(FileSystemError) -> InodeNumber in
            try fileSystem.lookup(Array(name.utf8), in: directory).inode
        }
    }

    // MARK: looking

    package func attributes(
        of nodes: [Model.Node], in model: Model
    ) async throws(FileSystemError) -> [FileAttributes] {
        var found: [FileAttributes] = []
        for node in nodes { found.append(try volume.fileSystem.attributes(of: node.inode)) }
        return found
    }

    package func read(
        _ target: ModelTarget, _ range: Range<Int>, in model: Model
    ) async throws(FileSystemError) -> [UInt8] {
        try await volume.read(target.node.inode, range)
    }

    package func seek(
        _ target: ModelTarget, _ offset: Int, toHole: Bool, in model: Model
    ) async throws(FileSystemError) -> Int {
        Int(
            try volume.fileSystem.seek(
                target.node.inode, handle: FileHandle(target.node.inode.number), offset: UInt64(offset),
                toHole: toHole))
    }

    package func list(
        _ directory: Model.Node, in model: Model
    ) async throws(FileSystemError) -> [String: InodeNumber] {
        let found = try entries(of: directory.inode).map {
            (String(decoding: $0.name, as: UTF8.self), $0.attributes.inode)
        }
        // One that is listed twice is the wrong one.
        return Dictionary(found) { _, _ in InodeNumber(0) }
    }

    private func entries(of directory: InodeNumber) throws(FileSystemError) -> [DirectoryEntry] {
        // Only what is here is compared.
        try volume.fileSystem.readDirectory(directory, offset: 0, limit: 1000)
    }

    package func target(of link: Model.Node, in model: Model) async throws(FileSystemError) -> [UInt8] {
        try volume.fileSystem.readSymbolicLink(link.inode)
    }

    package func extendedAttributes(
        of node: Model.Node, in model: Model
    ) async throws(FileSystemError) -> [String: [UInt8]] {
        var found: [String: [UInt8]] = [:]
        for name in try volume.fileSystem.extendedAttributeNames(of: node.inode) {
            found[String(decoding: name, as: UTF8.self)] = try volume.fileSystem.extendedAttribute(
                name, of: node.inode)
        }
        return found
    }

    // MARK: restarts

    package func forgetAll() {}

    package func end(isHandedOver: Bool) async throws -> OpenFiles? {
        if isHandedOver { return try await volume.leave() }
        try await volume.close()
        return nil
    }

    package func begin(_ volume: TestVolume) { self.volume = volume }
}
