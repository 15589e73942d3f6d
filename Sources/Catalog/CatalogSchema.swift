/// The tables of a volume's catalog.
///
/// A row of `inode`, `entry` and `xattr` is valid for sequence numbers `[born, died)`; `died` is 0 while
/// it lives (a zero costs no byte in SQLite's records). What never travels to another site stands in
/// `inode.data`, `inode.backed`, `resident`, `changed`, `missing`, `gone`, `garbage` and `pin`. What other sites told of
/// earlier reigns has tables that are made when they are needed: `EarlierReign`.
enum CatalogSchema {
    /// Raised with every change of the tables. A newer number than this is refused.
    ///
    /// 4 has the tables of 3, and page sums: a release that knows only 3 would write pages without them, which would be
    /// taken for damage. So it is told by this number to leave such a catalog alone.
    static let version: Int64 = 4
    /// Without page sums: what its disk changes may go unnoticed. It stays as it is; new heads and copies are of 4.
    static let versionWithoutSums: Int64 = 3

    static let statements = """
        CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
        CREATE TABLE inode(
            ino INTEGER NOT NULL, died INTEGER NOT NULL, born INTEGER NOT NULL,
            mode INTEGER NOT NULL, links INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
            device INTEGER NOT NULL, size INTEGER NOT NULL, blocks INTEGER NOT NULL,
            atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
            parent INTEGER NOT NULL, target BLOB NOT NULL,
            data INTEGER NOT NULL, backed INTEGER NOT NULL,
            PRIMARY KEY(ino, died)) WITHOUT ROWID;
        CREATE INDEX inode_born ON inode(born);
        CREATE INDEX inode_died ON inode(died) WHERE died > 0;
        CREATE INDEX inode_backed ON inode(ino) WHERE died = 0 AND backed > 0;
        CREATE INDEX inode_orphan ON inode(ino) WHERE died = 0 AND links = 0;
        CREATE TABLE entry(
            parent INTEGER NOT NULL, cookie INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL,
            kind INTEGER NOT NULL, born INTEGER NOT NULL, died INTEGER NOT NULL,
            PRIMARY KEY(parent, cookie)) WITHOUT ROWID;
        CREATE UNIQUE INDEX entry_name ON entry(parent, name) WHERE died = 0;
        CREATE INDEX entry_born ON entry(born);
        CREATE INDEX entry_died ON entry(died) WHERE died > 0;
        CREATE TABLE xattr(
            ino INTEGER NOT NULL, name BLOB NOT NULL, died INTEGER NOT NULL, born INTEGER NOT NULL,
            value BLOB NOT NULL, PRIMARY KEY(ino, name, died)) WITHOUT ROWID;
        CREATE INDEX xattr_born ON xattr(born);
        CREATE INDEX xattr_died ON xattr(died) WHERE died > 0;
        CREATE TABLE resident(
            ino INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
            PRIMARY KEY(ino, start)) WITHOUT ROWID;
        CREATE TABLE changed(
            ino INTEGER PRIMARY KEY, all_from INTEGER NOT NULL, shift INTEGER NOT NULL, granules BLOB NOT NULL);
        CREATE TABLE missing(ino INTEGER PRIMARY KEY, after INTEGER NOT NULL);
        CREATE TABLE gone(ino INTEGER PRIMARY KEY);
        CREATE TABLE garbage(data INTEGER PRIMARY KEY);
        CREATE TABLE pin(name TEXT PRIMARY KEY, acknowledged INTEGER NOT NULL, newest INTEGER NOT NULL) WITHOUT ROWID;
        """

    /// Pages of an open transaction stay in memory up to 256 MiB. Those that leave it before are read again at the commit, to
    /// compute the log's checksums anew, and nobody has looked at them then.
    static let memoryOfTransactions = "PRAGMA cache_spill = 65536"

    /// NORMAL: a commit writes the log but does not sync it. `Catalog.synchronize` syncs the log's file
    /// itself, outside the lock, so that an fsync never stops other operations.
    /// Pages of an open transaction stay in memory up to 256 MiB, which is more than changes between two commits
    /// can take: so the disk can refuse a commit, after which all is done again, but not half an operation.
    static let pragmas = """
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = NORMAL;
        PRAGMA wal_autocheckpoint = 0;
        \(memoryOfTransactions);
        PRAGMA temp_store = MEMORY;
        PRAGMA trusted_schema = OFF;
        """
}
