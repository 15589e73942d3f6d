internal import SQLite
package import VolumeModel

/// A state of the volume from before the one that this head began with, and who granted it.
///
/// What has not changed since is the same in both. So bytes that this head lacks, and that its origin cannot give, can be
/// had of whoever keeps that state, for whomever it does so.
package struct FormerState: Hashable, Sendable {
    /// The reign that it was granted to.
    package let heir: Epoch
    /// Of all states of that number the one that led to this head.
    package let name: StateName
    package let keeper: SiteID

    package init(heir: Epoch, name: StateName, keeper: SiteID) {
        (self.heir, self.name, self.keeper) = (heir, name, keeper)
    }
}

extension CatalogState {
    /// Those that are known, the newest first, without the one that this head began with.
    package var formerStates: [FormerState] {
        changed.earlier.compactMap { reign in
            guard let name = reign.sinceName, let keeper = changed.keepers[reign.since] else { return nil }
            return FormerState(heir: reign.since, name: name, keeper: keeper)
        }
    }

    /// The parts of a range that are in a former state as they were when this head began. Whatever is missing of this head
    /// is so as it was then.
    package func unchangedParts(
        of range: ByteRange, of inode: InodeNumber, since state: FormerState
    ) throws -> [ByteRange] {
        guard let reigns = changed.earlier(since: state.heir), reigns.last?.sinceName == state.name,
            reigns.allSatisfy({ inode < $0.firstNewInode })
        else { return [] }
        let statement = try connection.prepare(EarlierReign.changesOfOneInode)
        statement.bind(1, inode.number)
        statement.bind(2, state.heir.number)
        var changes: ChangedBytes?
        try statement.forEach { row in
            // Damaged: all of it.
            let more = Self.changedBytes(of: row) ?? ChangedBytes(unchangedOf: 0)
            if changes == nil { changes = more } else { changes?.formUnion(more) }
            return true
        }
        guard let changes else { return [range] }
        return changes.parts(of: range).filter { !$0.isChanged }.map(\.range)
    }
}
