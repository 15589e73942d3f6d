internal import BlockHashes
package import ByteStore
internal import Catalog
internal import Synchronization
package import VolumeModel

/// What a disk has damaged or lost of a head's bytes: refused, forgotten where it is written to, and put back.
extension HeadStorage {
    /// Before anything is changed: after a power loss what was hashed says nothing of what is there now.
    func beginUseOfHashes() throws {
        let directory = catalog.directory
        let found = try HashDatabase.beginUse(
            of: directory, life: MountLife.current(of: directory), isClean: catalog.wasClosedCleanly,
            firstUncertain: firstUncertain)
        damage.begin(with: found)
    }

    /// A crash may bring damage back where a file was cut since. Should the file grow there again, that is zeros.
    func forgetDamageBeyondEnds() throws {
        for (data, inode, end) in damage.ends {
            guard let record = try catalog.perform({ try $0.peekInode(inode) }), record.data == data,
                record.attributes.size < end
            else { continue }
            damage.noteOverwritten(
                ByteRange(record.attributes.size, ByteRange.maximumOffset), of: data)
            // At once, for a second crash would find it again in a file that has grown. What the disk refuses now is
            // noted after the next sync.
            if let file = try? open(record) { try? noteCut(of: file, to: record.attributes.size) }
        }
    }

    /// A scrub has found something, or somebody has decided about it.
    ///
    /// - Parameter place: there; nil: wherever.
    /// - Returns: where something is, or was, damaged: nobody is to go on with what was read of it before.
    @discardableResult
    package func learnDamage(of place: DamagePlace? = nil) throws -> [Extent] {
        try damage.learn(of: place)
    }

    /// The first bytes at or after `offset` that are known not to be what was written; nil: none are.
    package func firstDamage(of data: DataFileNumber, from offset: UInt64) -> ByteRange? {
        damage.first(of: data, from: offset)
    }

    /// To be called before bytes are read.
    ///
    /// - Throws: `DamagedBytes` when some of them are known not to be what was written.
    package func checkSound(_ range: ByteRange, of record: InodeRecord) throws {
        guard let first = damage.first(of: record.data, from: range.start), first.start < range.end else {
            return
        }
        throw DamagedBytes(inode: record.attributes.inode, range: first)
    }

    /// To be called, under the inode's data lock, after bytes were changed: whatever they were, they are good now.
    package func noteWritten(_ range: ByteRange, to file: DataFile) throws {
        guard damage.knows(file.number) else { return }
        // Zeros in a file whose end was lost, which would go on missing.
        if range.end < ByteRange.maximumOffset { try file.grow(to: range.end) }
        damage.noteOverwritten(range, of: file.number)
    }

    /// To be called, under the inode's data lock, after the data file was cut as its durable row says. What was damaged
    /// there is gone for good before the file can grow again: no crash brings it back, and nobody restores it.
    package func noteCut(of file: DataFile, to size: UInt64) throws {
        guard damage.knows(file.number) else { return }
        damage.noteOverwritten(ByteRange(size, ByteRange.maximumOffset), of: file.number)
        try synchronize(file)
    }

    /// Puts back what is damaged of a block, and makes that durable. What was written there since is newer, and stays.
    ///
    /// May be repeated: what a crash leaves half done is damaged still, or was found to be what it was.
    ///
    /// - Parameter content: the bytes of all of it, wherever they come from.
    /// - Returns: how many bytes were put right. 0, and nothing is changed: these are not the bytes that were there, or
    ///   nothing of the block is damaged any more.
    /// - Throws: when the disk takes them not: they are refused as before.
    package func restore(_ block: RestorableBlock, from content: [UInt8]) throws -> UInt64 {
        guard block.lost.isContent(content) else { return 0 }
        let block = block.noted
        guard hasRoom() else {
            throw ByteStoreError(call: "write", path: bytes.directory, errno: .noSpace)
        }
        do {
            let restored = try withDataLock(of: block.inode) { try write(content, of: block) }
            guard restored > 0 else { return 0 }
            // Who cuts the file to nothing meanwhile needs none of it.
            return try synchronizeData(block.inode) == nil ? restored : 0
        } catch {
            withDataLock(of: block.inode) {
                // Only then do syncs of the application fail as well: what they have promised is on the disk, or will be.
                if bytes.kept(block.data)?.hasFailed == true { damage.forgetOverwritten(of: block.data) }
            }
            throw error
        }
    }

    private func write(_ content: [UInt8], of block: DamagedBlock) throws -> UInt64 {
        let record = try catalog.perform { try $0.peekInode(block.inode) }
        guard let record, record.data == block.data else { return 0 }
        let file = try dataFile(of: record)
        let shown = ByteRange(0, record.attributes.size)
        let left = try damage.left(of: block).compactMap { $0.intersection(shown) }
        guard !left.isEmpty else { return 0 }
        let before = try file.state()
        var restored: UInt64 = 0
        // What is here is what nobody has written to since: who writes holds the lock, and tells.
        for range in left {
            let start = Int(range.start - block.range.start)
            try content.withUnsafeBytes { buffer in
                try file.write(
                    UnsafeRawBufferPointer(rebasing: buffer[start..<start + Int(range.byteCount)]),
                    at: range.start)
            }
            try noteWritten(range, to: file)
            restored += range.byteCount
        }
        // After a crash a newer time tells of writes that the catalog does not know.
        try file.setModificationTime(before.modification)
        // What is known of the rest of the file holds still. Whatever is written from here on has a newer time.
        damage.keepHashes(
            from: before, to: try file.state(), beside: block, isWhole: restored == block.range.byteCount)
        return restored
    }

    /// Has somebody told whenever this finds damage by itself.
    package func whenDamageIsFound(_ tell: @escaping @Sendable () -> Void) {
        damageListener.withLock { $0 = tell }
    }

    /// A data file is shorter than its inode. Unless that has been changed just now, its end was lost.
    ///
    /// - Parameter file: nil: all of it is gone.
    func noteLoss(of record: InodeRecord, in file: DataFile?) throws {
        guard !isGivenUp.load(ordering: .acquiring) else { return }
        let inode = record.attributes.inode
        while true {
            let changes = damage.changeCount(of: record.data)
            guard let now = try catalog.perform({ try $0.sizedInode(inode) }), now.record.data == record.data
            else {
                return
            }
            let (size, present) = (now.record.attributes.size, try file?.extent().size ?? 0)
            guard present < size else { return }
            // Nobody has cut and extended it between the two looks: each change has a time of its own.
            guard try catalog.perform({ try $0.inode(inode) }) == now.record else { continue }
            if let file, !now.isSizeCertain {
                // As older releases have left it.
                try file.extend(to: size)
                return
            }
            let lost = ByteRange(present, size)
            guard !damage.covers(lost, of: record.data) else { return }
            let block = DamagedBlock(
                data: record.data, range: lost, inode: inode, expected: DamagedBlock.lost)
            // Else another thread has found it as well, and may have written there by now.
            guard try damage.add(block, ifChangedAsOftenAs: changes) else { continue }
            damageListener.withLock { $0 }?()
            return
        }
    }
}
