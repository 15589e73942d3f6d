internal import Catalog
import Foundation
internal import SQLite

/// Changes rows of a catalog that nobody uses, as a fault of godwit's own could have left them: its pages are sound.
package func changeRows(ofCatalogIn head: String, _ sql: String) throws {
    let connection = try Connection(path: head + "/" + Catalog.fileName, mode: .readWrite)
    try connection.execute(sql)
}

/// All that stands in a catalog which nobody uses, its tables as well, but not the number of its schema. Nothing is changed.
package func rows(ofCatalogIn head: String) throws -> [String] {
    let connection = try Connection(path: head + "/" + Catalog.fileName, mode: .readWrite)
    connection.keepWriteAheadLog()
    connection.leaveLogOnClose()
    func texts(_ sql: String) throws -> [String] {
        var texts: [String] = []
        try connection.prepare(sql).forEach {
            texts.append($0.text(0))
            return true
        }
        return texts
    }
    var rows = try texts("SELECT quote(sql) FROM sqlite_master")
    for table in try texts("SELECT name FROM sqlite_master WHERE type = 'table'") {
        let columns = try texts("SELECT 'quote(\"' || name || '\")' FROM pragma_table_info('\(table)')")
        rows += try texts(
            "SELECT '\(table) ' || \(columns.joined(separator: " || ' ' || ")) FROM \"\(table)\"")
    }
    return rows.filter { !$0.hasPrefix("meta 'schema_version'") }.sorted()
}

/// Makes a catalog that nobody uses one of a release before the sums of pages. Its last change is in its log.
///
/// - Parameter environment: of the program that does it; nil: this process's.
package func takePageSums(fromCatalogIn head: String, environment: [String: String]? = nil) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    process.arguments = [
        "-ec",
        """
        dump=$(mktemp)
        sqlite3 "$0" .dump > "$dump"
        rm -f "$0" "$0-wal" "$0-shm"
        sqlite3 "$0" < "$dump"
        rm "$dump"
        sqlite3 "$0" 'PRAGMA journal_mode = WAL'
        sqlite3 -cmd '.dbconfig no_ckpt_on_close on' "$0" \
            "UPDATE meta SET value = 3 WHERE key = 'schema_version'"
        sync -f "$0"
        """, head + "/" + Catalog.fileName,
    ]
    process.environment = environment
    process.standardOutput = nil
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else {
        throw TemporaryDirectory.CopyFailure(status: process.terminationStatus)
    }
}

/// Gives each page of a catalog's file the sum that fits, so that what a test has changed there is read and not refused.
package func putPageSums(into bytes: inout [UInt8]) {
    let pageByteCount = 4096
    for end in stride(from: pageByteCount, through: bytes.count, by: pageByteCount) {
        let sum = Connection.pageSum(
            of: Array(bytes[end - pageByteCount..<end]), number: UInt32(end / pageByteCount))
        for byte in 0..<8 { bytes[end - 8 + byte] = UInt8(truncatingIfNeeded: sum >> UInt64(8 * byte)) }
    }
}
