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

    func note(_ statement: Statement, _ values: [SQLiteValue]) {
        if isOn { changes.append((statement, values)) }
    }

    /// After a commit, or when the changes are wanted no longer.
    package func forget() { changes.removeAll(keepingCapacity: changes.count < 10_000) }

    /// Forgets all but the first ones: the others were taken back.
    package func forget(after count: Int) { changes.removeSubrange(min(count, changes.count)...) }

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
}
