internal import Catalog
internal import SQLite

/// Changes rows of a catalog that nobody uses, as a fault of godwit's own could have left them: its pages are sound.
package func changeRows(ofCatalogIn head: String, _ sql: String) throws {
    let connection = try Connection(path: head + "/" + Catalog.fileName, mode: .readWrite)
    try connection.execute(sql)
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
