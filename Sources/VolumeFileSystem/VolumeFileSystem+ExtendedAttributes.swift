internal import Catalog
package import VolumeModel

/// Extended attributes and access control lists.
///
/// A list that says no more than the mode does is not stored. One that does is an attribute, and the mode's
/// nine bits agree with it at all times: whoever changes one changes both, in one change of the catalog.
extension VolumeFileSystem {
    /// What the kernel can show in one listing; ext4's room for names is smaller.
    static let nameListLimit = 65_536
    static let valueLimit = 65_536
    /// An inode travels to another site in one piece, with all of its attributes.
    static let allValuesLimit = 4 << 20

    private enum Place {
        case plain
        case accessList
        case defaultList
    }

    /// - Throws: EOPNOTSUPP for a namespace that xattr(7) does not know, EINVAL for one without a name in it.
    private static func place(of name: [UInt8]) throws(FileSystemError) -> Place {
        if name == AccessControlList.accessName { return .accessList }
        if name == AccessControlList.defaultName { return .defaultList }
        for prefix in ["user.", "trusted.", "security."] where name.starts(with: prefix.utf8) {
            guard name.count > prefix.utf8.count else { throw .errno(.invalidArgument) }
            return .plain
        }
        throw .errno(.notSupported)
    }

    package func extendedAttribute(
        _ name: [UInt8], of inode: InodeNumber
    ) throws(FileSystemError) -> [UInt8] {
        _ = try Self.place(of: name)
        return try run { state in
            guard let value = try state.extendedAttribute(name, of: inode) else { throw Errno.noData }
            return value
        }
    }

    package func extendedAttributeNames(of inode: InodeNumber) throws(FileSystemError) -> [[UInt8]] {
        try run { state in
            try state.extendedAttributeNames(of: inode).filter { !StartProfile.isInternal(attribute: $0) }
        }
    }

    package func setExtendedAttribute(
        _ name: [UInt8], of inode: InodeNumber, value: [UInt8], mustCreate: Bool, mustReplace: Bool,
        caller: Caller
    ) throws(FileSystemError) {
        let place = try Self.place(of: name)
        guard name.count <= 255 else { throw .errno(.outOfRange) }
        guard value.count <= Self.valueLimit else { throw .errno(.tooBig) }
        try change { state in
            let current = try state.extendedAttribute(name, of: inode)
            if mustCreate, current != nil { throw Errno.exists }
            if mustReplace, current == nil { throw Errno.noData }
            if place != .plain {
                // Four bytes are a list of nobody, which takes the list away.
                let list = value.count <= 4 ? nil : AccessControlList(attribute: value)
                guard value.count <= 4 || list != nil else { throw Errno.invalidArgument }
                try self.set(list, place, of: inode, caller, in: &state)
                return
            }
            var record = try state.existing(inode)
            try Self.store(value, name, of: inode, in: &state)
            record.attributes.changeTime = Self.now()
            try state.update(record, kind: .metadata)
        }
    }

    /// - Throws: ENOSPC, before anything is changed, where there is no room for the name or for the value.
    private static func store(
        _ value: [UInt8], _ name: [UInt8], of inode: InodeNumber, in state: inout CatalogState
    ) throws {
        let current = try state.extendedAttribute(name, of: inode)
        if current == nil {
            let names = try state.extendedAttributeNames(of: inode)
            let used = names.reduce(name.count + 1) { $0 + $1.count + 1 }
            guard used <= nameListLimit else { throw Errno.noSpace }
        }
        let stored = try state.extendedAttributeByteCount(of: inode) - (current?.count ?? 0)
        guard stored + value.count <= allValuesLimit else { throw Errno.noSpace }
        try state.setExtendedAttribute(name, of: inode, value: value)
    }

    package func removeExtendedAttribute(
        _ name: [UInt8], of inode: InodeNumber
    ) throws(FileSystemError) {
        let place = try Self.place(of: name)
        try change(frees: true) { state in
            if place != .plain {
                // As on ext4, to take away a list that is not there is no error.
                try self.set(nil, place, of: inode, .root, in: &state)
                return
            }
            var record = try state.existing(inode)
            guard try state.extendedAttribute(name, of: inode) != nil else { throw Errno.noData }
            try state.removeExtendedAttribute(name, of: inode)
            record.attributes.changeTime = Self.now()
            try state.update(record, kind: .metadata)
        }
    }

    // MARK: access control lists

    private func set(
        _ list: AccessControlList?, _ place: Place, of inode: InodeNumber, _ caller: Caller,
        in state: inout CatalogState
    ) throws {
        var record = try state.existing(inode)
        guard record.attributes.kind != .symbolicLink else { throw Errno.notSupported }
        if place == .defaultList {
            guard record.attributes.kind == .directory || list == nil else { throw Errno.accessDenied }
            try Self.store(list, AccessControlList.defaultName, of: inode, in: &state)
            forgetDefaultList(of: inode)
        } else {
            let extended = list?.isExtended == true ? list : nil
            try Self.store(extended, AccessControlList.accessName, of: inode, in: &state)
            if let list {
                record.attributes.permissions = record.attributes.permissions & 0o7000 | list.modeBits
                // As with chmod(2), who is not in the group makes no set-group-ID file of it.
                if !caller.isMember(of: record.attributes.gid) { record.attributes.permissions &= ~0o2000 }
            }
        }
        record.attributes.changeTime = Self.now()
        try state.update(record, kind: .metadata)
    }

    private static func store(
        _ list: AccessControlList?, _ name: [UInt8], of inode: InodeNumber, in state: inout CatalogState
    ) throws {
        if let list {
            try store(list.attribute, name, of: inode, in: &state)
        } else if try state.extendedAttribute(name, of: inode) != nil {
            try state.removeExtendedAttribute(name, of: inode)
        }
    }

    /// chmod(2) of an inode that may have a list.
    static func noteModeChanged(
        of inode: InodeNumber, to permissions: UInt32, in state: inout CatalogState
    ) throws {
        guard let value = try state.extendedAttribute(AccessControlList.accessName, of: inode),
            var list = AccessControlList(attribute: value)
        else { return }
        list.apply(modeBits: permissions & 0o777)
        try state.setExtendedAttribute(AccessControlList.accessName, of: inode, value: list.attribute)
    }

    /// What a new inode gets: the directory's default list, or else the mode without the umask's bits.
    struct Inheritance {
        var permissions: UInt32
        var accessList: AccessControlList?
        var defaultList: AccessControlList?
    }

    func inheritance(
        _ kind: FileKind, permissions: UInt32, from directory: InodeNumber, _ caller: Caller,
        in state: inout CatalogState
    ) throws -> Inheritance {
        if kind == .symbolicLink { return Inheritance(permissions: 0o777) }
        guard let list = try defaultList(of: directory, in: &state) else {
            return Inheritance(permissions: permissions & ~(caller.umask & 0o777))
        }
        let access = list.inherited(modeBits: permissions & 0o777)
        return Inheritance(
            permissions: permissions & 0o7000 | access.modeBits,
            accessList: access.isExtended ? access : nil,
            defaultList: kind == .directory ? list : nil)
    }

    static func store(
        _ inheritance: Inheritance, of inode: InodeNumber, in state: inout CatalogState
    ) throws {
        // It is new: there is room.
        if let list = inheritance.accessList?.attribute {
            try state.setExtendedAttribute(AccessControlList.accessName, of: inode, value: list)
        }
        if let list = inheritance.defaultList?.attribute {
            try state.setExtendedAttribute(AccessControlList.defaultName, of: inode, value: list)
        }
    }

    /// Asked for with each new name, so what was found is kept: nearly always that there is none.
    private func defaultList(
        of directory: InodeNumber, in state: inout CatalogState
    ) throws -> AccessControlList? {
        if let known = defaultLists.withLock({ $0[directory] }) { return known }
        let value = try state.extendedAttribute(AccessControlList.defaultName, of: directory)
        let list = value.flatMap { AccessControlList(attribute: $0) }
        defaultLists.withLock { lists in
            if lists.count >= Self.keptDefaultLists { lists.removeAll(keepingCapacity: true) }
            lists.updateValue(list, forKey: directory)
        }
        return list
    }

    /// Called within the change, so that nobody keeps the old one meanwhile.
    private func forgetDefaultList(of directory: InodeNumber) {
        defaultLists.withLock { _ = $0.removeValue(forKey: directory) }
    }

    private static let keptDefaultLists = 4096
}

extension Caller {
    fileprivate func isMember(of group: UInt32) -> Bool {
        uid == 0 || gid == group || supplementaryGroups.contains(group)
    }
}
