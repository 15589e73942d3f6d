internal import BlockHashes
internal import ByteStore
internal import Catalog
internal import VolumeModel

/// Data files that are gone or too short, found from beside whoever uses the head.
struct HeadLoss {
    private let store: String
    private let view: CatalogView
    /// Files that may lack something.
    private(set) var suspects: [DataFileClaim] = []

    /// - Parameter files: the data files that are there, and how long they are.
    init(_ directory: String, files: [DataFileNumber: UInt64]) throws {
        store = directory + "/data"
        view = try CatalogView(of: directory)
        var suspects: [DataFileClaim] = []
        try view.forEachClaim { if files[$0.data] ?? 0 < $0.size { suspects.append($0) } }
        self.suspects = suspects
    }

    /// What a file surely lacks.
    ///
    /// - Returns: nil when it lacks nothing, or has been changed just now.
    func range(of suspect: DataFileClaim) throws -> ByteRange? {
        // A file is extended before its row says so, and cut after: only what was there once can be missing.
        guard let claim = try view.claim(of: suspect.inode), claim.data == suspect.data else { return nil }
        let present = try size(of: claim.data)
        guard present < claim.size, try view.claim(of: suspect.inode) == claim else { return nil }
        return ByteRange(present, claim.size)
    }

    private func size(of data: DataFileNumber) throws(ByteStoreError) -> UInt64 {
        do {
            return try StillFile(data, in: store).state().size
        } catch {
            guard error.errno == .noSuchEntry else { throw error }
            return 0
        }
    }
}
