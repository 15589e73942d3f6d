internal import ByteStore
internal import Catalog
internal import Hydration
package import VolumeModel

/// Attributes, and what statvfs tells.
extension VolumeFileSystem {
    package func attributes(of inode: InodeNumber) throws(FileSystemError) -> FileAttributes {
        try run { try $0.existing(inode).attributes }
    }

    package func setAttributes(
        _ changes: AttributeChanges, of inode: InodeNumber, caller: Caller
    ) throws(FileSystemError) -> FileAttributes {
        if let size = changes.size {
            return try resize(inode, to: size) {
                _ = try Self.setAttributes(changes, of: inode, caller: caller, in: &$0)
            }
        }
        return try change(frees: true) {
            try Self.setAttributes(changes, of: inode, caller: caller, in: &$0)
        }
    }

    private static func setAttributes(
        _ changes: AttributeChanges, of inode: InodeNumber, caller: Caller, in state: inout CatalogState
    ) throws -> FileAttributes {
        var record = try state.existing(inode)
        // Whoever writes asks for this as well, before the write that says whether it is due.
        if changes.isOnlyOfSetIDs, !caller.isOwner(of: record.attributes), hasSetIDs(record.attributes) {
            return record.attributes
        }
        apply(changes, to: &record.attributes)
        if let permissions = changes.permissions, record.attributes.kind != .symbolicLink {
            try noteModeChanged(of: inode, to: permissions, in: &state)
        }
        try state.update(record, kind: .metadata)
        return record.attributes
    }

    private static func hasSetIDs(_ attributes: FileAttributes) -> Bool {
        var cleared = attributes
        clearSetIDs(&cleared)
        return cleared.permissions != attributes.permissions
    }

    private static func apply(_ changes: AttributeChanges, to attributes: inout FileAttributes) {
        let time = now()
        if changes.uid != nil || changes.gid != nil || changes.clearsSetID {
            // chown(2): a new owner must not inherit the old one's set-ID programs.
            clearSetIDs(&attributes)
        }
        if let permissions = changes.permissions { attributes.permissions = permissions & 0o7777 }
        if let uid = changes.uid { attributes.uid = uid }
        if let gid = changes.gid { attributes.gid = gid }
        if let accessTime = changes.accessTime { attributes.accessTime = moment(accessTime, now: time) }
        if let modification = changes.modificationTime {
            attributes.modificationTime = moment(modification, now: time)
        }
        attributes.changeTime = changes.changeTime?.held ?? time
    }

    package func clearSetIDs(
        of inode: InodeNumber, caller: () -> Caller
    ) throws(FileSystemError) -> Bool {
        // Nearly always there is nothing to do.
        let attributes = try run { try $0.existing(inode).attributes }
        let permissions = attributes.permissions
        guard permissions & 0o6000 != 0 else { return false }
        var isInGroup = true
        if permissions & 0o2010 == 0o2000 {
            let caller = caller()
            isInGroup = caller.gid == attributes.gid || caller.supplementaryGroups.contains(attributes.gid)
        }
        return try change(frees: true) { [isInGroup] state in
            var record = try state.existing(inode)
            Self.clearSetIDs(&record.attributes, isInGroup: isInGroup)
            guard record.attributes.permissions != permissions else { return false }
            record.attributes.changeTime = Self.now()
            try state.update(record, kind: .metadata)
            return true
        }
    }

    private static func clearSetIDs(_ attributes: inout FileAttributes, isInGroup: Bool = true) {
        guard attributes.kind != .directory else { return }
        attributes.permissions &= ~0o4000
        if attributes.permissions & 0o010 != 0 || !isInGroup { attributes.permissions &= ~0o2000 }
    }

    /// As it will be stored: else it would be another one as soon as the inode is read again.
    private static func moment(_ time: AttributeChanges.Time, now: FileTime) -> FileTime {
        switch time {
        case .now: now
        case .at(let time): time.held
        }
    }

    package func statistics() throws(FileSystemError) -> FileSystemStatistics {
        let usage: VolumeUsage
        do {
            usage = try storage.usage()
        } catch {
            throw translate(error)
        }
        let size = VolumeUsage.blockSize
        return FileSystemStatistics(
            blockSize: UInt32(size), totalBlocks: usage.totalByteCount / size,
            freeBlocks: (usage.totalByteCount - usage.usedByteCount) / size,
            totalInodes: usage.totalInodeCount, freeInodes: usage.totalInodeCount - usage.usedInodeCount)
    }
}
