/// What SQLite refused, with its extended result code (https://sqlite.org/rescode.html).
package struct SQLiteError: Error, Hashable, Sendable, CustomStringConvertible {
    package let code: Int32
    package let message: String

    package init(code: Int32, message: String) {
        self.code = code
        self.message = message
    }

    /// What is refused before SQLite is asked: the file is none that we may touch. Nothing was changed.
    ///
    /// - Parameter message: names the file and what to do.
    package init(refusing message: String) { self.init(code: Self.refusal, message: message) }

    /// SQLITE_FORMAT, which SQLite itself does not use any more.
    private static let refusal: Int32 = 24

    package var isRefusal: Bool { code == Self.refusal }
    /// SQLITE_FULL: the disk has no room. Nothing of the statement was kept.
    package var isDiskFull: Bool { code & 0xff == 13 }
    /// SQLITE_CORRUPT or SQLITE_NOTADB: the file is not a database that can be trusted.
    package var isCorruption: Bool { code & 0xff == 11 || code & 0xff == 26 }
    /// SQLITE_IOERR_READ, SQLITE_IOERR_CORRUPTFS: the disk does not give what is in the file.
    package var isReadFailure: Bool { code == 10 | 1 << 8 || code == 10 | 33 << 8 }
    /// SQLITE_ERROR: as a rule a statement asks for a table that is not there.
    package var isMissingTable: Bool { code & 0xff == 1 }
    /// SQLITE_CONSTRAINT: a row like it is there already.
    package var isConstraint: Bool { code & 0xff == 19 }
    /// SQLITE_CANTOPEN: there is no such file, or it may not be opened.
    package var isMissingFile: Bool { code & 0xff == 14 }
    /// SQLITE_BUSY: another connection has the write lock.
    package var isBusy: Bool { code & 0xff == 5 }

    package var description: String { isRefusal ? message : "SQLite: \(message) (code \(code))" }
}
