internal import CSQLite

/// A prepared statement, used again and again under its connection's lock.
///
/// A use is: `bind` each parameter (numbered from 1), `step` until it gives false, read columns (numbered
/// from 0) between; `run`, `first` and `forEach` do the stepping and always reset.
package final class Statement: @unchecked Sendable {
    private let handle: OpaquePointer
    /// Keeps the database open for as long as the statement lives.
    private let connection: Connection
    /// A parameter that could not be bound (too big, no memory): the next step says so.
    private var bindFailure: SQLiteError?
    private let changesRows: Bool
    /// What is bound, for a recorder: parameter 1 first.
    private var values: [SQLiteValue] = []

    init(handle: OpaquePointer, connection: Connection) {
        self.handle = handle
        self.connection = connection
        changesRows = sqlite3_stmt_readonly(handle) == 0
    }

    deinit { sqlite3_finalize(handle) }

    package func bind(_ index: Int32, _ value: Int64) {
        note(index, .integer(value))
        check(sqlite3_bind_int64(handle, index, value))
    }
    package func bind(_ index: Int32, _ value: UInt64) { bind(index, Int64(bitPattern: value)) }
    package func bind(_ index: Int32, _ value: UInt32) { bind(index, Int64(value)) }
    package func bindNull(_ index: Int32) {
        note(index, .null)
        check(sqlite3_bind_null(handle, index))
    }

    private func note(_ index: Int32, _ value: SQLiteValue) {
        guard changesRows, connection.recorder != nil else { return }
        while values.count < index { values.append(.null) }
        values[Int(index) - 1] = value
    }

    private func check(_ code: Int32) {
        if code != SQLITE_OK { bindFailure = bindFailure ?? connection.lastError(code) }
    }

    package func bind(_ index: Int32, _ bytes: [UInt8]) {
        note(index, .bytes(bytes))
        bytes.withUnsafeBytes { buffer in
            check(gw_sqlite_bind_blob(handle, index, buffer.baseAddress, UInt64(buffer.count)))
        }
    }

    package func bind(_ index: Int32, _ text: String) {
        note(index, .text(text))
        var copy = text
        copy.withUTF8 { buffer in
            buffer.withMemoryRebound(to: CChar.self) { characters in
                check(
                    gw_sqlite_bind_text(
                        handle, index, characters.baseAddress, Int32(clamping: characters.count)))
            }
        }
    }

    /// - Returns: whether there is a row to read.
    package func step() throws(SQLiteError) -> Bool {
        if let failure = bindFailure {
            bindFailure = nil
            throw failure
        }
        let code = sqlite3_step(handle)
        switch code {
        case SQLITE_ROW: return true
        case SQLITE_DONE: return false
        default:
            let error = connection.lastError(code)
            sqlite3_reset(handle)
            throw error
        }
    }

    package func reset() { sqlite3_reset(handle) }

    /// Runs a statement that gives no rows.
    package func run() throws(SQLiteError) {
        defer { sqlite3_reset(handle) }
        while try step() {}
        if changesRows, let recorder = connection.recorder { recorder.note(self, values) }
    }

    /// Runs it once more with what was bound then.
    func run(with values: [SQLiteValue]) throws(SQLiteError) {
        for (index, value) in zip(Int32(1)..., values) {
            switch value {
            case .integer(let value): bind(index, value)
            case .bytes(let bytes): bind(index, bytes)
            case .text(let text): bind(index, text)
            case .null: bindNull(index)
            }
        }
        defer { sqlite3_reset(handle) }
        while try step() {}
    }

    /// Reads the first row, if there is one.
    package func first<Value>(_ read: (Statement) -> Value) throws(SQLiteError) -> Value? {
        defer { sqlite3_reset(handle) }
        return try step() ? read(self) : nil
    }

    /// Reads every row until `visit` gives false.
    package func forEach(_ visit: (Statement) -> Bool) throws(SQLiteError) {
        defer { sqlite3_reset(handle) }
        while try step() {
            if !visit(self) { return }
        }
    }

    package func integer(_ column: Int32) -> Int64 { sqlite3_column_int64(handle, column) }
    package func unsigned(_ column: Int32) -> UInt64 {
        UInt64(bitPattern: sqlite3_column_int64(handle, column))
    }
    package func unsigned32(_ column: Int32) -> UInt32 {
        UInt32(truncatingIfNeeded: sqlite3_column_int64(handle, column))
    }
    package func isNull(_ column: Int32) -> Bool { sqlite3_column_type(handle, column) == SQLITE_NULL }

    package func bytes(_ column: Int32) -> [UInt8] {
        let count = Int(sqlite3_column_bytes(handle, column))
        guard count > 0, let start = sqlite3_column_blob(handle, column) else { return [] }
        return Array(UnsafeRawBufferPointer(start: start, count: count))
    }

    package func text(_ column: Int32) -> String { String(decoding: bytes(column), as: UTF8.self) }
}
