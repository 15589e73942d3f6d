internal import Catalog
internal import SQLite

/// Changes rows of a catalog that nobody uses, as a fault of godwit's own could have left them: its pages are sound.
package func changeRows(ofCatalogIn head: String, _ sql: String) throws {
    let connection = try Connection(path: head + "/" + Catalog.fileName, mode: .readWrite)
    try connection.execute(sql)
}
