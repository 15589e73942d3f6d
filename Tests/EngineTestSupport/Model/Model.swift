package import VolumeFileSystem
package import VolumeModel

/// A file system in a few lines, to compare the real one with. What operations do to it: `Model+Operations.swift`.
package final class Model {
    package final class Node {
        package let inode: InodeNumber
        package let kind: FileKind
        package internal(set) var content: [UInt8] = []
        package internal(set) var children: [String: Node] = [:]
        package internal(set) var target: [UInt8] = []
        package internal(set) var xattrs: [String: [UInt8]] = [:]
        package internal(set) var permissions: UInt32
        package internal(set) var uid: UInt32 = 0
        package internal(set) var gid: UInt32 = 0
        package internal(set) var links: Int
        package internal(set) weak var parent: Node?
        /// Whether it has had no name since it was made.
        package internal(set) var wasNeverNamed = false
        var modified = Moment.any
        var changed = Moment.any
        /// nil: not known, for somebody has read it. When that moves it is relatime's affair, and of what is cached.
        var accessed: Moment?
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

        package var size: Int { kind == .symbolicLink ? target.count : content.count }

        func change(_ body: (inout [UInt8]) -> Void) {
            body(&content)
            history.append(content)
        }

        package func isInside(_ other: Node) -> Bool {
            var current: Node? = self
            while let node = current {
                if node === other { return true }
                current = node.parent
            }
            return false
        }
    }

    /// A time as far as the model can know it: the clock's while an operation was done, until it is seen.
    struct Moment {
        static let any = Moment(FileTime.earliest...FileTime.latest)

        private(set) var window: ClosedRange<FileTime>

        init(_ window: ClosedRange<FileTime>) { self.window = window }
        init(_ time: FileTime) { window = time...time }

        /// - Returns: whether it may be this one. From now on it is no other.
        mutating func settle(at time: FileTime) -> Bool {
            guard window.contains(time) else { return false }
            window = time...time
            return true
        }
    }

    /// How a file is opened. All can read and write.
    package enum Opening: Sendable, CaseIterable { case plain, truncating, appending, direct }

    /// What open(2) gives.
    package final class Handle {
        package let number: Int
        package let node: Node
        package let opening: Opening

        init(number: Int, node: Node, opening: Opening) {
            self.number = number
            self.node = node
            self.opening = opening
        }
    }

    package let root = Node(inode: .root, kind: .directory, permissions: 0o755, parent: nil)
    /// Files without a name that are still open.
    package internal(set) var unnamed: [Node] = []
    package internal(set) var handles: [Handle] = []
    package internal(set) var removedDirectories: [InodeNumber] = []
    /// What nothing leads to any more since it was asked for the last time.
    var gone: [Node] = []
    /// Whose files all are that are made.
    package var caller = Caller.root

    package init() {}

    package func isOpen(_ node: Node) -> Bool { handles.contains { $0.node === node } }

    package var all: [Node] {
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

    package var directories: [Node] { all.filter { $0.kind == .directory } }
    package var files: [Node] { all.filter { $0.kind == .regular } }

    /// All ways that lead to a node, in the order of the alphabet; none: it has no name.
    package func paths(of node: Node) -> [[String]] { paths[node.inode] ?? [] }

    /// The same of all that have names.
    package var paths: [InodeNumber: [[String]]] {
        var found: [InodeNumber: [[String]]] = [:]
        var path: [String] = []
        func visit(_ node: Node) {
            found[node.inode, default: []].append(path)
            for (name, child) in node.children.sorted(by: { $0.key < $1.key }) {
                path.append(name)
                visit(child)
                path.removeLast()
            }
        }
        visit(root)
        return found
    }

    /// All that there is is on the disk.
    package func noteSynchronized() {
        for node in all {
            node.isSynced = node.links > 0
            node.history = [node.content]
        }
    }

    func takeGone() -> [Node] {
        defer { gone = [] }
        return gone
    }
}
