import VolumeFileSystem
import VolumeModel

/// A file system in a few lines, to compare the real one with.
final class Model {
    final class Node {
        let inode: InodeNumber
        let kind: FileKind
        var content: [UInt8] = []
        var children: [String: Node] = [:]
        var target: [UInt8] = []
        var xattrs: [String: [UInt8]] = [:]
        var permissions: UInt32
        var links: Int
        weak var parent: Node?
        /// Everything that it has been since the last fsync, the state at that fsync included; nil: it has
        /// never been synced.
        var isSynced = false
        var history: [[UInt8]] = [[]]

        init(inode: InodeNumber, kind: FileKind, permissions: UInt32, parent: Node?) {
            self.inode = inode
            self.kind = kind
            self.permissions = permissions
            self.parent = parent
            links = kind == .directory ? 2 : 1
        }

        func change(_ body: (inout [UInt8]) -> Void) {
            body(&content)
            history.append(content)
        }

        func isInside(_ other: Node) -> Bool {
            var current: Node? = self
            while let node = current {
                if node === other { return true }
                current = node.parent
            }
            return false
        }
    }

    let root = Node(inode: .root, kind: .directory, permissions: 0o755, parent: nil)
    /// Files without a name that are still open.
    var unnamed: [Node] = []

    var all: [Node] {
        var seen: Set<InodeNumber> = []
        var nodes: [Node] = []
        func visit(_ node: Node) {
            guard seen.insert(node.inode).inserted else { return }
            nodes.append(node)
            for (_, child) in node.children.sorted(by: { $0.key < $1.key }) { visit(child) }
        }
        visit(root)
        return nodes + unnamed
    }

    var directories: [Node] { all.filter { $0.kind == .directory } }
    var files: [Node] { all.filter { $0.kind == .regular } }

    /// The names that lead to a node, one way; nil: none do.
    func path(of wanted: Node) -> [String]? {
        func find(_ node: Node) -> [String]? {
            if node === wanted { return [] }
            for (name, child) in node.children {
                if let rest = find(child) { return [name] + rest }
            }
            return nil
        }
        return find(root)
    }

    func add(_ node: Node, as name: String, in directory: Node) {
        directory.children[name] = node
        if node.kind == .directory { directory.links += 1 }
    }

    func link(_ node: Node, as name: String, in directory: Node) -> Errno? {
        if directory.children[name] != nil { return .exists }
        if node.links == 0 { unnamed.removeAll { $0 === node } }
        node.links += 1
        directory.children[name] = node
        return nil
    }

    private func drop(_ node: Node, isOpen: (Node) -> Bool) {
        node.links -= 1
        if node.links == 0, node.kind == .regular, isOpen(node) { unnamed.append(node) }
    }

    func unlink(_ name: String, in directory: Node, isOpen: (Node) -> Bool) -> Errno? {
        guard let node = directory.children[name] else { return .noSuchEntry }
        if node.kind == .directory { return .isDirectory }
        directory.children[name] = nil
        drop(node, isOpen: isOpen)
        return nil
    }

    func removeDirectory(_ name: String, in directory: Node) -> Errno? {
        guard let node = directory.children[name] else { return .noSuchEntry }
        guard node.kind == .directory else { return .notDirectory }
        guard node.children.isEmpty else { return .notEmpty }
        directory.children[name] = nil
        directory.links -= 1
        return nil
    }

    func rename(
        _ name: String, in old: Node, to newName: String, in new: Node, rule: RenameRule,
        isOpen: (Node) -> Bool
    ) -> Errno? {
        guard let source = old.children[name] else { return .noSuchEntry }
        let target = new.children[newName]
        if source.kind == .directory, new.isInside(source) { return .invalidArgument }
        if rule == .exchange {
            guard let target else { return .noSuchEntry }
            if target.kind == .directory, old.isInside(target) { return .invalidArgument }
            old.children[name] = target
            new.children[newName] = source
            for (node, from, to) in [(source, old, new), (target, new, old)] where node.kind == .directory {
                from.links -= 1
                to.links += 1
                node.parent = to
            }
            return nil
        }
        if let target {
            if rule == .refuseToReplace { return .exists }
            if target === source { return nil }
            if target.kind == .directory {
                guard source.kind == .directory else { return .isDirectory }
                guard target.children.isEmpty else { return .notEmpty }
                new.links -= 1
            } else {
                if source.kind == .directory { return .notDirectory }
                drop(target, isOpen: isOpen)
            }
        }
        old.children[name] = nil
        new.children[newName] = source
        if source.kind == .directory {
            old.links -= 1
            new.links += 1
            source.parent = new
        }
        return nil
    }
}
