internal import VolumeFileSystem
package import VolumeModel

/// What each operation does, and why it is refused.
extension Model {
    /// - Parameters:
    ///   - made: the number of what was made.
    ///   - window: when it was done.
    /// - Returns: why nothing was done; nil: it was.
    package func apply(
        _ operation: ModelOperation, made: InodeNumber?, during window: ClosedRange<FileTime>
    ) -> Errno? {
        let now = Moment(window)
        switch operation {
        case .create(let place):
            return make(place, .regular, 0o644 & ~caller.umask, made, now)
        case .makeDirectory(let place):
            return make(place, .directory, 0o755 & ~caller.umask, made, now)
        case .makeSymbolicLink(let place, let target):
            return make(place, .symbolicLink, 0o777, made, now) { $0.target = target }
        case .makeUnnamed(let directory, let number):
            let node = newNode(.regular, 0o600 & ~caller.umask, made, in: directory, now)
            node.links = 0
            node.wasNeverNamed = true
            unnamed.append(node)
            handles.append(Handle(number: number, node: node, opening: .plain))
            return nil
        case .link(let target, let place): return link(target.node, as: place, now)
        case .unlink(let place): return unlink(place, now)
        case .removeDirectory(let place): return removeDirectory(place, now)
        case .rename(let old, let new, let rule): return rename(old, to: new, rule: rule, now)
        case .open, .close: return openOrClose(operation, now)
        case .write, .truncate, .allocate, .copy: return changeBytes(operation, now)
        case .synchronize(let target, _):
            // What had no name would be removed at the next start.
            target.node.isSynced = target.node.links > 0
            target.node.history = [target.node.content]
            return nil
        case .setAttribute, .removeAttribute, .changeMode, .changeOwner, .setTimes:
            return changeAttributes(operation, now)
        case .forgetBytes: return nil
        }
    }

    // MARK: names

    private func newNode(
        _ kind: FileKind, _ permissions: UInt32, _ made: InodeNumber?, in directory: Node, _ now: Moment
    ) -> Node {
        let node = Node(
            inode: made ?? InodeNumber(0), kind: kind, permissions: permissions, parent: directory)
        (node.uid, node.gid) = (caller.uid, caller.gid)
        (node.modified, node.changed, node.accessed) = (now, now, now)
        return node
    }

    private func make(
        _ place: ModelPlace, _ kind: FileKind, _ permissions: UInt32, _ made: InodeNumber?, _ now: Moment,
        _ prepare: (Node) -> Void = { _ in }
    ) -> Errno? {
        guard place.node == nil else { return .exists }
        let node = newNode(kind, permissions, made, in: place.directory, now)
        prepare(node)
        place.directory.children[place.name] = node
        if kind == .directory { place.directory.links += 1 }
        noteNamesChanged(place.directory, now)
        return nil
    }

    private func noteNamesChanged(_ directory: Node, _ now: Moment) {
        directory.modified = now
        directory.changed = now
    }

    private func link(_ node: Node, as place: ModelPlace, _ now: Moment) -> Errno? {
        if place.node != nil { return .exists }
        if node.links == 0 {
            unnamed.removeAll { $0 === node }
            // What was said to be safe had no name.
            node.isSynced = false
        }
        node.links += 1
        node.wasNeverNamed = false
        node.changed = now
        place.directory.children[place.name] = node
        noteNamesChanged(place.directory, now)
        return nil
    }

    private func drop(_ node: Node, _ now: Moment) {
        node.links -= 1
        node.changed = now
        guard node.links == 0 else { return }
        if isOpen(node) { unnamed.append(node) } else { gone.append(node) }
    }

    private func dropDirectory(_ node: Node, in parent: Node) {
        node.links = 0
        parent.links -= 1
        removedDirectories.append(node.inode)
        gone.append(node)
    }

    private func unlink(_ place: ModelPlace, _ now: Moment) -> Errno? {
        guard let node = place.node else { return .noSuchEntry }
        if node.kind == .directory { return .isDirectory }
        place.directory.children[place.name] = nil
        noteNamesChanged(place.directory, now)
        drop(node, now)
        return nil
    }

    private func removeDirectory(_ place: ModelPlace, _ now: Moment) -> Errno? {
        guard let node = place.node else { return .noSuchEntry }
        guard node.kind == .directory else { return .notDirectory }
        guard node.children.isEmpty else { return .notEmpty }
        place.directory.children[place.name] = nil
        noteNamesChanged(place.directory, now)
        dropDirectory(node, in: place.directory)
        return nil
    }

    private func rename(
        _ old: ModelPlace, to new: ModelPlace, rule: RenameRule, _ now: Moment
    ) -> Errno? {
        guard let source = old.node else { return .noSuchEntry }
        let target = new.node
        if source.kind == .directory, new.directory.isInside(source) { return .invalidArgument }
        if rule == .exchange {
            guard let target else { return .noSuchEntry }
            if target.kind == .directory, old.directory.isInside(target) { return .invalidArgument }
            exchange(old, source, new, target, now)
            return nil
        }
        if let target {
            if rule == .refuseToReplace { return .exists }
            if target === source { return nil }
            if target.kind == .directory {
                guard source.kind == .directory else { return .isDirectory }
                guard target.children.isEmpty else { return .notEmpty }
                dropDirectory(target, in: new.directory)
            } else {
                if source.kind == .directory { return .notDirectory }
                drop(target, now)
            }
        }
        old.directory.children[old.name] = nil
        put(source, from: old.directory, at: new, now)
        return nil
    }

    private func exchange(
        _ old: ModelPlace, _ source: Node, _ new: ModelPlace, _ target: Node, _ now: Moment
    ) {
        if source === target { return }
        put(source, from: old.directory, at: new, now)
        put(target, from: new.directory, at: old, now)
    }

    private func put(_ node: Node, from directory: Node, at place: ModelPlace, _ now: Moment) {
        place.directory.children[place.name] = node
        node.changed = now
        for touched in [directory, place.directory] { noteNamesChanged(touched, now) }
        guard node.kind == .directory else { return }
        directory.links -= 1
        place.directory.links += 1
        node.parent = place.directory
    }

    // MARK: handles and bytes

    private func openOrClose(_ operation: ModelOperation, _ now: Moment) -> Errno? {
        switch operation {
        case .open(let target, let number, let opening):
            let node = target.node
            handles.append(Handle(number: number, node: node, opening: opening))
            guard opening == .truncating else { return nil }
            node.change { $0 = [] }
            noteNamesChanged(node, now)
        case .close(let handle):
            handles.removeAll { $0 === handle }
            guard handle.node.links == 0, !isOpen(handle.node) else { return nil }
            unnamed.removeAll { $0 === handle.node }
            gone.append(handle.node)
        default: break
        }
        return nil
    }

    private func changeBytes(_ operation: ModelOperation, _ now: Moment) -> Errno? {
        switch operation {
        case .write(let target, let offset, let bytes): put(bytes, at: offset, in: target.node, now)
        case .copy(let source, let offset, let target, let place, let count):
            let end = min(source.node.content.count, offset + count)
            source.node.accessed = nil
            guard offset < end else { return nil }
            put(Array(source.node.content[offset..<end]), at: place, in: target.node, now)
        case .truncate(let target, let size):
            target.node.change { content in
                content.removeLast(max(0, content.count - size))
                content += [UInt8](repeating: 0, count: max(0, size - content.count))
            }
            noteNamesChanged(target.node, now)
        case .allocate(let target, let mode, let offset, let count):
            target.node.change { content in
                if mode.mayExtend, content.count < offset + count {
                    content += [UInt8](repeating: 0, count: offset + count - content.count)
                }
                guard mode.makesZeros else { return }
                for index in min(offset, content.count)..<min(offset + count, content.count) {
                    content[index] = 0
                }
            }
            noteNamesChanged(target.node, now)
        default: break
        }
        return nil
    }

    private func put(_ bytes: [UInt8], at offset: Int, in node: Node, _ now: Moment) {
        node.change { content in
            if content.count < offset + bytes.count {
                content += [UInt8](repeating: 0, count: offset + bytes.count - content.count)
            }
            content.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        }
        noteNamesChanged(node, now)
    }

    // MARK: attributes

    private func changeAttributes(_ operation: ModelOperation, _ now: Moment) -> Errno? {
        switch operation {
        case .setAttribute(let target, let name, let value, let rule):
            let isThere = target.node.xattrs[name] != nil
            if rule == .mustCreate, isThere { return .exists }
            if rule == .mustReplace, !isThere { return .noData }
            target.node.xattrs[name] = value
            target.node.changed = now
        case .removeAttribute(let target, let name):
            guard target.node.xattrs.removeValue(forKey: name) != nil else { return .noData }
            target.node.changed = now
        case .changeMode(let target, let mode):
            target.node.permissions = mode
            target.node.changed = now
        case .changeOwner(let target, let uid, let gid):
            (target.node.uid, target.node.gid) = (uid, gid)
            target.node.changed = now
        case .setTimes(let target, let access, let modification):
            target.node.accessed = Moment(access)
            target.node.modified = Moment(modification)
            target.node.changed = now
        default: break
        }
        return nil
    }
}
