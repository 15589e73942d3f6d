/// The changes of an open transaction, so that they can be made once more: a commit that the disk refuses
/// makes SQLite take all of them back.
///
/// Belongs to one connection and is used under the same lock.
package final class ChangeRecorder {
    private var changes: [(statement: Statement, values: [SQLiteValue])] = []
    /// Off while rows are written that the owner writes anew by itself.
    package var isOn = true

    package init() {}

    package var count: Int { changes.count }
    /// Of all values together, about.
    package private(set) var byteCount = 0

    func note(_ statement: Statement, _ values: [SQLiteValue]) {
        guard isOn else { return }
        changes.append((statement, values))
        byteCount += Self.byteCount(of: values)
    }

    /// After a commit, or when the changes are wanted no longer.
    package func forget() {
        changes.removeAll(keepingCapacity: changes.count < 10_000)
        byteCount = 0
    }

    /// Forgets all but the first ones: the others were taken back.
    package func forget(after count: Int) {
        let dropped = changes[min(count, changes.count)...]
        byteCount -= dropped.reduce(0) { $0 + Self.byteCount(of: $1.values) }
        changes.removeLast(dropped.count)
    }

    private static func byteCount(of values: [SQLiteValue]) -> Int {
        values.reduce(0) { $0 + $1.byteCount }
    }

    /// Makes all changes again, in their order. They stay noted.
    package func replay() throws(SQLiteError) {
        for (statement, values) in changes { try statement.run(with: values) }
    }
}

/// A bound parameter.
enum SQLiteValue: Sendable {
    case integer(Int64)
    case bytes([UInt8])
    case text(String)
    case null

    var byteCount: Int {
        switch self {
        case .bytes(let bytes): bytes.count
        case .text(let text): text.utf8.count
        case .integer, .null: 8
        }
    }
}
