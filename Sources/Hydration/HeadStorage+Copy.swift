internal import ByteStore
internal import Catalog
internal import VolumeModel

extension HeadStorage {
    /// Copies a head that nobody changes into an empty directory, as the head of a volume of its own at epoch 1.
    ///
    /// - Throws: `.storage` when names or bytes of it are still at its origin; `DamagedBytes` when some are damaged; what
    ///   the disk says. What was begun is for the caller to delete.
    package func copy(to directory: String) throws {
        try settle()
        let (records, isWhole) = try catalog.perform { state in
            let isWhole = try !state.isArriving && state.backedInodes(after: InodeNumber(0), limit: 1).isEmpty
            return (try state.inodes(withDataFrom: DataFileNumber(1)), isWhole)
        }
        guard isWhole else {
            throw HydrationError.storage("not everything of it is here yet: wait until nothing is missing")
        }
        try catalog.copy(to: directory)
        let target = try ByteStore(directory: directory + "/data", openFileLimit: 64)
        defer { target.closeAll() }
        for record in records {
            let file = try dataFile(of: record)
            try checkSound(ByteRange(0, record.attributes.size), of: record)
            try file.copy(to: try target.create(record.data), size: record.attributes.size)
        }
        if let failure = target.synchronizeAll().values.first { throw failure }
    }
}
