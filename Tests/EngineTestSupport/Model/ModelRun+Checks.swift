internal import Catalog
import Foundation
internal import VolumeFileSystem
internal import VolumeModel

/// What is compared with the model.
extension ModelRun {
    // MARK: after a step

    /// Compares what stat(2) tells: of all that there is, or while names are still to come of what the operation touched.
    func checkAttributes(after operation: ModelOperation) async throws {
        let isArriving = volume.storage.catalog.isArriving
        let nodes =
            isArriving
            ? operation.nodes.filter { $0.links > 0 || model.isOpen($0) } : model.all
        if isArriving { for node in nodes { try await driver.reach(node, in: model) } }
        let found = try await driver.attributes(of: nodes, in: model)
        for (node, attributes) in zip(nodes, found) { try check(attributes, node) }
    }

    private func check(_ found: FileAttributes, _ node: Model.Node) throws {
        guard found.inode == node.inode, found.kind == node.kind, Int(found.linkCount) == node.links,
            found.permissions == node.permissions, found.uid == node.uid, found.gid == node.gid,
            found.size == UInt64(node.size)
        else {
            throw fail(
                "\(node.inode) is \(found), expected \(node.kind), mode \(String(node.permissions, radix: 8)), "
                    + "\(node.links) links, \(node.uid):\(node.gid), \(node.size) bytes")
        }
        guard node.modified.settle(at: found.modificationTime) else {
            throw fail(
                "\(node.inode) was modified \(found.modificationTime), expected \(node.modified.window)")
        }
        guard node.changed.settle(at: found.changeTime) else {
            throw fail("\(node.inode) was changed \(found.changeTime), expected \(node.changed.window)")
        }
        if driver.readsAhead, node.kind == .regular { return }
        guard node.accessed?.settle(at: found.accessTime) ?? true else {
            throw fail(
                "\(node.inode) was read \(found.accessTime), expected \(String(describing: node.accessed))")
        }
    }

    func compare(_ target: ModelTarget, _ range: Range<Int>) async throws {
        let node = target.node
        let found = try await driver.read(target, range, in: model)
        node.accessed = nil
        let expected = Array(
            node.content[
                min(range.lowerBound, node.content.count)..<min(range.upperBound, node.content.count)])
        guard found != expected else { return }
        let place = zip(found, expected).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? -1
        throw fail(
            "read \(target) \(range): \(found.count) bytes, expected \(expected.count), differ at +\(place)")
    }

    /// Holes are zeros, follow data, and end with the file.
    func seek() async throws {
        guard let node = generator.element(of: model.files) else { return }
        let handle = model.handles.first { $0.node === node }
        if handle == nil { try await driver.reach(node, in: model) }
        let target = ModelTarget(node: node, handle: handle)
        trace.append("look for holes in \(target)")
        let size = node.content.count
        var position = 0
        // What is still to come is called data, and may turn out to be a hole in between.
        var turns = source == nil ? 0 : 1000
        while position < size {
            let data = try await place(of: target, from: position, toHole: false) ?? size
            guard data >= position, data <= size, node.content[position..<data].allSatisfy({ $0 == 0 }) else {
                throw fail("\(node.inode) has bytes at \(position)..<\(data), which is said to be a hole")
            }
            guard data < size else { break }
            guard let hole = try await place(of: target, from: data, toHole: true), hole >= data,
                hole <= size, hole > data || turns > 0
            else {
                throw fail("no hole follows the data at \(data) of \(node.inode)")
            }
            turns -= 1
            position = hole
        }
        for toHole in [true, false] {
            guard try await place(of: target, from: size, toHole: toHole) == nil else {
                throw fail("there is something beyond the end of \(node.inode)")
            }
        }
    }

    /// - Returns: nil: there is none.
    private func place(of target: ModelTarget, from offset: Int, toHole: Bool) async throws -> Int? {
        do throws(FileSystemError) {
            return try await driver.seek(target, offset, toHole: toHole, in: model)
        } catch {
            guard error == .errno(.noSuchDevice) else { throw error }
            return nil
        }
    }

    // MARK: now and then

    /// Compares everything but bytes: as the catalog has it, and as it is told.
    package func checkAll() async throws {
        try await checkCatalog()
        for node in model.all {
            let found = try await driver.attributes(of: [node], in: model)
            for attributes in found { try check(attributes, node) }
            let xattrs = try await driver.extendedAttributes(of: node, in: model)
            guard xattrs == node.xattrs else {
                throw fail("\(node.inode) has the attributes \(xattrs), expected \(node.xattrs)")
            }
            switch node.kind {
            case .directory:
                let listed = try await driver.list(node, in: model)
                guard listed == node.children.mapValues(\.inode) else {
                    throw fail("directory \(node.inode) lists \(listed)")
                }
                node.accessed = nil
            case .symbolicLink:
                let target = try await driver.target(of: node, in: model)
                guard target == node.target else { throw fail("\(node.inode) leads to \(target)") }
                node.accessed = nil
            default: break
            }
        }
    }

    private func checkCatalog() async throws {
        let deadline = ContinuousClock.now + driver.patience
        while let difference = try catalogDifference() {
            guard ContinuousClock.now < deadline else { throw fail(difference) }
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    /// - Returns: nil: there is none.
    private func catalogDifference() throws -> String? {
        let kept = driver.keepsDirectories && !model.handles.isEmpty ? model.removedDirectories : []
        let image = try CatalogImage(volume.storage.catalog, others: model.unnamed.map(\.inode) + kept)
        let faults = image.faults(unnamed: model.unnamed.count)
        guard faults.isEmpty else { return faults.joined(separator: "\n") }
        let nodes = model.all
        guard Set(nodes.map(\.inode)) == Set(image.nodes.keys).subtracting(kept) else {
            return "other inodes"
        }
        for node in nodes {
            guard let found = image.nodes[node.inode] else { return "\(node.inode) is gone" }
            try check(found.attributes, node)
            let xattrs = Dictionary(uniqueKeysWithValues: node.xattrs.map { (Array($0.key.utf8), $0.value) })
            guard found.target == node.target, found.xattrs == xattrs else {
                return "\(node.inode) is \(found)"
            }
        }
        return nil
    }

    func checkAllContents() async throws {
        for node in model.files {
            let handle = model.handles.first { $0.node === node }
            try await compare(ModelTarget(node: node, handle: handle), 0..<node.content.count + 1)
        }
        let counted = try volume.storage.catalog.perform { $0.missingByteCount }
        let missing = try countMissingBytes(volume.storage.catalog)
        if source == nil || volume.log.isEmpty, counted != missing {
            throw fail("\(missing) bytes are missing, counted \(counted)")
        }
    }

    /// What a crash at this moment would leave: everything synced, and no byte that never was there.
    func checkCrash() async throws {
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
        // What there is to look at depends on when commits were made: nothing else may depend on that.
        var generator = Generator(seed: seed &+ UInt64(copyCount))
        for node in model.all where node.links > 0 {
            guard let found = image.nodes[node.inode] else {
                if node.isSynced {
                    throw fail("after a crash \(node.inode) is gone, though it was synced")
                }
                continue
            }
            guard node.kind == .regular else { continue }
            let growth = generator.next(below: 2) * 40_000
            try await checkCrashed(node, found.attributes.size, growth: growth, in: crashed)
        }
        try await crashed.close()
        try FileManager.default.removeItem(atPath: copy)
    }

    private func checkCrashed(
        _ node: Model.Node, _ size: UInt64, growth: Int, in crashed: TestVolume
    ) async throws {
        guard node.history.contains(where: { UInt64($0.count) == size }) else {
            throw fail("after a crash \(node.inode) has \(size) bytes, which it never had")
        }
        // What the crash left beyond the end must not come to light when the file grows.
        let size = Int(size)
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
}
