internal import SQLite
package import VolumeModel

/// What is promised of how long data files are.
///
/// From the moment on that a row says so, also in memory, its data file is at least as long as its inode: it is extended
/// before, and cut after the row that needs no more of it is durable. So
/// - while the head is in use, a file that is shorter has lost bytes;
/// - after a power loss, one whose row was born in a commit up to `settled` has: a sync has covered the file after that.
///   What was written last before may be short, and ends where its bytes do, as on ext4.
/// A row is born anew with each commit that changes its size.
///
/// Releases before this left holes at the end out. Of files that were there when one of them committed last nothing is
/// promised, ever: their rows are born anew for many reasons that make no file longer.
struct DataFileSizes {
    /// Data files of rows that were born up to this commit were made durable afterwards.
    var settled: SequenceNumber
    /// The first data file that no older release can have made or changed.
    private let first: DataFileNumber
    /// The last commit in which a row with a data file was born.
    var lastBirth: SequenceNumber

    init(_ statements: CatalogStatements) throws(SQLiteError) {
        let last = SequenceNumber(try statements.meta(.sequence) ?? 0)
        let next = DataFileNumber(UInt64(bitPattern: try statements.meta(.nextData) ?? 1))
        // Who commits without this knows nothing of what is promised.
        let isOurs = try statements.meta(.sizedThrough) == last.number
        let known = isOurs ? try statements.meta(.sizedFrom) : nil
        first = known.map { DataFileNumber(UInt64(bitPattern: $0)) } ?? next
        settled = isOurs ? try statements.meta(.settled).map { SequenceNumber($0) } ?? last : last
        // What the process before has left unsettled is settled by the first `settle` of this one.
        lastBirth = last
    }

    /// Whether a data file is at least as long as the row of its inode says, while the head is in use.
    func isCertain(_ data: DataFileNumber) -> Bool { data >= first }

    /// Whether the disk holds all of the data file of a row.
    func isDurable(_ data: DataFileNumber, bornAt birth: SequenceNumber) -> Bool {
        isCertain(data) && birth <= settled
    }

    /// With every commit.
    func write(_ statements: CatalogStatements, at sequence: SequenceNumber) throws(SQLiteError) {
        try statements.setMeta(.sizedThrough, sequence.number)
        try statements.setMeta(.sizedFrom, Int64(bitPattern: first.number))
        try statements.setMeta(.settled, settled.number)
    }

    /// Of a head that is just being made: everything is certain.
    static func writeFirst(_ statements: CatalogStatements, at sequence: Int64, settled: Int64)
        throws(SQLiteError)
    {
        try statements.setMeta(.sizedThrough, sequence)
        try statements.setMeta(.sizedFrom, 0)
        try statements.setMeta(.settled, settled)
    }
}

extension CatalogState {
    /// Commits what has been changed so far. To be called before a sync of all data files.
    ///
    /// - Returns: the commit that `noteSettled` is to be told of, when that sync has succeeded.
    package mutating func beginSettling() throws -> SequenceNumber {
        _ = try commit()
        return lastSequence
    }

    /// All data files are on the disk as they were at a commit, or later.
    package mutating func noteSettled(_ sequence: SequenceNumber) throws {
        // Not for ever: this is a change itself.
        guard sizes.lastBirth > sizes.settled, sequence > sizes.settled else { return }
        try beginIfNeeded()
        sizes.settled = sequence
    }

    /// An inode, and whether its data file must be as long as it says.
    package mutating func sizedInode(
        _ number: InodeNumber
    ) throws -> (record: InodeRecord, isSizeCertain: Bool)? {
        guard let record = try inode(number) else { return nil }
        return (record, sizes.isCertain(record.data))
    }

    /// Ends an unsettled inode where its data file does, for what it lacks nobody was told is safe. Not within what may
    /// still be at its origin, nor where an older release has left a hole out.
    ///
    /// - Parameter end: how long its data file is, which is less than the inode is.
    /// - Returns: how long the data file is to be.
    package mutating func endUnsettled(_ number: InodeNumber, at end: UInt64) throws -> UInt64 {
        guard var record = try inode(number) else { return end }
        let size = max(end, min(record.backedByteCount, record.attributes.size))
        guard sizes.isCertain(record.data), size < record.attributes.size else {
            return record.attributes.size
        }
        try noteChange(of: ByteRange(size, ByteRange.maximumOffset), of: number)
        record.attributes.size = size
        record.attributes.blockCount = min(record.attributes.blockCount, (size + 4095) / 4096 * 8)
        try update(record, kind: .structural)
        return size
    }

    /// Whether somebody may have been told that an inode's size is safe, though it has no data file that is so long.
    package func mayRelyOnSize(of record: InodeRecord) -> Bool {
        record.attributes.size > record.backedByteCount
    }

    /// Live inodes with data files of which it is not certain that a sync has covered all that their rows say.
    func unsettledInodes() throws -> [InodeNumber] {
        var numbers: [InodeNumber] = []
        let list = try connection.prepare("SELECT ino FROM inode WHERE born > ?1 AND died = 0 AND data > 0")
        list.bind(1, sizes.settled.number)
        try list.forEach {
            numbers.append(InodeNumber($0.unsigned(0)))
            return true
        }
        return numbers
    }
}
