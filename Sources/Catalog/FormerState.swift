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

    /// The parts of some extents that are in a former state as they were when this head began. Whatever is missing of this
    /// head is so as it was then.
    package func unchangedParts(of extents: [Extent], since state: FormerState) throws -> [Extent] {
        guard let reigns = changed.earlier(since: state.heir), reigns.last?.sinceName == state.name,
            let firstNewInode = reigns.map(\.firstNewInode).min()
        else { return [] }
        let statement = try connection.prepare(EarlierReign.changesOfOneInode)
        return try extents.flatMap { extent -> [Extent] in
            guard extent.inode < firstNewInode else { return [] }
            statement.bind(1, extent.inode.number)
            statement.bind(2, state.heir.number)
            var changes: ChangedBytes?
            try statement.forEach { row in
                // Damaged: all of it.
                let more = Self.changedBytes(of: row) ?? ChangedBytes(unchangedOf: 0)
                if changes == nil { changes = more } else { changes?.formUnion(more) }
                return true
            }
            guard let changes else { return [extent] }
            return changes.parts(of: extent.range).filter { !$0.isChanged }
                .map { Extent(inode: extent.inode, range: $0.range) }
        }
    }
}
