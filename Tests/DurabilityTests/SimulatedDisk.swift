import EngineTestSupport
import Foundation

/// What a disk may hold after the power failed at some moment, from the notes of `recorder.c`.
///
/// What a sync covered is there. Any other write is there, or not, or a part of its sectors is. Of names, of sizes that
/// were cut, and of files made or removed there are two kinds of file systems: `Names`.
struct SimulatedDisk {
    enum Names {
        /// As ext4 does it (data=writeback, the worst of its modes): they go through a journal and survive in their
        /// order, up to some point, which is behind every sync of anything.
        case journalled
        /// No more than POSIX says: a name is there when its directory was synced since, and not because another file
        /// was; each directory by itself.
        case bySyncOfTheirDirectory
    }

    enum Kind: UInt32 {
        case write = 1
        case truncate, allocate, sync, syncAll, create, unlink, rename, makeDirectory
    }

    struct Note {
        let kind: Kind
        let position: UInt64
        let time: UInt64
        let text: String
        let a: UInt64
        let b: UInt64
        let c: UInt64
        let data: Range<Int>
    }

    private struct Change {
        let position: UInt64
        let kind: Kind
        let offset: UInt64
        let count: UInt64
        /// FALLOC_FL_…
        let mode: UInt8
        let data: Range<Int>
    }

    private struct File {
        var durable: [UInt8] = []
        var pending: [Change] = []
    }

    private enum NameChange {
        case create(String, file: Int)
        case unlink(String)
        case rename(String, String)
        case makeDirectory(String)
    }

    private static let headByteCount = 48
    private static let sectorByteCount = 512
    private let log: [UInt8]
    private let names: Names
    private(set) var bug: PlantedBug?
    private var planted = PlantedSyncs()
    /// The moments at which the planted bug makes it another disk, as far as that can be told; none: any.
    private(set) var suspects: [Range<UInt64>] = []
    private var notes: [Note] = []
    private var applied = 0
    private var files: [File] = []
    private var fileOfInode: [UInt64: Int] = [:]
    private var nameChanges: [(position: UInt64, change: NameChange)] = []
    /// Everything in the journal before this has reached the disk.
    private var forced: UInt64 = 0
    /// Everything before this has.
    private var forcedAll: UInt64 = 0
    /// The changes of a directory's names before this have.
    private var forcedNames: [String: UInt64] = [:]

    /// - Parameters:
    ///   - bug: one that the site looks as if it had.
    ///   - first: since when.
    init(
        log path: String, names: Names = .journalled, planting bug: PlantedBug? = nil, since first: UInt64 = 0
    ) throws {
        log = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
        (self.names, self.bug) = (names, bug)
        var position = 0
        func number(_ at: Int, _ count: Int) -> UInt64 {
            (0..<count).reduce(0) { $0 | UInt64(log[at + $1]) << UInt64(8 * $1) }
        }
        while position + Self.headByteCount <= log.count {
            let textCount = Int(number(position + 4, 4))
            let dataCount = Int(number(position + 32, 8))
            let text = position + Self.headByteCount
            let end = text + textCount + dataCount
            guard let kind = Kind(rawValue: UInt32(number(position, 4))), end <= log.count else { break }
            notes.append(
                Note(
                    kind: kind, position: UInt64(position), time: number(position + 40, 8),
                    text: String(decoding: log[text..<text + textCount], as: UTF8.self),
                    a: number(position + 8, 8), b: number(position + 16, 8), c: number(position + 24, 8),
                    data: text + textCount..<end))
            position = end
        }
        if bug == .cutBeforeCommit { (notes, suspects) = PlantedBug.movingCutsBeforeCommits(notes) }
        if bug == .replacingNotSynced { planted.syncedOnce = PlantedBug.syncedOnce(notes, since: first) }
        if bug == .recordedBeforeSynced { planted.followedByCommit = PlantedBug.syncsBeforeCommits(notes) }
        if let bug, bug != .cutBeforeCommit {
            var syncs = planted
            syncs.look(through: notes, bug)
            suspects = syncs.suspects
        }
    }

    /// The same with a bug; for a disk on which nothing has happened yet.
    init(_ other: SimulatedDisk, planting bug: PlantedBug?) {
        self = other
        self.bug = bug
    }

    /// The ends of all notes: the moments at which the power may fail.
    var moments: [UInt64] { notes.map(\.end) }

    /// The same for the notes of files whose paths begin so, with the times at which they came, in nanoseconds of a clock
    /// that all processes share.
    func moments(of path: String) -> [(moment: UInt64, time: UInt64)] {
        var names: [UInt64: String] = [:]
        return notes.compactMap { note in
            if note.kind == .create { names[note.a] = note.text }
            guard (names[note.a] ?? note.text).hasPrefix(path) else { return nil }
            return (UInt64(note.data.upperBound), note.time)
        }
    }

    // MARK: time

    /// Goes on to a moment, not back.
    mutating func advance(to moment: UInt64) {
        while applied < notes.count, UInt64(notes[applied].data.upperBound) <= moment {
            apply(notes[applied])
            applied += 1
        }
    }

    /// Goes on to everything that was noted until then.
    mutating func advance(toTime time: UInt64) {
        while applied < notes.count, notes[applied].time <= time {
            apply(notes[applied])
            applied += 1
        }
    }

    private mutating func apply(_ note: Note) {
        switch note.kind {
        case .write, .truncate, .allocate:
            guard let file = fileOfInode[note.a] else { return }
            let mode = note.kind == .allocate ? log[note.data.lowerBound] : 0
            let count = note.kind == .write ? UInt64(note.data.count) : 0
            files[file].pending.append(
                Change(
                    position: note.position, kind: note.kind, offset: note.b,
                    count: note.kind == .allocate ? note.c : count, mode: mode, data: note.data))
        case .sync, .syncAll:
            for sync in planted.syncs(insteadOf: note, bug) { synchronize(sync) }
        case .create:
            files.append(File())
            fileOfInode[note.a] = files.count - 1
            nameChanges.append((note.position, .create(note.text, file: files.count - 1)))
        case .unlink: nameChanges.append((note.position, .unlink(note.text)))
        case .rename:
            nameChanges.append(
                (note.position, .rename(note.text, String(decoding: log[note.data], as: UTF8.self))))
        case .makeDirectory: nameChanges.append((note.position, .makeDirectory(note.text)))
        }
    }

    private mutating func synchronize(_ note: Note) {
        forced = max(forced, note.b)
        if note.kind == .syncAll {
            forcedAll = max(forcedAll, note.b)
            for file in files.indices { settle(file, before: note.b) }
        } else {
            if note.isOfDirectory { forcedNames[note.text] = max(forcedNames[note.text] ?? 0, note.b) }
            if let file = fileOfInode[note.a] { settle(file, before: note.b) }
        }
    }

    private mutating func settle(_ file: Int, before position: UInt64) {
        for change in files[file].pending where change.position < position {
            apply(change, to: &files[file].durable)
        }
        files[file].pending.removeAll { $0.position < position }
    }

    private func apply(_ change: Change, to content: inout [UInt8]) {
        let start = Int(change.offset)
        switch change.kind {
        case .write: put(change.data, at: start, in: &content)
        case .truncate:
            if content.count > start {
                content.removeLast(content.count - start)
            } else {
                content += [UInt8](repeating: 0, count: start - content.count)
            }
        case .allocate:
            let end = start + Int(change.count)
            // Keeping the size or not; making a hole, or zeros.
            if change.mode & 1 == 0, content.count < end {
                content += [UInt8](repeating: 0, count: end - content.count)
            }
            guard change.mode & 0x12 != 0 else { return }
            for index in start..<max(start, min(end, content.count)) { content[index] = 0 }
        default: break
        }
    }

    private func put(_ data: Range<Int>, at start: Int, in content: inout [UInt8]) {
        let end = start + data.count
        if content.count < end { content += [UInt8](repeating: 0, count: end - content.count) }
        content.replaceSubrange(start..<end, with: log[data])
    }

    // MARK: the disk

    /// One of the disks that there may be now, as files in a directory.
    ///
    /// - Parameters:
    ///   - below: only what is there, without its name.
    ///   - isRunning: the power has not failed: everything is there.
    ///   - leavingOut: files whose loss means nothing.
    func write(
        to directory: String, below: String, isRunning: Bool = false, leavingOut: (String) -> Bool,
        _ generator: inout Generator
    ) throws {
        let now = applied < notes.count ? notes[applied].position : UInt64(log.count)
        // How far names and sizes have come: as far as they must, or to the end, or somewhere between.
        let progress = isRunning ? 1 : generator.next(below: 3)
        func reached(_ least: UInt64, _ generator: inout Generator) -> UInt64 {
            switch progress {
            case 0: least
            case 1: max(least, now)
            default: least + UInt64(generator.next(below: Int(now - min(least, now)) + 1))
            }
        }
        let journal = reached(names == .journalled ? forced : forcedAll, &generator)
        // Each write of a file is lost, or none, or some.
        let losses = isRunning ? 1 : generator.next(below: 4)
        let present = names(journal, reached, &generator)
        for (name, file) in present.sorted(by: { $0.key < $1.key }) where name.hasPrefix(below) {
            let relative = String(name.dropFirst(below.count))
            guard !leavingOut(relative) else { continue }
            var content = files[file].durable
            for change in files[file].pending {
                if change.kind == .write {
                    keep(change, losses, in: &content, &generator)
                } else if change.position < journal {
                    apply(change, to: &content)
                }
            }
            let path = directory + "/" + relative
            try FileManager.default.createDirectory(
                atPath: (path as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
            guard FileManager.default.createFile(atPath: path, contents: Data(content)) else {
                throw CocoaError(.fileWriteUnknown)
            }
        }
    }

    /// The files that have a name, by their names.
    private func names(
        _ journal: UInt64, _ reached: (UInt64, inout Generator) -> UInt64, _ generator: inout Generator
    ) -> [String: Int] {
        var horizons: [String: UInt64] = [:]
        func survives(_ name: String, _ position: UInt64, _ generator: inout Generator) -> Bool {
            guard names == .bySyncOfTheirDirectory else { return position < journal }
            let parent = (name as NSString).deletingLastPathComponent
            let horizon =
                horizons[parent] ?? reached(max(forcedAll, forcedNames[parent] ?? 0), &generator)
            horizons[parent] = horizon
            return position < horizon
        }
        // What the running system sees, and what of it is on the disk.
        var live: [String: Int] = [:]
        var present: [String: Int] = [:]
        var lostDirectories: Set<String> = []
        for (position, change) in nameChanges {
            switch change {
            case .create(let name, let file):
                live[name] = file
                if survives(name, position, &generator) { present[name] = file }
            case .unlink(let name):
                live[name] = nil
                if survives(name, position, &generator) { present[name] = nil }
            case .rename(let old, let new):
                let file = live.removeValue(forKey: old)
                live[new] = file
                if survives(old, position, &generator) { present[old] = nil }
                if survives(new, position, &generator) { present[new] = file }
            case .makeDirectory(let name):
                if survives(name, position, &generator) {
                    lostDirectories.remove(name)
                } else {
                    lostDirectories.insert(name)
                }
            }
        }
        guard !lostDirectories.isEmpty else { return present }
        return present.filter { name, _ in
            !lostDirectories.contains { name.hasPrefix($0 + "/") }
        }
    }

    private func keep(
        _ change: Change, _ losses: Int, in content: inout [UInt8], _ generator: inout Generator
    ) {
        if losses == 0 { return }
        if losses == 1 { return apply(change, to: &content) }
        switch generator.next(below: 3) {
        case 0: break
        case 1: apply(change, to: &content)
        default:
            // Torn: some of its sectors.
            var start = change.data.lowerBound
            while start < change.data.upperBound {
                let offset = Int(change.offset) + start - change.data.lowerBound
                let room = Self.sectorByteCount - offset % Self.sectorByteCount
                let end = min(start + room, change.data.upperBound)
                if generator.next(below: 2) == 0 { put(start..<end, at: offset, in: &content) }
                start = end
            }
        }
    }
}
