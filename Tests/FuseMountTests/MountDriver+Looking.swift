import CTestBed
import EngineTestSupport
import Glibc
import VolumeFileSystem
import VolumeModel

/// What a program sees of the volume.
extension MountDriver {
    private func anyPath(of node: Model.Node, in model: Model) throws(FileSystemError) -> String {
        guard let path = looks.element(of: model.paths(of: node)) else { throw .errno(.stale) }
        return absolute(path)
    }

    func attributes(
        of nodes: [Model.Node], in model: Model
    ) async throws(FileSystemError) -> [FileAttributes] {
        let paths = model.paths
        var ways: [Way] = []
        for node in nodes {
            // Sometimes by another name, sometimes by a descriptor: it is the same inode.
            let names = paths[node.inode] ?? []
            let handle = anyHandle(of: node, in: model)
            if let name = looks.element(of: names), handle == nil || looks.next(below: 2) == 0 {
                ways.append(Way(descriptor: -1, path: absolute(name)))
            } else {
                ways.append(Way(descriptor: handle.flatMap { descriptors[$0.number] } ?? -1, path: ""))
            }
        }
        return try await call { [ways] () throws(FileSystemError) in
            var found: [FileAttributes] = []
            for way in ways { found.append(FileAttributes(try way.status())) }
            return found
        }
    }

    func read(
        _ target: ModelTarget, _ range: Range<Int>, in model: Model
    ) async throws(FileSystemError) -> [UInt8] {
        let way = try way(to: target, in: model)
        return try await call { () throws(FileSystemError) in
            try way.opened(O_RDONLY) { descriptor throws(FileSystemError) in
                var bytes = [UInt8](repeating: 0xee, count: range.count)
                let count = try checked(pread(descriptor, &bytes, range.count, range.lowerBound))
                return Array(bytes.prefix(count))
            }
        }
    }

    func seek(
        _ target: ModelTarget, _ offset: Int, toHole: Bool, in model: Model
    ) async throws(FileSystemError) -> Int {
        let way =
            target.handle == nil
            ? Way(descriptor: -1, path: try anyPath(of: target.node, in: model))
            : try way(to: target, in: model)
        return try await call { () throws(FileSystemError) in
            try way.opened(O_RDONLY) { descriptor throws(FileSystemError) in
                // SEEK_HOLE and SEEK_DATA of lseek(2).
                try checked(lseek(descriptor, offset, toHole ? 4 : 3))
            }
        }
    }

    /// Without `.`, if that is right, and without `..`: a listing that the kernel has kept tells for it the inode number of
    /// the directory that was above when it was made. (stat(2) of it tells the present one.)
    func list(
        _ directory: Model.Node, in model: Model
    ) async throws(FileSystemError) -> [String: InodeNumber] {
        let path = try anyPath(of: directory, in: model)
        let own = directory.inode
        return try await call { () throws(FileSystemError) in
            guard let stream = opendir(path) else { throw .errno(Errno(errno)) }
            defer { closedir(stream) }
            var found: [String: InodeNumber] = [:]
            while let entry = Glibc.readdir(stream) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
                }
                let inode = InodeNumber(UInt64(entry.pointee.d_ino))
                if name == "." && inode == own || name == ".." { continue }
                // One that is listed twice is the wrong one.
                found[name] = found[name] == nil ? inode : InodeNumber(0)
            }
            return found
        }
    }

    func target(of link: Model.Node, in model: Model) async throws(FileSystemError) -> [UInt8] {
        let path = try anyPath(of: link, in: model)
        return try await call { () throws(FileSystemError) in
            var bytes = [CChar](repeating: 0, count: 4096)
            let count = try checked(readlink(path, &bytes, bytes.count))
            return bytes.prefix(count).map { UInt8(bitPattern: $0) }
        }
    }

    func extendedAttributes(
        of node: Model.Node, in model: Model
    ) async throws(FileSystemError) -> [String: [UInt8]] {
        let way =
            node.links > 0
            ? Way(descriptor: -1, path: try anyPath(of: node, in: model))
            : try way(to: ModelTarget(node: node, handle: nil), in: model)
        return try await call { () throws(FileSystemError) in
            var names = [CChar](repeating: 0, count: 65_536)
            let length = tb_list_own_attributes(way.descriptor, way.path, &names, names.count)
            try raised(length)
            var found: [String: [UInt8]] = [:]
            for bytes in names.prefix(Int(length)).split(separator: 0) {
                let name = String(decoding: bytes.map { UInt8(bitPattern: $0) }, as: UTF8.self)
                var value = [UInt8](repeating: 0, count: 65_536)
                let count = tb_get_own_attribute(way.descriptor, way.path, name, &value, value.count)
                try raised(count)
                found[name] = Array(value.prefix(Int(count)))
            }
            return found
        }
    }
}
