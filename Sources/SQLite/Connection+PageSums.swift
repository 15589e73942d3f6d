internal import CPageSums
internal import CSQLite

/// Sums of a database's pages, so that a flipped bit in one is not read as something else: `CPageSums`.
///
/// They stand in the last 8 bytes of each page, which the database's header reserves. Whether a database has them is
/// settled when it is made. What other programs write to one that has them, also by only moving its log when they
/// close it, is taken for damage.
extension Connection {
    /// Has what is made through this connection keep sums: the database itself, if nothing was ever written to it, and
    /// what VACUUM INTO makes.
    package func reservePageSums() throws(SQLiteError) {
        let code = gw_page_sums_reserve(handle)
        guard code == SQLITE_OK else { throw lastError(code) }
    }

    /// Opens once more what another connection of this process has open, and looks at it.
    ///
    /// - Parameter keepsPageSums: what the other one knows.
    /// - Throws: SQLITE_CORRUPT when the file says otherwise by now: nothing that is read would be held against a sum, and
    ///   nothing that is written would get one.
    package convenience init(again path: String, keepsPageSums: Bool) throws(SQLiteError) {
        try self.init(path: path, mode: .readWrite)
        // Reads page 1 as well, be it in the file or in the log.
        try execute("PRAGMA synchronous = FULL")
        guard self.keepsPageSums == keepsPageSums else {
            throw SQLiteError(
                code: SQLITE_CORRUPT, message: "the header no longer says whether pages have sums in \(path)")
        }
    }

    /// Whether the database's file keeps them, as its header or page 1 said when it was read last.
    package var keepsPageSums: Bool { gw_page_sums_are_kept(handle) != 0 }

    /// The sum of a page but for its last 8 bytes.
    ///
    /// - Parameters:
    ///   - number: the page's, from 1 on.
    ///   - isPortable: whether to do without the processor's own instruction.
    package static func pageSum(of page: [UInt8], number: UInt32, isPortable: Bool = false) -> UInt64 {
        guard page.count >= 8, page.count % 8 == 0 else { return 0 }
        return gw_page_sum(page, UInt32(clamping: page.count), number, isPortable ? 1 : 0)
    }

    /// Which page was found last that does not fit its sum, in words, and forgets it; nil: none since.
    package func takeDamagedPage() -> String? {
        var isInLog: Int32 = 0
        let page = gw_page_sums_take_damage(handle, &isInLog)
        guard page > 0 else { return nil }
        return "page \(page)\(isInLog != 0 ? ", in the log (-wal)," : "")"
    }
}
