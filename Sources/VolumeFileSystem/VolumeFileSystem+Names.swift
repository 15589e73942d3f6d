internal import Catalog
package import VolumeModel

/// Names: look-up, making, linking, removing, renaming.
extension VolumeFileSystem {
    package func lookup(
        _ name: [UInt8], in parent: InodeNumber
    ) throws(FileSystemError) -> FileAttributes {
        try run { state in
            guard name.count <= FileName.maximumByteCount else { throw Errno.nameTooLong }
            guard let entry = try state.entry(name, in: parent) else {
                _ = try state.directory(parent)
                throw Errno.noSuchEntry
            }
            guard let record = try state.inode(entry.inode) else { throw Errno.inputOutput }
            return record.attributes
        }
    }

    package func lookup(itself inode: InodeNumber) throws(FileSystemError) -> FileAttributes {
        try run { state in
            let attributes = try state.existing(inode).attributes
            guard attributes.linkCount > 0 else { throw Errno.stale }
            return attributes
        }
    }

    package func retain(_ inode: InodeNumber, count: UInt64) {}

    /// Numbers are persistent and never reused, so references need no count: only an inode without a
    /// name ends when the kernel forgets it.
    package func forget(_ inode: InodeNumber, count: UInt64) {
        let isOver = opens.withLock { opens in
            guard opens.orphans.contains(inode) else { return false }
            guard opens.counts[inode] == nil else {
                opens.forgottenOrphans.insert(inode)
                return false
            }
            opens.orphans.remove(inode)
            return true
        }
        if isOver { removeOrphan(inode) }
    }

    func removeOrphan(_ inode: InodeNumber) {
        do {
            let isGone = try storage.catalog.perform { state -> Bool in
                // It may have been given a name meanwhile.
                guard try state.inode(inode)?.attributes.linkCount == 0 else { return false }
                try state.removeInode(inode)
                return true
            }
            if isGone { hydrator?.prefetched.noteGone(ByteRange(0, ByteRange.maximumOffset), of: inode) }
        } catch {
            log("inode \(inode) stays until the next start: \(error)")
        }
    }

    // MARK: making

    package func makeNode(
        _ name: [UInt8], in parent: InodeNumber, kind: FileKind, permissions: UInt32, device: UInt32,
        caller: Caller
    ) throws(FileSystemError) -> FileAttributes {
        try change { state in
            guard kind != .directory && kind != .symbolicLink else { throw Errno.invalidArgument }
            return try self.make(
                name, in: parent, kind: kind, permissions: permissions, device: device, caller: caller,
                state: &state)
        }
    }

    package func makeDirectory(
        _ name: [UInt8], in parent: InodeNumber, permissions: UInt32, caller: Caller
    ) throws(FileSystemError) -> FileAttributes {
        try change { state in
            try self.make(
                name, in: parent, kind: .directory, permissions: permissions, caller: caller, state: &state)
        }
    }

    package func makeSymbolicLink(
        _ name: [UInt8], in parent: InodeNumber, target: [UInt8], caller: Caller
    ) throws(FileSystemError) -> FileAttributes {
        try change { state in
            guard !target.isEmpty else { throw Errno.noSuchEntry }
            guard target.count < 4096 else { throw Errno.nameTooLong }
            return try self.make(
                name, in: parent, kind: .symbolicLink, permissions: 0o777, target: target, caller: caller,
                state: &state)
        }
    }

    package func create(
        _ name: [UInt8], in parent: InodeNumber, permissions: UInt32, openFlags: Int32, caller: Caller
    ) throws(FileSystemError) -> (FileAttributes, FileHandle) {
        let attributes = try makeNode(
            name, in: parent, kind: .regular, permissions: permissions, device: 0, caller: caller)
        return (attributes, try open(attributes.inode, openFlags: openFlags))
    }

    package func createUnnamed(
        in parent: InodeNumber, permissions: UInt32, openFlags: Int32, caller: Caller
    ) throws(FileSystemError) -> (FileAttributes, FileHandle) {
        let attributes = try change { state in
            let directory = try state.directory(parent)
            guard directory.attributes.linkCount > 0 else { throw Errno.noSuchEntry }
            let inherited = try self.inheritance(
                .regular, permissions: permissions, from: parent, caller, in: &state)
            let record = try state.addInode { number in
                Self.newInode(
                    number, kind: .regular, permissions: inherited.permissions, linkCount: 0, in: directory,
                    caller: caller)
            }
            try Self.store(inherited, of: record.attributes.inode, in: &state)
            return record.attributes
        }
        opens.withLock { _ = $0.orphans.insert(attributes.inode) }
        return (attributes, try open(attributes.inode, openFlags: openFlags))
    }

    private func make(
        _ name: [UInt8], in parent: InodeNumber, kind: FileKind, permissions: UInt32, device: UInt32 = 0,
        target: [UInt8] = [], caller: Caller, state: inout CatalogState
    ) throws -> FileAttributes {
        try Self.checkNewName(name)
        var directory = try state.wholeDirectory(parent)
        guard directory.attributes.linkCount > 0 else { throw Errno.noSuchEntry }
        guard try state.entry(name, in: parent) == nil else { throw Errno.exists }
        let inherited = try inheritance(
            kind, permissions: permissions, from: parent, caller, in: &state)
        let record = try state.addInode { number in
            var record = Self.newInode(
                number, kind: kind, permissions: inherited.permissions,
                linkCount: kind == .directory ? 2 : 1, in: directory, caller: caller)
            record.attributes.device = device
            record.attributes.size = UInt64(target.count)
            record.target = target
            record.parent = kind == .directory ? parent : .root
            return record
        }
        try Self.store(inherited, of: record.attributes.inode, in: &state)
        try state.addEntry(name, in: parent, inode: record.attributes.inode, kind: kind)
        if kind == .directory, directory.attributes.linkCount < .max { directory.attributes.linkCount += 1 }
        try Self.noteNamesChanged(&directory, in: &state)
        return record.attributes
    }

    private static func newInode(
        _ number: InodeNumber, kind: FileKind, permissions: UInt32, linkCount: UInt32,
        in directory: InodeRecord, caller: Caller
    ) -> InodeRecord {
        let time = now()
        let inheritsGroup = directory.attributes.permissions & 0o2000 != 0
        return InodeRecord(
            attributes: FileAttributes(
                inode: number, kind: kind,
                permissions: permissions | (inheritsGroup && kind == .directory ? 0o2000 : 0),
                linkCount: linkCount, uid: caller.uid,
                gid: inheritsGroup ? directory.attributes.gid : caller.gid, accessTime: time,
                modificationTime: time, changeTime: time))
    }

    private static func checkNewName(_ name: [UInt8]) throws {
        guard name.count <= FileName.maximumByteCount else { throw Errno.nameTooLong }
        guard FileName.isValid(name) else { throw Errno.invalidArgument }
    }

    private static func noteNamesChanged(_ directory: inout InodeRecord, in state: inout CatalogState) throws
    {
        directory.attributes.modificationTime = now()
        directory.attributes.changeTime = directory.attributes.modificationTime
        try state.update(directory, kind: .structural)
    }

    package func link(
        _ inode: InodeNumber, as name: [UInt8], in parent: InodeNumber
    ) throws(FileSystemError) -> FileAttributes {
        let attributes = try change { state in
            try Self.checkNewName(name)
            var directory = try state.wholeDirectory(parent)
            var record = try state.existing(inode)
            guard directory.attributes.linkCount > 0 else { throw Errno.noSuchEntry }
            guard record.attributes.kind != .directory else { throw Errno.notPermitted }
            guard record.attributes.linkCount < Self.maximumLinkCount else { throw Errno.tooManyLinks }
            guard try state.entry(name, in: parent) == nil else { throw Errno.exists }
            record.attributes.linkCount += 1
            record.attributes.changeTime = Self.now()
            try state.update(record, kind: .structural)
            try state.addEntry(name, in: parent, inode: inode, kind: record.attributes.kind)
            try Self.noteNamesChanged(&directory, in: &state)
            return record.attributes
        }
        opens.withLock { opens in
            opens.orphans.remove(inode)
            opens.forgottenOrphans.remove(inode)
        }
        return attributes
    }

    // MARK: removing

    package func unlink(_ name: [UInt8], in parent: InodeNumber) throws(FileSystemError) {
        let orphan = try change(frees: true) { state -> InodeNumber? in
            var directory = try state.wholeDirectory(parent)
            guard let entry = try state.entry(name, in: parent) else { throw Errno.noSuchEntry }
            guard entry.kind != .directory else { throw Errno.isDirectory }
            try state.removeEntry(name, in: parent)
            try Self.noteNamesChanged(&directory, in: &state)
            return try Self.dropLink(of: entry.inode, in: &state)
        }
        noteOrphan(orphan)
    }

    package func removeDirectory(_ name: [UInt8], in parent: InodeNumber) throws(FileSystemError) {
        let orphan = try change(frees: true) { state -> InodeNumber? in
            var directory = try state.wholeDirectory(parent)
            guard let entry = try state.entry(name, in: parent) else { throw Errno.noSuchEntry }
            guard entry.kind == .directory else { throw Errno.notDirectory }
            guard try state.isEmptyDirectory(entry.inode) else { throw Errno.notEmpty }
            try state.removeEntry(name, in: parent)
            directory.attributes.linkCount -= min(1, directory.attributes.linkCount)
            try Self.noteNamesChanged(&directory, in: &state)
            return try Self.dropLink(of: entry.inode, in: &state)
        }
        noteOrphan(orphan)
    }

    /// Takes one name from an inode; a directory has no other.
    ///
    /// - Returns: the inode, if that was its last name.
    private static func dropLink(
        of inode: InodeNumber, in state: inout CatalogState
    ) throws -> InodeNumber? {
        guard var record = try state.inode(inode) else { return nil }
        let isDirectory = record.attributes.kind == .directory
        record.attributes.linkCount =
            isDirectory ? 0 : record.attributes.linkCount - min(1, record.attributes.linkCount)
        record.attributes.changeTime = now()
        try state.update(record, kind: .structural)
        return record.attributes.linkCount == 0 ? inode : nil
    }

    private func noteOrphan(_ orphan: InodeNumber?) {
        guard let orphan else { return }
        opens.withLock { _ = $0.orphans.insert(orphan) }
    }

    // MARK: renaming

    package func rename(
        _ name: [UInt8], in parent: InodeNumber, to newName: [UInt8], in newParent: InodeNumber,
        rule: RenameRule
    ) throws(FileSystemError) {
        storage.catalog.letCommitsPass()
        let orphan = try change { state -> InodeNumber? in
            try Self.checkNewName(newName)
            _ = try state.wholeDirectory(parent)
            guard try state.wholeDirectory(newParent).attributes.linkCount > 0 else {
                throw Errno.noSuchEntry
            }
            guard let source = try state.entry(name, in: parent) else { throw Errno.noSuchEntry }
            let target = try state.entry(newName, in: newParent)
            if source.kind == .directory {
                try Self.refuseCycle(of: source.inode, below: newParent, in: &state)
            }
            if rule == .exchange {
                guard let target else { throw Errno.noSuchEntry }
                if target.kind == .directory {
                    try Self.refuseCycle(of: target.inode, below: parent, in: &state)
                }
                try Self.exchange(source, target, in: &state)
                for entry in [source, target] { try self.awaitBytes(of: entry.inode, in: &state) }
                return nil
            }
            guard let target else {
                try Self.move(source, to: newName, in: newParent, replaces: false, state: &state)
                return nil
            }
            guard rule == .replace else { throw Errno.exists }
            if source.inode == target.inode { return nil }
            try Self.checkReplaceable(target, by: source, in: &state)
            if target.kind == .directory { try Self.adjustLinks(of: newParent, by: -1, in: &state) }
            let orphan = try Self.dropLink(of: target.inode, in: &state)
            try Self.move(source, to: newName, in: newParent, replaces: true, state: &state)
            try self.awaitBytes(of: source.inode, in: &state)
            return orphan
        }
        noteOrphan(orphan)
    }

    private static func checkReplaceable(
        _ target: DirectoryEntryRecord, by source: DirectoryEntryRecord, in state: inout CatalogState
    ) throws {
        if target.kind == .directory {
            guard source.kind == .directory else { throw Errno.isDirectory }
            guard try state.isEmptyDirectory(target.inode) else { throw Errno.notEmpty }
        } else if source.kind == .directory {
            throw Errno.notDirectory
        }
    }

    /// EINVAL when `inode` is `directory` or stands above it.
    private static func refuseCycle(
        of inode: InodeNumber, below directory: InodeNumber, in state: inout CatalogState
    ) throws {
        var current = directory
        var depth = 0
        while current != .root {
            if current == inode { throw Errno.invalidArgument }
            depth += 1
            // No path is that deep: what an owner sent us goes round in a circle.
            guard depth < 1 << 20 else { throw Errno.inputOutput }
            current = try state.directory(current).parent
        }
    }

    /// A name that stays keeps its place in listings, and one that is renamed in its directory goes on in the same.
    private static func move(
        _ entry: DirectoryEntryRecord, to name: [UInt8], in parent: InodeNumber, replaces: Bool,
        state: inout CatalogState
    ) throws {
        var record = try state.existing(entry.inode)
        if !replaces, entry.parent == parent {
            try state.replaceEntry(entry.name, in: parent, by: name, inode: entry.inode, kind: entry.kind)
        } else {
            try state.removeEntry(entry.name, in: entry.parent)
            // Where there is none to replace, this adds it.
            try state.replaceEntry(name, in: parent, by: name, inode: entry.inode, kind: entry.kind)
        }
        record.attributes.changeTime = now()
        if entry.kind == .directory { record.parent = parent }
        try state.update(record, kind: .structural)
        let moved: Int = entry.kind == .directory && entry.parent != parent ? 1 : 0
        try adjustLinks(of: entry.parent, by: -moved, in: &state)
        try adjustLinks(of: parent, by: moved, in: &state)
    }

    private static func exchange(
        _ first: DirectoryEntryRecord, _ second: DirectoryEntryRecord, in state: inout CatalogState
    ) throws {
        if first.inode == second.inode { return }
        for (entry, place) in [(first, second), (second, first)] {
            var record = try state.existing(entry.inode)
            try state.replaceEntry(
                place.name, in: place.parent, by: place.name, inode: entry.inode, kind: entry.kind)
            record.attributes.changeTime = now()
            if entry.kind == .directory { record.parent = place.parent }
            try state.update(record, kind: .structural)
        }
        let isAcross = first.parent != second.parent
        let firstGain = (second.kind == .directory ? 1 : 0) - (first.kind == .directory ? 1 : 0)
        try adjustLinks(of: first.parent, by: isAcross ? firstGain : 0, in: &state)
        try adjustLinks(of: second.parent, by: isAcross ? -firstGain : 0, in: &state)
    }

    /// Changes a directory's link count, and its times because its names have changed.
    private static func adjustLinks(
        of inode: InodeNumber, by difference: Int, in state: inout CatalogState
    ) throws {
        var directory = try state.directory(inode)
        let count = Int64(directory.attributes.linkCount) + Int64(difference)
        directory.attributes.linkCount = UInt32(clamping: count)
        try noteNamesChanged(&directory, in: &state)
    }

    package func readSymbolicLink(_ inode: InodeNumber) throws(FileSystemError) -> [UInt8] {
        try run { state in
            let record = try state.existing(inode)
            guard record.attributes.kind == .symbolicLink else { throw Errno.invalidArgument }
            self.noteAccess(to: record, in: &state)
            return record.target
        }
    }
}
