internal import SQLite

extension Catalog {
    /// Copies the catalog into a directory, as that of a new volume: at epoch 1, and nobody has followed it. Its pages have
    /// sums, also where this one's have none.
    package func copy(to directory: String) throws(CatalogError) {
        try commit()
        let path = directory + "/" + Self.fileName
        do {
            let reader = try connectAgain()
            try reader.reservePageSums()
            let copy = try reader.prepare("VACUUM INTO ?1")
            copy.bind(1, path)
            try copy.run()
            let connection = try Connection(path: path, mode: .readWrite)
            // The copy that SQLite made has no log; a catalog has one.
            try connection.execute(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \(CatalogSchema.memoryOfTransactions); BEGIN"
            )
            for table in ["inode", "entry", "xattr"] {
                try connection.execute("DELETE FROM \(table) WHERE died > 0")
            }
            try connection.execute("DELETE FROM pin; DELETE FROM garbage; DELETE FROM changed")
            try connection.execute(EarlierReign.dropTables)
            try connection.execute(
                "DELETE FROM meta WHERE key LIKE '\(CatalogState.dismissedPrefix)%'")
            let statements = try CatalogStatements(connection)
            for key in CatalogKey.ofThisHead { try statements.deleteMeta(key) }
            try statements.setMeta(.schemaVersion, CatalogSchema.version)
            try statements.setMeta(.epoch, 1)
            try statements.setMeta(.isFollower, 0)
            try statements.setMeta(.isClean, 1)
            // Copies of sparse files may take other blocks than the files did.
            try statements.setMeta(.uncertainData, try statements.meta(.nextData) ?? 1)
            // The files are made for this catalog.
            let sequence = try statements.meta(.sequence) ?? 0
            try DataFileSizes.writeFirst(statements, at: sequence, settled: sequence)
            try connection.execute("COMMIT")
        } catch {
            throw .database(error)
        }
        try Self.synchronizeDirectory(directory)
    }
}
