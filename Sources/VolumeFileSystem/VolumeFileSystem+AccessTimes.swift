internal import Catalog
internal import VolumeModel

/// When a file's bytes, a directory's names or a symbolic link's target were last read.
extension VolumeFileSystem {
    private static let day: Int64 = 86_400

    /// Notes that an inode is read: as Linux mounts by default (relatime), once after each change, and once a day.
    ///
    /// The next commit takes it along; nobody waits for that, and it makes no commit due. To read is allowed also where
    /// nothing may be changed, and while the disk takes no changes: then nothing is noted.
    func noteAccess(to record: InodeRecord, in state: inout CatalogState) {
        let attributes = record.attributes
        let time = Self.now()
        let isFirstSinceChange =
            attributes.accessTime <= attributes.modificationTime
            || attributes.accessTime <= attributes.changeTime
        guard isFirstSinceChange || time.seconds - attributes.accessTime.seconds >= Self.day else { return }
        guard !state.refusesChanges, beginChange() == nil else { return }
        defer { endChange() }
        var changed = record
        changed.attributes.accessTime = time
        try? state.update(changed, kind: .access)
    }
}
