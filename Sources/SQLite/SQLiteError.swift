/// What SQLite refused, with its extended result code (https://sqlite.org/rescode.html).
package struct SQLiteError: Error, Hashable, Sendable, CustomStringConvertible {
    package let code: Int32
    package let message: String

    package init(code: Int32, message: String) {
        self.code = code
        self.message = message
    }

    /// SQLITE_FULL: the disk has no room. Nothing of the statement was kept.
    package var isDiskFull: Bool { code & 0xff == 13 }
    /// SQLITE_CORRUPT or SQLITE_NOTADB: the file is not a database that can be trusted.
    package var isCorruption: Bool { code & 0xff == 11 || code & 0xff == 26 }
    /// SQLITE_CONSTRAINT: a row like it is there already.
    package var isConstraint: Bool { code & 0xff == 19 }
    /// SQLITE_CANTOPEN: there is no such file, or it may not be opened.
    package var isMissingFile: Bool { code & 0xff == 14 }
    /// SQLITE_BUSY: another connection has the write lock.
    package var isBusy: Bool { code & 0xff == 5 }

    package var description: String { "SQLite: \(message) (code \(code))" }
}
