import Catalog
import EngineTestSupport
import Foundation
import SQLite
import VolumeModel

/// A mistake that a site's file system looks as if it made, to show that it would be noticed.
///
/// None is in the sources: the simulated disk gets a call otherwise than the site made it, or what the next start did is
/// undone before anybody looks.
enum PlantedBug: String, CaseIterable, Sendable {
    /// fsync leaves the bytes out.
    case dataFilesNotSynced
    /// fsync leaves the catalog out.
    case catalogNotSynced
    /// A new data file's directory is not synced.
    case directoriesNotSynced
    /// That directory may be new itself.
    case newDirectoriesNotSynced
    /// A hand-off's step is taken before it is on the disk.
    case registryNotSynced
    /// fsync returns before the commit is on the disk: it comes there with the next one.
    case acknowledgedBeforeCommit
    /// The catalog says that bytes are here, or how many there are, before they are on the disk.
    case recordedBeforeSynced
    /// A data file is cut before the catalog needs no more of it.
    case cutBeforeCommit
    /// A file that lacks its end after a crash is overlooked.
    case notCompletedAfterCrash
    /// A commit does not wait for the bytes of a file that replaces another.
    case replacingNotSynced

    /// For a volume of which all bytes are here; the last one is seen when it is opened.
    static let ofResidentVolume: [PlantedBug] = [
        .dataFilesNotSynced, .catalogNotSynced, .directoriesNotSynced, .newDirectoriesNotSynced,
        .acknowledgedBeforeCommit, .cutBeforeCommit, .notCompletedAfterCrash,
    ]
}

extension SimulatedDisk.Note {
    /// The moment after it.
    var end: UInt64 { UInt64(data.upperBound) }
    var isOfDirectory: Bool { kind == .sync && c != 0 }
    /// Of a catalog's log.
    var isCommit: Bool { kind == .sync && text.hasSuffix("/catalog.db-wal") }
    var isOfBytes: Bool { kind == .syncAll || kind == .sync && !isOfDirectory && text.contains("/data/") }
}

/// The syncs that a site with a planted bug makes.
struct PlantedSyncs {
    /// Where notes of syncs of bytes are that a commit follows.
    var followedByCommit: Set<UInt64> = []
    /// The moments at which the disk lacks a sync that nothing else makes up for, as far as that can be told; none: any.
    private(set) var suspects: [Range<UInt64>] = []
    private var lacking: UInt64?
    /// Data files that are synced once only, as it is when nobody does who writes to them.
    var syncedOnce: Set<String> = []
    private var held: [SimulatedDisk.Note] = []
    private var isDue = false

    /// - Returns: what the disk gets at the moment at which it got this one.
    mutating func syncs(
        insteadOf note: SimulatedDisk.Note, _ bug: PlantedBug?
    ) -> [SimulatedDisk.Note] {
        switch bug {
        case .dataFilesNotSynced: return note.isOfBytes ? [] : [note]
        case .catalogNotSynced: return note.text.contains("/catalog.db") ? [] : [note]
        case .directoriesNotSynced: return note.isOfDirectory ? [] : [note]
        case .newDirectoriesNotSynced: return note.isOfDirectory && note.text.hasSuffix("/data") ? [] : [note]
        case .registryNotSynced: return note.text.hasPrefix("site.db") ? [] : [note]
        case .acknowledgedBeforeCommit:
            guard note.isCommit else { return [note] }
            defer { held = [note] }
            return held
        case .recordedBeforeSynced:
            if note.isOfBytes, followedByCommit.contains(note.position) {
                held.append(note)
                return []
            }
            guard isDue else {
                isDue = note.isCommit && !held.isEmpty
                return [note]
            }
            defer { (held, isDue) = ([], false) }
            return held + [note]
        case .replacingNotSynced: return note.isOfBytes && syncedOnce.contains(note.text) ? [] : [note]
        case nil, .cutBeforeCommit, .notCompletedAfterCrash: return [note]
        }
    }
}

extension PlantedSyncs {
    /// Goes through all notes, for `suspects`.
    mutating func look(through notes: [SimulatedDisk.Note], _ bug: PlantedBug) {
        switch bug {
        case .directoriesNotSynced, .newDirectoriesNotSynced, .recordedBeforeSynced: break
        default: return
        }
        var trial = self
        for note in notes where note.kind == .sync || note.kind == .syncAll {
            let made = trial.syncs(insteadOf: note, bug)
            if made.isEmpty {
                lacking = lacking ?? note.end
            } else if made.count > 1 || note.kind == .syncAll, let start = lacking {
                suspects.append(start..<note.end)
                lacking = nil
            }
        }
        if let start = lacking { suspects.append(start..<UInt64.max) }
        lacking = nil
    }
}

extension PlantedBug {
    /// - Parameter first: what was synced before is no part of it.
    static func syncedOnce(_ notes: [SimulatedDisk.Note], since first: UInt64) -> Set<String> {
        var counts: [String: Int] = [:]
        var earlier: Set<String> = []
        for note in notes where note.isOfBytes && note.kind == .sync {
            counts[note.text, default: 0] += 1
            if note.position < first { earlier.insert(note.text) }
        }
        return Set(counts.filter { $0.value == 1 }.keys).subtracting(earlier)
    }

    /// The positions of syncs of bytes that the next sync of anything else, the log's, relies on.
    static func syncsBeforeCommits(_ notes: [SimulatedDisk.Note]) -> Set<UInt64> {
        var found: Set<UInt64> = []
        var isCommitNext = false
        for note in notes.reversed() {
            if note.isOfBytes {
                if isCommitNext { found.insert(note.position) }
            } else if note.kind == .sync {
                isCommitNext = note.isCommit
            }
        }
        return found
    }

    /// Each cut of a data file comes before the writes to the log that it had waited for.
    ///
    /// - Returns: besides, the moments from each cut until the sync of those writes: at them the disk is another one.
    static func movingCutsBeforeCommits(
        _ notes: [SimulatedDisk.Note]
    ) -> (notes: [SimulatedDisk.Note], suspects: [Range<UInt64>]) {
        var moved: [SimulatedDisk.Note] = []
        var suspects: [Range<UInt64>] = []
        var synced: UInt64 = 0
        var names: [UInt64: String] = [:]
        var sizes: [UInt64: UInt64] = [:]
        // Where the writes began that the last sync of the log made durable, and those after it.
        var committed: Int?
        var begun: Int?
        for note in notes {
            let name = names[note.a] ?? ""
            switch note.kind {
            case .create: (names[note.a], sizes[note.a]) = (note.text, 0)
            case .write:
                if name.hasSuffix("/catalog.db-wal") { begun = begun ?? moved.count }
                sizes[note.a] = max(sizes[note.a] ?? 0, note.b + UInt64(note.data.count))
            case .truncate:
                defer { sizes[note.a] = note.b }
                guard name.contains("/data/"), note.b < sizes[note.a] ?? 0, let place = committed else {
                    break
                }
                let start = Int(moved[place].position)
                suspects.append(UInt64(start)..<max(UInt64(start), synced))
                moved.insert(note.at(start), at: place)
                committed = place + 1
                begun = begun.map { $0 + 1 }
                continue
            case .sync where note.isCommit: (committed, begun, synced) = (begun ?? committed, nil, note.end)
            default: break
            }
            moved.append(note)
        }
        return (moved, suspects)
    }
}

extension SimulatedDisk.Note {
    /// The same note of something without data, made at another moment.
    fileprivate func at(_ start: Int) -> Self {
        Self(
            kind: kind, position: UInt64(start), time: time, text: text, a: a, b: b, c: c, data: start..<start
        )
    }
}

/// What a start after a crash did with data files, undone.
enum UndoneRecovery {
    /// How long data files are, by their names in a head.
    static func sizes(of head: String) -> [String: Int] {
        var sizes: [String: Int] = [:]
        for name in FileManager.default.subpaths(atPath: head + "/data") ?? [] {
            let attributes = try? FileManager.default.attributesOfItem(atPath: "\(head)/data/\(name)")
            guard attributes?[.type] as? FileAttributeType == .typeRegular else { continue }
            sizes[name] = (attributes?[.size] as? NSNumber)?.intValue ?? 0
        }
        return sizes
    }

    /// Files are again as long as their rows said, and their data files as short as they are.
    ///
    /// - Parameter twin: the head as it was before it was opened.
    static func claim(what twin: String, of volume: TestVolume) throws {
        var sizes: [InodeNumber: UInt64] = [:]
        let rows = try Connection(path: twin + "/" + Catalog.fileName, mode: .readWrite).prepare(
            "SELECT ino, size FROM inode WHERE died = 0 AND data > 0")
        try rows.forEach { row in
            sizes[InodeNumber(row.unsigned(0))] = row.unsigned(1)
            return true
        }
        try volume.storage.catalog.perform { state in
            for (inode, size) in sizes {
                guard var record = try state.inode(inode), record.attributes.size < size else { continue }
                record.attributes.size = size
                try state.update(record, kind: .structural)
            }
        }
    }
}
