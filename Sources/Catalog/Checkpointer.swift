internal import SQLite

/// Moves a catalog's write-ahead log into its database, through a second connection, so that it stops nobody.
///
/// The connection is there only while there is something to move: of a thousand catalogs most are at rest, and each
/// connection takes memory and a descriptor.
struct Checkpointer {
    private let path: String
    private let keepsPageSums: Bool
    private var connection: Connection?
    /// The generation up to which everything is moved; nil: nobody knows what the log holds.
    private var moved: UInt64?

    /// - Parameter keepsPageSums: what the catalog's own connection knows.
    init(path: String, keepsPageSums: Bool) { (self.path, self.keepsPageSums) = (path, keepsPageSums) }

    /// Moves what can be moved now.
    ///
    /// - Parameter generation: the last that is committed.
    /// - Returns: false when nothing was committed since everything was moved.
    mutating func move(upTo generation: UInt64) throws(SQLiteError) -> Bool {
        if moved == generation {
            connection = nil
            return false
        }
        if try open().checkpoint() { moved = generation }
        return true
    }

    /// Moves everything and makes the log's file empty, if nobody reads or writes at the moment.
    ///
    /// - Parameter waits: also waits until they have done so, for up to two seconds.
    mutating func emptyLog(waits: Bool = false) throws(SQLiteError) {
        let connection = try open()
        connection.setBusyTimeout(milliseconds: waits ? 2000 : 0)
        defer { connection.setBusyTimeout(milliseconds: 0) }
        try connection.checkpoint(empties: true)
    }

    /// Lets go of the database's files.
    mutating func close() { connection = nil }

    private mutating func open() throws(SQLiteError) -> Connection {
        if let connection { return connection }
        // Of such a one the log is synced before pages of it are written to the database.
        let fresh = try Connection(again: path, keepsPageSums: keepsPageSums)
        fresh.keepWriteAheadLog()
        // Who moves the log waits for nobody.
        fresh.setBusyTimeout(milliseconds: 0)
        connection = fresh
        return fresh
    }
}
