import CTestBed
import Catalog
import EngineTestSupport
import Glibc
import VolumeFileSystem
import VolumeModel

/// The system calls.
extension MountDriver {
    /// O_TMPFILE and O_DIRECT, which Glibc's module lacks.
    private static let temporaryFile: Int32 = 0o20_000_000 | O_DIRECTORY
    #if arch(arm64)
        private static let direct: Int32 = 0o200_000
    #else
        private static let direct: Int32 = 0o40_000
    #endif

    /// The mount is served by this process, whose tasks a call may have to wait for: it is made on a thread of its own.
    @discardableResult
    func call<Answer: Sendable>(
        _ body: @escaping @Sendable () throws(FileSystemError) -> Answer
    ) async throws(FileSystemError) -> Answer {
        let outcome = try? await BlockingThreads.run { () -> Result<Answer, FileSystemError> in
            do throws(FileSystemError) { return .success(try body()) } catch { return .failure(error) }
        }
        guard let outcome else { throw .errno(.inputOutput) }
        return try outcome.get()
    }

    // MARK: ways

    private func path(of place: ModelPlace, in model: Model) throws(FileSystemError) -> String {
        try path(of: place.directory, in: model) + "/" + place.name
    }

    /// By any of its names.
    private func path(of node: Model.Node, in model: Model) throws(FileSystemError) -> String {
        guard let path = generator.element(of: model.paths(of: node)) else { throw .errno(.stale) }
        return absolute(path)
    }

    func absolute(_ path: [String]) -> String { ([mountPoint] + path).joined(separator: "/") }

    func way(to target: ModelTarget, in model: Model) throws(FileSystemError) -> Way {
        let handle = target.handle ?? (target.node.links == 0 ? anyHandle(of: target.node, in: model) : nil)
        if let handle { return Way(descriptor: descriptors[handle.number] ?? -1, path: "") }
        return Way(descriptor: -1, path: try path(of: target.node, in: model))
    }

    func anyHandle(of node: Model.Node, in model: Model) -> Model.Handle? {
        model.handles.first { $0.node === node }
    }

    // MARK: operations

    func perform(
        _ operation: ModelOperation, in model: Model
    ) async throws(FileSystemError) -> InodeNumber? {
        switch operation {
        case .create, .makeDirectory, .makeSymbolicLink: return try await make(operation, in: model)
        case .makeUnnamed(let directory, let number):
            let place = try path(of: directory, in: model)
            let descriptor = try await call { () throws(FileSystemError) in
                try checked(open(place, Self.temporaryFile | O_RDWR | O_CLOEXEC, 0o600))
            }
            descriptors[number] = descriptor
            return InodeNumber(UInt64(try Way(descriptor: descriptor, path: "").status().st_ino))
        case .link, .unlink, .removeDirectory, .rename: try await changeNames(operation, in: model)
        case .open(let target, let number, let opening):
            let way = try way(to: target, in: model)
            let flags: Int32 =
                switch opening {
                case .plain: 0
                case .truncating: O_TRUNC
                case .appending: O_APPEND
                case .direct: Self.direct
                }
            descriptors[number] = try await call { () throws(FileSystemError) in
                try checked(open(way.path, O_RDWR | O_CLOEXEC | flags))
            }
        case .close(let handle):
            guard let descriptor = descriptors.removeValue(forKey: handle.number) else {
                throw .errno(.badDescriptor)
            }
            try await call { () throws(FileSystemError) in _ = try checked(close(descriptor)) }
        case .write, .truncate, .allocate, .copy, .forgetBytes: try await changeBytes(operation, in: model)
        case .synchronize(let target, let dataOnly):
            try await synchronize(target, dataOnly: dataOnly, in: model)
        case .setAttribute, .removeAttribute, .changeMode, .changeOwner, .setTimes:
            try await changeAttributes(operation, in: model)
        }
        return nil
    }

    private func make(
        _ operation: ModelOperation, in model: Model
    ) async throws(FileSystemError) -> InodeNumber? {
        let opens = generator.next(below: 2) == 0
        let body: @Sendable () throws(FileSystemError) -> String
        switch operation {
        case .create(let place):
            let path = try path(of: place, in: model)
            body = { () throws(FileSystemError) in
                if opens {
                    close(try checked(open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o644)))
                } else {
                    try checked(mknod(path, S_IFREG | 0o644, 0))
                }
                return path
            }
        case .makeDirectory(let place):
            let path = try path(of: place, in: model)
            body = { () throws(FileSystemError) in
                try checked(mkdir(path, 0o755))
                return path
            }
        case .makeSymbolicLink(let place, let target):
            let path = try path(of: place, in: model)
            let text = String(decoding: target, as: UTF8.self)
            body = { () throws(FileSystemError) in
                try checked(symlink(text, path))
                return path
            }
        default: return nil
        }
        return try await call { () throws(FileSystemError) in
            InodeNumber(UInt64(try Way(descriptor: -1, path: try body()).status().st_ino))
        }
    }

    private func changeNames(_ operation: ModelOperation, in model: Model) async throws(FileSystemError) {
        switch operation {
        case .link(let target, let place):
            let way = try way(to: target, in: model)
            let path = try path(of: place, in: model)
            try await call { () throws(FileSystemError) in
                let isOpen = way.descriptor >= 0
                let old = isOpen ? "/proc/self/fd/\(way.descriptor)" : way.path
                try checked(linkat(AT_FDCWD, old, AT_FDCWD, path, isOpen ? AT_SYMLINK_FOLLOW : 0))
            }
        case .unlink(let place):
            let path = try path(of: place, in: model)
            try await call { () throws(FileSystemError) in _ = try checked(Glibc.unlink(path)) }
        case .removeDirectory(let place):
            let path = try path(of: place, in: model)
            try await call { () throws(FileSystemError) in _ = try checked(rmdir(path)) }
        case .rename(let old, let new, let rule):
            let (from, to) = (try path(of: old, in: model), try path(of: new, in: model))
            let flags: UInt32 =
                switch rule {
                case .replace: 0
                case .refuseToReplace: 1
                case .exchange: 2
                }
            try await call { () throws(FileSystemError) in try raised(Int64(tb_rename(from, to, flags))) }
        default: break
        }
    }

    private func changeBytes(_ operation: ModelOperation, in model: Model) async throws(FileSystemError) {
        switch operation {
        case .write(let target, let offset, let bytes):
            let way = try way(to: target, in: model)
            // The end is the kernel's to find.
            let place = target.handle?.opening == .appending ? 0 : offset
            try await call { () throws(FileSystemError) in
                try way.opened(O_WRONLY) { descriptor throws(FileSystemError) in
                    let count = try checked(pwrite(descriptor, bytes, bytes.count, place))
                    guard count == bytes.count else { throw .errno(.inputOutput) }
                }
            }
        case .truncate(let target, let size):
            let way = try way(to: target, in: model)
            try await call { () throws(FileSystemError) in
                try checked(
                    way.descriptor >= 0
                        ? ftruncate(way.descriptor, size) : Glibc.truncate(way.path, size))
            }
        case .allocate(let target, let mode, let offset, let count):
            let way = try way(to: target, in: model)
            let flags: Int32 =
                switch mode {
                case .allocate: 0
                case .allocateKeepingSize: 1
                case .punchHole: 3
                case .zeroRange: 16
                case .zeroRangeKeepingSize: 17
                }
            try await call { () throws(FileSystemError) in
                try way.opened(O_RDWR) { descriptor throws(FileSystemError) in
                    try raised(Int64(tb_fallocate(descriptor, flags, Int64(offset), Int64(count))))
                }
            }
        case .copy(let source, let offset, let target, let place, let count):
            let (from, to) = (try way(to: source, in: model), try way(to: target, in: model))
            try await call { () throws(FileSystemError) in
                try Self.copy(from, offset, to, place, count)
            }
        case .forgetBytes(let target):
            let way = try way(to: target, in: model)
            try await call { () throws(FileSystemError) in
                try way.opened(O_RDONLY) { descriptor throws(FileSystemError) in
                    _ = posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
                }
            }
        default: break
        }
    }

    private static func copy(
        _ from: Way, _ offset: Int, _ to: Way, _ place: Int, _ count: Int
    ) throws(FileSystemError) {
        try from.opened(O_RDONLY) { source throws(FileSystemError) in
            try to.opened(O_WRONLY) { target throws(FileSystemError) in
                var done = 0
                while done < count {
                    let copied = tb_copy_range(
                        source, Int64(offset + done), target, Int64(place + done), count - done)
                    try raised(copied)
                    if copied == 0 { return }
                    done += Int(copied)
                }
            }
        }
    }

    /// A symbolic link cannot be opened: its directory is synced, and with that every name of the volume.
    private func synchronize(
        _ target: ModelTarget, dataOnly: Bool, in model: Model
    ) async throws(FileSystemError) {
        var way = try way(to: target, in: model)
        if target.node.kind == .symbolicLink, let end = way.path.lastIndex(of: "/") {
            way = Way(descriptor: -1, path: String(way.path[..<end]))
        }
        let path = way
        try await call { () throws(FileSystemError) in
            try path.opened(O_RDONLY) { descriptor throws(FileSystemError) in
                _ = try checked(dataOnly ? fdatasync(descriptor) : fsync(descriptor))
            }
        }
    }

    private func changeAttributes(
        _ operation: ModelOperation, in model: Model
    ) async throws(FileSystemError) {
        switch operation {
        case .setAttribute(let target, let name, let value, let rule):
            let way = try way(to: target, in: model)
            // XATTR_CREATE and XATTR_REPLACE of setxattr(2).
            let flags: Int32 =
                switch rule {
                case .either: 0
                case .mustCreate: 1
                case .mustReplace: 2
                }
            // An empty array has no address.
            let bytes = value + [0]
            try await call { () throws(FileSystemError) in
                try raised(
                    Int64(
                        tb_set_own_attribute(
                            way.descriptor, way.path, name, bytes, bytes.count - 1, flags)))
            }
        case .removeAttribute(let target, let name):
            let way = try way(to: target, in: model)
            try await call { () throws(FileSystemError) in
                try raised(Int64(tb_remove_own_attribute(way.descriptor, way.path, name)))
            }
        case .changeMode(let target, let mode):
            let way = try way(to: target, in: model)
            let isLink = target.node.kind == .symbolicLink
            try await call { () throws(FileSystemError) in
                try checked(
                    way.descriptor >= 0
                        ? fchmod(way.descriptor, mode)
                        : fchmodat(AT_FDCWD, way.path, mode, isLink ? AT_SYMLINK_NOFOLLOW : 0))
            }
        case .changeOwner(let target, let uid, let gid):
            let way = try way(to: target, in: model)
            try await call { () throws(FileSystemError) in
                try checked(
                    way.descriptor >= 0 ? fchown(way.descriptor, uid, gid) : lchown(way.path, uid, gid))
            }
        case .setTimes(let target, let access, let modification):
            let way = try way(to: target, in: model)
            try await call { () throws(FileSystemError) in
                let times = [access, modification].map {
                    timespec(tv_sec: Int($0.seconds), tv_nsec: Int($0.nanoseconds))
                }
                try checked(
                    way.descriptor >= 0
                        ? futimens(way.descriptor, times)
                        : utimensat(AT_FDCWD, way.path, times, AT_SYMLINK_NOFOLLOW))
            }
        default: break
        }
    }
}
