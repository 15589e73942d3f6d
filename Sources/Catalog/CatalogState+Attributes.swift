internal import SQLite
package import VolumeModel

/// Extended attributes of inodes.
extension CatalogState {
    /// - Returns: nil when the inode has none of that name.
    package mutating func extendedAttribute(_ name: [UInt8], of inode: InodeNumber) throws -> [UInt8]? {
        if inodes[inode]?.hasAttributes == nil { try noteWhetherAttributesExist(of: inode) }
        return inodes[inode]?.hasAttributes == false ? nil : try storedAttribute(name, of: inode)
    }

    func storedAttribute(_ name: [UInt8], of inode: InodeNumber) throws -> [UInt8]? {
        statements.getXattr.bind(1, inode.number)
        statements.getXattr.bind(2, name)
        return try statements.getXattr.first { $0.bytes(0) }
    }

    /// What the open transaction takes away would be there again if its commit failed.
    private mutating func noteWhetherAttributesExist(of inode: InodeNumber) throws {
        guard let cached = inodes[inode], cached.structuralGeneration < openGeneration else { return }
        statements.listXattrs.bind(1, inode.number)
        let exists = try statements.listXattrs.first { _ in true } ?? false
        inodes[inode]?.hasAttributes = exists
    }

    package func extendedAttributeNames(of inode: InodeNumber) throws -> [[UInt8]] {
        statements.listXattrs.bind(1, inode.number)
        var names: [[UInt8]] = []
        try statements.listXattrs.forEach {
            names.append($0.bytes(0))
            return true
        }
        return names
    }

    /// What the values of all attributes take together.
    package func extendedAttributeByteCount(of inode: InodeNumber) throws -> Int {
        statements.sumXattrs.bind(1, inode.number)
        return try statements.sumXattrs.first { Int($0.integer(0)) } ?? 0
    }

    package mutating func setExtendedAttribute(
        _ name: [UInt8], of inode: InodeNumber, value: [UInt8]
    ) throws {
        try beginIfNeeded()
        try removeExtendedAttribute(name, of: inode)
        statements.putXattr.bind(1, inode.number)
        statements.putXattr.bind(2, name)
        statements.putXattr.bind(3, value)
        statements.putXattr.bind(4, sequence.number)
        try statements.putXattr.run()
        inodes[inode]?.hasAttributes = true
        touch(inode)
    }

    package mutating func removeExtendedAttribute(_ name: [UInt8], of inode: InodeNumber) throws {
        try beginIfNeeded()
        statements.getXattr.bind(1, inode.number)
        statements.getXattr.bind(2, name)
        guard let born = try statements.getXattr.first({ SequenceNumber($0.integer(1)) }) else { return }
        let statement = isPinned(born) ? statements.endXattr : statements.deleteXattr
        statement.bind(1, inode.number)
        statement.bind(2, name)
        if isPinned(born) { statement.bind(3, sequence.number) }
        try statement.run()
        touch(inode)
    }

    /// What the volume's application read after its last starts; damaged or of another format: nothing.
    package func startProfile() throws -> StartProfile {
        guard let bytes = try storedAttribute(StartProfile.attributeName, of: .root) else {
            return StartProfile()
        }
        return (try? StartProfile(encoded: bytes)) ?? StartProfile()
    }
}
