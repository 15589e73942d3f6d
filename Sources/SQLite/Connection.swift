internal import CPageSums
internal import CSQLite
internal import Glibc

/// An open SQLite database: the project's only door to SQLite.
///
/// What is read of a database that keeps page sums, and of any write-ahead log, is what was written, or an error:
/// `Connection+PageSums`.
///
/// Unchecked Sendable: opened without SQLite's own mutexes, so it is used by one thread at a time;
/// whoever owns it calls it under the owner's lock. Statements belong to their connection.
package final class Connection: @unchecked Sendable {
    package enum Mode: Sendable {
        case readOnly
        case readWrite
        /// Makes the file, mode 0600, if it is missing.
        case create
        /// Reads the file as it is, without its log and without a lock: a page that is written meanwhile may come as half of
        /// either, and of what is moved there only a part.
        case fileAlone
    }

    package let path: String
    let handle: OpaquePointer
    /// Where changes are noted, so that they can be made once more; nil: nowhere.
    package var recorder: ChangeRecorder?
    private let log = LogLength()
    /// Whether damage was come upon in a transaction, which need not be the open one.
    private var hasMetDamage = false

    /// How long a statement waits for somebody else's lock, if nothing else is said. The closing of another's last
    /// connection takes one for a moment, also of this process.
    private static let busyTimeoutMilliseconds: Int32 = 5000

    private static let registration = gw_page_sums_register()

    /// Opens the file. Whether it is a database shows with the first statement.
    ///
    /// - Throws: a refusal when one of its files is none that we may touch.
    package init(path: String, mode: Mode) throws(SQLiteError) {
        try Self.checkFiles(of: path)
        guard Self.registration == SQLITE_OK else {
            throw SQLiteError(code: Self.registration, message: "cannot open \(path): SQLite does not begin")
        }
        let flags: Int32 =
            switch mode {
            case .readOnly: SQLITE_OPEN_READONLY
            case .readWrite: SQLITE_OPEN_READWRITE
            case .create: SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
            case .fileAlone: SQLITE_OPEN_READONLY | SQLITE_OPEN_URI
            }
        var opened: OpaquePointer?
        let name = mode == .fileAlone ? Self.immutable(path) : path
        let code = sqlite3_open_v2(
            name, &opened, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_NOFOLLOW,
            GW_PAGE_SUMS_VFS)
        guard code == SQLITE_OK, let opened else {
            let message = opened.map { String(cString: sqlite3_errmsg($0)) } ?? "out of memory"
            sqlite3_close_v2(opened)
            throw SQLiteError(code: code, message: "cannot open \(path): \(message)")
        }
        handle = opened
        self.path = path
        setBusyTimeout(milliseconds: Self.busyTimeoutMilliseconds)
    }

    deinit { sqlite3_close_v2(handle) }

    /// https://sqlite.org/uri.html
    private static func immutable(_ path: String) -> String {
        let plain = Set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/".utf8)
        let name = path.utf8.map { byte -> String in
            if plain.contains(byte) { return String(Character(UnicodeScalar(byte))) }
            return (byte < 16 ? "%0" : "%") + String(byte, radix: 16)
        }
        return (path.hasPrefix("/") ? "file://" : "file:") + name.joined() + "?immutable=1"
    }

    /// Looks at what SQLite would open, without opening it: a FIFO would hold it up for ever, a device would be written to,
    /// and each of two names would have a log of its own.
    ///
    /// - Throws: a refusal, when one of the files is there and no regular file with a single name.
    package static func checkFiles(of path: String) throws(SQLiteError) {
        for file in ["", "-wal", "-shm", "-journal"].map({ path + $0 }) {
            var status = stat()
            guard lstat(file, &status) == 0 else { continue }
            guard status.st_mode & S_IFMT == S_IFREG else {
                throw SQLiteError(
                    refusing: "\(file) is no regular file: put the right one in its place, or remove it")
            }
            guard status.st_nlink == 1 else {
                throw SQLiteError(
                    refusing:
                        "\(file) has another name somewhere (a hard link): remove that, or put a copy in its place"
                )
            }
        }
    }

    /// The file's first 100 bytes, zeros for what it lacks. SQLite has done nothing to it, nor to its log, before the first
    /// statement. By SQLite's own descriptor: to close another one would let go of all of this process's locks on the
    /// file (https://sqlite.org/howtocorrupt.html, "Posix advisory locks canceled").
    package func header() throws(SQLiteError) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 100)
        let code = gw_sqlite_read_start(handle, &header, Int32(header.count))
        guard code == SQLITE_OK || code == Self.shortRead else {
            throw SQLiteError(code: code, message: "cannot read \(path)")
        }
        return header
    }

    /// SQLITE_IOERR_SHORT_READ
    private static let shortRead = SQLITE_IOERR | 2 << 8

    /// Runs statements that return nothing of interest.
    package func execute(_ sql: String) throws(SQLiteError) {
        let code = sqlite3_exec(handle, sql, nil, nil, nil)
        guard code == SQLITE_OK else { throw lastError(code) }
    }

    package func prepare(_ sql: String) throws(SQLiteError) -> Statement {
        var statement: OpaquePointer?
        let code = sqlite3_prepare_v3(handle, sql, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &statement, nil)
        guard code == SQLITE_OK, let statement else { throw lastError(code) }
        return Statement(handle: statement, connection: self)
    }

    /// The rows that the last INSERT, UPDATE or DELETE changed.
    package var changeCount: Int { Int(sqlite3_changes(handle)) }

    /// Whether a transaction is open.
    package var isInTransaction: Bool { sqlite3_get_autocommit(handle) == 0 }

    /// Whether SQLite takes no change, nor the commit, of the open transaction: so it is from the moment on that it comes upon
    /// damage, also in what is only read, until the transaction is taken back.
    package var refusesChanges: Bool { hasMetDamage && isInTransaction }

    /// Called when a transaction begins.
    package func noteBeginning() { hasMetDamage = false }

    /// Keeps the write-ahead log's file when the last connection closes, so that a descriptor of it stays valid.
    package func keepWriteAheadLog() {
        var keep: Int32 = 1
        _ = sqlite3_file_control(handle, "main", SQLITE_FCNTL_PERSIST_WAL, &keep)
    }

    /// Moves what the write-ahead log holds into the database, waiting for nobody.
    ///
    /// - Parameter empties: also makes the log's file empty, if nobody reads or writes at the moment.
    /// - Returns: whether all of the log was moved.
    @discardableResult
    package func checkpoint(empties: Bool = false) throws(SQLiteError) -> Bool {
        let mode = empties ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE
        var frameCount: Int32 = 0
        var movedCount: Int32 = 0
        let code = sqlite3_wal_checkpoint_v2(handle, nil, mode, &frameCount, &movedCount)
        guard code == SQLITE_OK || code & 0xff == SQLITE_BUSY else { throw lastError(code) }
        return code == SQLITE_OK && frameCount == movedCount
    }

    /// Leaves the log and the database as they are when this connection is the last to close.
    package func leaveLogOnClose(_ leaves: Bool = true) {
        _ = gw_sqlite_no_checkpoint_on_close(handle, leaves ? 1 : 0)
    }

    /// From now on `logFrameCount` tells how long the write-ahead log is.
    package func watchLog() {
        _ = sqlite3_wal_hook(
            handle,
            { context, _, _, frameCount in
                guard let context else { return SQLITE_OK }
                Unmanaged<LogLength>.fromOpaque(context).takeUnretainedValue().frameCount = Int(frameCount)
                return SQLITE_OK
            }, Unmanaged.passUnretained(log).toOpaque())
    }

    /// Frames in the write-ahead log as of the last commit through this connection.
    package var logFrameCount: Int { log.frameCount }

    private final class LogLength { var frameCount = 0 }

    /// How long a statement waits for another process's lock.
    package func setBusyTimeout(milliseconds: Int32) { sqlite3_busy_timeout(handle, milliseconds) }

    func lastError(_ code: Int32) -> SQLiteError {
        var message = String(cString: sqlite3_errmsg(handle))
        if code == SQLITE_CORRUPT, let page = takeDamagedPage() {
            message += " (\(page) is not what godwit wrote)"
        }
        let error = SQLiteError(code: code, message: "\(message) in \(path)")
        if error.isCorruption { hasMetDamage = true }
        return error
    }
}
