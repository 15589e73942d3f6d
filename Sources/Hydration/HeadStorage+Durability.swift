internal import ByteStore
package import Catalog
internal import Synchronization
package import VolumeModel

/// What makes a head's bytes and catalog durable, in their order: for who syncs a file, for commits that wait for bytes,
/// and every few seconds for all.
extension HeadStorage {
    /// Has the next commit wait until the bytes of an inode's data file, as they are now, are on the disk: it makes them take
    /// the place of others. Costs nothing when they are there, and recorded.
    package func awaitBytes(of record: InodeRecord, in state: inout CatalogState) {
        guard record.data != .none,
            bytes.isChanged(record.data) || state.isUnrecorded(record)
                || mayLackEarlierBytes.load(ordering: .acquiring)
        else { return }
        state.awaitBytes(of: record)
    }

    /// - Returns: those that are not on the disk. Each says so when it is synced, until `forgetSyncFailure`.
    func synchronizeAwaited(_ files: [DataFileNumber]) -> Set<DataFileNumber> {
        let areEarlierDurable = synchronizeEarlierBytesOnce() == nil
        let overwritten = damage.overwritten().filter { files.contains($0.key) }
        var refused = Set(bytes.synchronize(files).keys)
        // What cannot be noted may be damage again after a crash: it is refused then, and is no other's bytes.
        try? damage.noteDurable(overwritten.filter { !refused.contains($0.key) })
        if !areEarlierDurable { refused.formUnion(files) }
        if !refused.isEmpty { hasFailedSync.store(true, ordering: .releasing) }
        return refused
    }

    /// The disk has refused bytes: what is read from now on may not be what a later look finds there. For good.
    private func noteSyncFailure() {
        hasFailedSync.store(true, ordering: .releasing)
        // What cannot be written now is written by the next `settle` that ends well, without which no end is in order.
        try? catalog.perform { try $0.noteSyncFailure() }
        _ = try? catalog.commit()
    }

    /// Makes one inode's bytes, ranges and attributes durable: fsync(2).
    package func synchronize(_ inode: InodeNumber, dataOnly: Bool) throws {
        while let record = try synchronizeData(inode) {
            // The data file is gone: once more, if the inode has another one by now.
            if try isCurrent(record) {
                throw ByteStoreError(call: "open", path: "data of inode \(inode)", errno: .noSuchEntry)
            }
        }
        let generation = try catalog.perform { $0.generationToSync(inode, dataOnly: dataOnly) }
        if let generation { try catalog.synchronize(upTo: generation) }
    }

    /// - Returns: nil when done; else the inode whose data file was not found.
    func synchronizeData(_ inode: InodeNumber) throws -> InodeRecord? {
        let (record, unrecorded) = try catalog.perform { state in
            (try state.inode(inode), state.unrecordedResidency(of: inode))
        }
        guard let record else { return nil }
        if record.data != .none {
            let file: DataFile
            do {
                file = try dataFile(of: record)
            } catch let error as ByteStoreError where error.errno == .noSuchEntry {
                return record
            }
            try synchronize(file)
            // Nearly always nothing has changed there since the last write.
            if record.backedByteCount == 0, try file.takenBlockCount() != record.attributes.blockCount {
                try withDataLock(of: inode) { try noteBlocks(of: file, inode) }
            }
        }
        if let unrecorded { try self.record(unrecorded) }
        return nil
    }

    /// Records what is durable of an inode. Where that is all of it, what it takes counts from now on, and no longer what its
    /// origin said: who writes to it holds the lock, so that nothing comes in between.
    private func record(_ durable: UnrecordedResidency) throws {
        guard try catalog.perform({ $0.isAllHere(durable) }) else {
            return try catalog.perform { try $0.record(durable, blockCount: nil) }
        }
        try withDataLock(of: durable.inode) {
            let record = try catalog.perform { try $0.inode(durable.inode) }
            // Nothing is recorded of one that has another data file by now.
            guard let record, record.data == durable.data else { return }
            let blockCount = try blockCount(of: record)
            try catalog.perform { try $0.record(durable, blockCount: blockCount) }
        }
    }

    /// Of a data file that is gone: 0, as whoever uses it is told.
    private func blockCount(of record: InodeRecord) throws -> UInt64 {
        guard record.data != .none else { return 0 }
        do {
            return try open(record).takenBlockCount()
        } catch let error as ByteStoreError where error.errno == .noSuchEntry {
            return 0
        }
    }

    /// Makes a data file durable, and then that what was written over damage in it is good.
    func synchronize(_ file: DataFile) throws {
        let overwritten = damage.overwritten(of: file.number)
        do {
            try file.synchronize()
        } catch {
            noteSyncFailure()
            throw error
        }
        try damage.noteDurable(overwritten)
    }

    /// After a failed sync, when everybody who had the file open was told: whoever opens it anew may sync
    /// again.
    ///
    /// What has come into it since its last sync may be gone, and nobody will write again what came from the
    /// origin: in a file with an origin all of that is missing again, as after a crash. What was written over damage may
    /// be damage again. Where it was not the file that could not be synced, but what is noted of it, its bytes are safe.
    package func forgetSyncFailure(of inode: InodeNumber) {
        withDataLock(of: inode) {
            guard let record = try? catalog.perform({ try $0.inode(inode) }), record.data != .none,
                let file = bytes.kept(record.data), file.hasFailed
            else { return }
            damage.forgetOverwritten(of: record.data)
            guard (try? catalog.perform({ try $0.loseUnrecorded(of: inode) })) != nil else { return }
            file.forgetFailure()
        }
    }

    /// The periodic chore: makes arrivals and changes durable, records what has arrived, deletes what nobody
    /// needs, and keeps the log short. Called every few seconds by one task, and at the end.
    ///
    /// - Throws: when the disk refuses some of it; all that can be done is done even so, and the next call tries
    ///   the rest again. `trouble` tells of it until then.
    package func settle() throws {
        do {
            try settleAll()
            failedSettle.withLock { $0 = nil }
        } catch {
            failedSettle.withLock { $0 = "\(error)" }
            throw error
        }
    }

    private func settleAll() throws {
        // What the disk refused before must be there before anything new is accepted.
        if catalog.trouble != nil { try catalog.synchronize() }
        // Before the sync, which a cut needs as much as a write.
        let cuts = Result { try cutWhatIsLeft() }
        // What is not even committed is settled the next time.
        let settled = try? catalog.performCommitting { try $0.beginSettling() }
        let (unrecorded, nextData) = try catalog.perform { ($0.unrecordedResidency(), $0.nextDataFile) }
        let overwritten = damage.overwritten()
        // All bytes first, also those of files without an origin: a size or a name that is durable before the
        // bytes would show zeros after a power loss. One file that fails holds up no other.
        let failures = bytes.synchronizeAll()
        let earlier = synchronizeEarlierBytes()
        if !failures.isEmpty { noteSyncFailure() }
        let hasFailed = hasFailedSync.load(ordering: .acquiring)
        // Each by itself: where the catalog is damaged, the others are recorded all the same.
        var unrecordable: (any Error)?
        for item in unrecorded where failures[item.data] == nil {
            do {
                try record(item)
            } catch {
                unrecordable = unrecordable ?? error
            }
        }
        try catalog.perform { state in
            if hasFailed { try state.noteSyncFailure() }
            if earlier == nil { try state.noteDurable(below: min(nextData, failures.keys.min() ?? nextData)) }
            if earlier == nil, !hasFailed, let settled { try state.noteSettled(settled) }
        }
        try catalog.synchronize()
        try catalog.collectGarbage { try bytes.delete($0) }
        try catalog.checkpoint()
        try damage.noteDurable(overwritten.filter { failures[$0.key] == nil })
        try cuts.get()
        if let unrecordable { throw unrecordable }
        if let first = failures.min(by: { $0.key < $1.key }) { throw first.value }
        if let earlier { throw earlier }
    }

    /// Once after a disorderly end.
    ///
    /// - Returns: why it could not be done; the next time it is tried again.
    private func synchronizeEarlierBytes() -> ByteStoreError? {
        let failure = synchronizeEarlierBytesOnce()
        if failure != nil { noteSyncFailure() }
        return failure
    }

    /// The same without a note of it.
    private func synchronizeEarlierBytesOnce() -> ByteStoreError? {
        guard mayLackEarlierBytes.load(ordering: .acquiring) else { return nil }
        do {
            try bytes.synchronizeFileSystem()
            mayLackEarlierBytes.store(false, ordering: .releasing)
            return nil
        } catch {
            return error
        }
    }
}
