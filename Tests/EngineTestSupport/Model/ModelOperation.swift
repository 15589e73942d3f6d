package import VolumeFileSystem
package import VolumeModel

/// A name in a directory of the model, which need not exist.
package struct ModelPlace {
    package let directory: Model.Node
    package let name: String

    package var node: Model.Node? { directory.children[name] }
}

/// A file, and how it is reached.
package struct ModelTarget {
    package let node: Model.Node
    /// nil: by one of its names.
    package let handle: Model.Handle?

    package init(node: Model.Node, handle: Model.Handle?) {
        self.node = node
        self.handle = handle
    }
}

/// One thing that a program does to a volume. Its files are the model's.
package enum ModelOperation {
    package enum AttributeRule: Sendable { case either, mustCreate, mustReplace }

    case create(ModelPlace)
    case makeDirectory(ModelPlace)
    case makeSymbolicLink(ModelPlace, target: [UInt8])
    /// O_TMPFILE; it is open afterwards, by a handle of this number.
    case makeUnnamed(in: Model.Node, handle: Int)
    case link(ModelTarget, ModelPlace)
    case unlink(ModelPlace)
    case removeDirectory(ModelPlace)
    case rename(ModelPlace, to: ModelPlace, RenameRule)
    case open(ModelTarget, handle: Int, Model.Opening)
    case close(Model.Handle)
    case write(ModelTarget, offset: Int, [UInt8])
    case truncate(ModelTarget, Int)
    case allocate(ModelTarget, AllocationMode, offset: Int, count: Int)
    case copy(ModelTarget, from: Int, to: ModelTarget, at: Int, count: Int)
    case synchronize(ModelTarget, dataOnly: Bool)
    case setAttribute(ModelTarget, String, [UInt8], AttributeRule)
    case removeAttribute(ModelTarget, String)
    case changeMode(ModelTarget, UInt32)
    case changeOwner(ModelTarget, uid: UInt32, gid: UInt32)
    case setTimes(ModelTarget, access: FileTime, modification: FileTime)
    /// Cached bytes go: they are read anew.
    case forgetBytes(ModelTarget)

    /// What it names, as the model has it now.
    package var nodes: [Model.Node] {
        switch self {
        case .create(let place), .makeDirectory(let place), .makeSymbolicLink(let place, _),
            .unlink(let place), .removeDirectory(let place):
            [place.directory] + [place.node].compactMap(\.self)
        case .makeUnnamed(let directory, _): [directory]
        case .link(let target, let place): [target.node, place.directory]
        case .rename(let old, let new, _):
            [old.directory, new.directory] + [old.node, new.node].compactMap(\.self)
        case .copy(let source, _, let target, _, _): [source.node, target.node]
        case .close(let handle): [handle.node]
        case .open(let target, _, _), .write(let target, _, _), .truncate(let target, _),
            .allocate(let target, _, _, _), .synchronize(let target, _), .setAttribute(let target, _, _, _),
            .removeAttribute(let target, _), .changeMode(let target, _), .changeOwner(let target, _, _),
            .setTimes(let target, _, _), .forgetBytes(let target):
            [target.node]
        }
    }
}

extension ModelPlace: CustomStringConvertible {
    package var description: String { "\(directory.inode)/\(name)" }
}

extension ModelTarget: CustomStringConvertible {
    package var description: String { "\(node.inode)" + (handle.map { " by handle \($0.number)" } ?? "") }
}

extension ModelOperation: CustomStringConvertible {
    package var description: String {
        switch self {
        case .create(let place): "create \(place)"
        case .makeDirectory(let place): "mkdir \(place)"
        case .makeSymbolicLink(let place, _): "symlink \(place)"
        case .makeUnnamed(let directory, let handle): "unnamed in \(directory.inode), handle \(handle)"
        case .link(let target, let place): "link \(target) as \(place)"
        case .unlink(let place): "unlink \(place)"
        case .removeDirectory(let place): "rmdir \(place)"
        case .rename(let old, let new, let rule): "rename \(old) \(new) \(rule)"
        case .open(let target, let handle, let opening): "open \(target) \(opening), handle \(handle)"
        case .close(let handle): "close handle \(handle.number) of \(handle.node.inode)"
        case .write(let target, let offset, let bytes): "write \(target) \(offset)+\(bytes.count)"
        case .truncate(let target, let size): "truncate \(target) \(size)"
        case .allocate(let target, let mode, let offset, let count): "\(mode) \(target) \(offset)+\(count)"
        case .copy(let source, let from, let target, let to, let count):
            "copy \(source) \(from)+\(count) to \(target) \(to)"
        case .synchronize(let target, let dataOnly): "\(dataOnly ? "fdatasync" : "fsync") \(target)"
        case .setAttribute(let target, let name, _, let rule): "setxattr \(target) \(name) \(rule)"
        case .removeAttribute(let target, let name): "removexattr \(target) \(name)"
        case .changeMode(let target, let mode): "chmod \(target) \(String(mode, radix: 8))"
        case .changeOwner(let target, let uid, let gid): "chown \(target) \(uid):\(gid)"
        case .setTimes(let target, let access, let modification):
            "utimens \(target) \(access.seconds) \(modification.seconds)"
        case .forgetBytes(let target): "forget cached bytes of \(target)"
        }
    }
}
