package import ByteStore
package import VolumeModel

/// Bytes of a file that have come, verified.
package struct Piece: Hashable, Sendable {
    package enum Content: Hashable, Sendable {
        case zeros
        case bytes([UInt8])
        /// They are here already, in another data file at the same offsets.
        case stored(StoredBytes)
    }

    package let inode: InodeNumber
    package let range: ByteRange
    package let content: Content
    /// Whether it came from a copy that this site had kept, and not over the link.
    package let isOwn: Bool

    package init(inode: InodeNumber, range: ByteRange, content: Content, isOwn: Bool = false) {
        self.inode = inode
        self.range = range
        self.content = content
        self.isOwn = isOwn
    }
}

/// Bytes of a data file of this site that nobody changes any more.
package struct StoredBytes: Hashable, Sendable {
    package let file: DataFile
    private let noteFailure: @Sendable () -> Void

    /// - Parameter noteFailure: called when they cannot be read after all; the next time they are to come from
    ///   elsewhere.
    package init(_ file: DataFile, noteFailure: @escaping @Sendable () -> Void) {
        self.file = file
        self.noteFailure = noteFailure
    }

    /// Brings them into another data file.
    func copy(_ range: ByteRange, to target: DataFile) throws(ByteStoreError) {
        do {
            try target.take(range, from: file)
        } catch {
            if case .reading = error { noteFailure() }
            throw error.cause
        }
    }

    package static func == (one: Self, other: Self) -> Bool { one.file === other.file }

    package func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(file)) }
}

/// How long a request may wait behind others.
package enum Urgency: Hashable, Sendable {
    /// An application is waiting.
    case urgent
    /// An application will probably ask soon.
    case prefetch
    case background

    /// Of tasks that work for it. Each priority has threads of its own: decompressing, verifying and storing what nobody
    /// waits for, which may wait for the disk, keeps none that a fault needs.
    package var priority: TaskPriority {
        switch self {
        case .urgent: .high
        case .prefetch: .medium
        case .background: .utility
        }
    }
}

/// Where missing bytes come from.
package protocol ByteSource: Sendable {
    /// For people, in logs and errors: `site london`.
    var name: String { get }

    /// Fetches bytes, verified against the hashes that the source states.
    ///
    /// The answer may leave things out (a large request), but has something of what was asked. Pieces come in no
    /// certain order. One of zeros may reach beyond what was asked, to the end of the hole that it is of, and so over
    /// another piece, which says the same. May be repeated.
    func read(_ extents: [Extent], urgency: Urgency, timeout: Duration) async throws -> [Piece]

    /// How many bytes of these will come over a link, at most and as far as it can be told before.
    func linkByteCount(of extents: [Extent]) async throws -> UInt64
}

extension ByteSource {
    package func linkByteCount(of extents: [Extent]) async throws -> UInt64 {
        extents.reduce(0) { $0 + $1.range.byteCount }
    }
}

/// Where the names of a head come from, whose catalog arrives while it is in use. What it says must be of a state that
/// does not change.
package protocol DirectorySource: Sendable {
    /// May be repeated.
    func list(
        _ request: ListingRequest, urgency: Urgency, timeout: Duration
    ) async throws -> Listing
}

/// Why bytes or names could not be had.
package enum HydrationError: Error, Sendable, CustomStringConvertible {
    /// No source had it in time. The bytes are intact there: try again later.
    case sourceUnavailable(source: String, inode: InodeNumber, range: ByteRange, cause: String)
    /// The head has no origin, yet bytes are missing: they are lost here.
    case noSource(inode: InodeNumber, range: ByteRange)
    case storage(String)
    /// The same for the entries of a directory.
    case directoryUnavailable(source: String, InodeNumber, cause: String)
    case noDirectorySource(InodeNumber)

    package var description: String {
        switch self {
        case .sourceUnavailable(let source, let inode, let range, let cause):
            "inode \(inode) bytes \(range): not to be had from \(source): \(cause)"
        case .noSource(let inode, let range):
            "inode \(inode) bytes \(range) are missing and the volume has no origin"
        case .directoryUnavailable(let source, let directory, let cause):
            "entries of directory \(directory): not to be had from \(source): \(cause)"
        case .noDirectorySource(let directory):
            "entries of directory \(directory) are missing and the volume has no origin"
        case .storage(let cause): "bytes that came could not be stored: \(cause)"
        }
    }
}
