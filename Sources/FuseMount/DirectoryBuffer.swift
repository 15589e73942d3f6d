internal import CFuse
internal import Glibc
internal import VolumeFileSystem
internal import VolumeModel

/// The bytes of a listing in the kernel's form, as far as they fit.
struct DirectoryBuffer {
    let request: FuseRequest
    let size: Int
    let isPlus: Bool
    let cacheSeconds: Double
    private var buffer: [UInt8]
    private var usedCount = 0

    var bytes: [UInt8] { Array(buffer.prefix(usedCount)) }

    init(request: FuseRequest, size: Int, isPlus: Bool, cacheSeconds: Double) {
        self.request = request
        self.size = size
        self.isPlus = isPlus
        self.cacheSeconds = cacheSeconds
        buffer = [UInt8](repeating: 0, count: size)
    }

    mutating func add(dots name: String, _ inode: InodeNumber, nextOffset: Int64) -> Bool {
        var entry = fuse_entry_param()
        // A node id of 0: the kernel takes no reference for these two.
        entry.attr.st_ino = UInt(inode.number)
        entry.attr.st_mode = FileKind.directory.rawValue
        return add(Array(name.utf8), &entry, nextOffset)
    }

    mutating func add(_ item: DirectoryEntry, nextOffset: Int64) -> Bool {
        var entry = item.attributes.entry(cacheSeconds: cacheSeconds)
        return add(item.name, &entry, nextOffset)
    }

    private mutating func add(_ name: [UInt8], _ entry: inout fuse_entry_param, _ nextOffset: Int64) -> Bool {
        let (start, room) = (usedCount, size - usedCount)
        let offset = off_t(nextOffset)
        let (isPlus, pointer) = (isPlus, request.pointer)
        let needed = (name + [0]).withUnsafeBufferPointer { name in
            name.withMemoryRebound(to: CChar.self) { name in
                buffer.withUnsafeMutableBytes { buffer in
                    let place = buffer.baseAddress?.advanced(by: start).assumingMemoryBound(to: CChar.self)
                    return isPlus
                        ? fuse_add_direntry_plus(pointer, place, room, name.baseAddress, &entry, offset)
                        : fuse_add_direntry(pointer, place, room, name.baseAddress, &entry.attr, offset)
                }
            }
        }
        guard needed <= room else { return false }
        usedCount += needed
        return true
    }
}
