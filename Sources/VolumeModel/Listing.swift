/// How far a directory's entries are known: those behind `after` (a cookie; 0: all) are not.
package struct ListingPlace: Hashable, Sendable {
    package let directory: InodeNumber
    package let after: Int64

    package init(directory: InodeNumber, after: Int64) {
        self.directory = directory
        self.after = after
    }
}

/// What is asked of an origin's names.
package struct ListingRequest: Hashable, Sendable {
    /// One name of a directory that is asked for by itself, whatever else fits the answer.
    package struct Name: Hashable, Sendable {
        package let directory: InodeNumber
        package let name: [UInt8]

        package init(directory: InodeNumber, name: [UInt8]) {
            self.directory = directory
            self.name = name
        }
    }

    package var name: Name?
    /// Inodes that are asked for without their names.
    package var inodes: [InodeNumber]
    package var places: [ListingPlace]
    /// Whether, when all places are listed and there is room, the directories below follow.
    package var descends: Bool
    /// Encoded rows in the answer, about.
    package var byteCount: Int

    package init(
        places: [ListingPlace], name: Name? = nil, inodes: [InodeNumber] = [], descends: Bool = true,
        byteCount: Int
    ) {
        self.places = places
        self.name = name
        self.inodes = inodes
        self.descends = descends
        self.byteCount = byteCount
    }
}

/// What came of it.
package struct Listing: Hashable, Sendable {
    /// A part of a directory: its entries behind `after`, up to `last` included.
    package struct Part: Hashable, Sendable {
        package let directory: InodeNumber
        package let after: Int64
        package let last: Int64
        /// Whether the directory has no entry behind `last`.
        package let isComplete: Bool

        package init(directory: InodeNumber, after: Int64, last: Int64, isComplete: Bool) {
            self.directory = directory
            self.after = after
            self.last = last
            self.isComplete = isComplete
        }
    }

    /// What was asked for by itself, in the same order as `rows`.
    package var singles: [CatalogRow]
    package var parts: [Part]
    /// The entries of the parts, before each the inode that it names, and before that the inode's attributes. Only
    /// `inode`, `entry` and `attribute`.
    package var rows: [CatalogRow]

    package init(singles: [CatalogRow] = [], parts: [Part] = [], rows: [CatalogRow] = []) {
        self.singles = singles
        self.parts = parts
        self.rows = rows
    }
}
