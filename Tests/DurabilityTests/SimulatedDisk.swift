import EngineTestSupport
import Foundation

/// What a disk may hold after the power failed at some moment, from the notes of `recorder.c`.
///
/// As ext4 does it (data=writeback, the worst of its modes):
/// - What a sync covered is there. Any other write is there, or not, or a part of its sectors is.
/// - Names, sizes that were cut, and files made or removed go through a journal: they survive in their order,
///   up to some point, which is behind every sync of anything.
struct SimulatedDisk {
    private enum Kind: UInt32 {
        case write = 1
        case truncate, allocate, sync, syncAll, create, unlink, rename, mkdir
    }

    private struct Note {
        let kind: Kind
        let position: UInt64
        let text: String
        let a: UInt64
        let b: UInt64
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
    }

    private static let sectorByteCount = 512
    private let log: [UInt8]
    private var notes: [Note] = []
    private var applied = 0
    private var files: [File] = []
    private var fileOfInode: [UInt64: Int] = [:]
    private var names: [(position: UInt64, change: NameChange)] = []
    /// Everything in the journal before this has reached the disk.
    private var forced: UInt64 = 0

    init(log path: String) throws {
        log = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
        var position = 0
        func number(_ at: Int, _ count: Int) -> UInt64 {
            (0..<count).reduce(0) { $0 | UInt64(log[at + $1]) << UInt64(8 * $1) }
        }
        while position + 40 <= log.count {
            let textCount = Int(number(position + 4, 4))
            let dataCount = Int(number(position + 32, 8))
            let text = position + 40
            let end = text + textCount + dataCount
            guard let kind = Kind(rawValue: UInt32(number(position, 4))), end <= log.count else { break }
            notes.append(
                Note(
                    kind: kind, position: UInt64(position),
                    text: String(decoding: log[text..<text + textCount], as: UTF8.self),
                    a: number(position + 8, 8), b: number(position + 16, 8),
                    data: text + textCount..<end))
            position = end
        }
    }

    /// The ends of all notes: the moments at which the power may fail.
    var moments: [UInt64] { notes.map { UInt64($0.data.upperBound) } }

    // MARK: time

    /// Goes on to a moment, not back.
    mutating func advance(to moment: UInt64) {
        while applied < notes.count, UInt64(notes[applied].data.upperBound) <= moment {
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
                    count: note.kind == .allocate ? allocationCount(note) : count, mode: mode,
                    data: note.data))
        case .sync:
            force(before: note.b)
            if let file = fileOfInode[note.a] { settle(file, before: note.b) }
        case .syncAll:
            force(before: note.b)
            for file in files.indices { settle(file, before: note.b) }
        case .create:
            files.append(File())
            fileOfInode[note.a] = files.count - 1
            names.append((note.position, .create(note.text, file: files.count - 1)))
        case .unlink: names.append((note.position, .unlink(note.text)))
        case .rename:
            names.append(
                (note.position, .rename(note.text, String(decoding: log[note.data], as: UTF8.self))))
        case .mkdir: break
        }
    }

    /// The third number of an allocation's note.
    private func allocationCount(_ note: Note) -> UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(log[Int(note.position) + 24 + $1]) << UInt64(8 * $1) }
    }

    private mutating func force(before position: UInt64) { forced = max(forced, position) }

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
    ///   - leavingOut: files whose loss means nothing.
    func write(
        to directory: String, below: String, leavingOut: (String) -> Bool, _ generator: inout Generator
    ) throws {
        let now = applied < notes.count ? notes[applied].position : UInt64(log.count)
        // How far the journal has come: as far as it must, or to the end, or somewhere between.
        let journal: UInt64 =
            switch generator.next(below: 3) {
            case 0: forced
            case 1: now
            default: forced + UInt64(generator.next(below: Int(now - min(forced, now)) + 1))
            }
        var present: [String: Int] = [:]
        for (position, change) in names where position < max(forced, journal) {
            switch change {
            case .create(let name, let file): present[name] = file
            case .unlink(let name): present[name] = nil
            case .rename(let old, let new):
                if let file = present.removeValue(forKey: old) { present[new] = file }
            }
        }
        // Each write of a file is lost, or none, or some.
        let losses = generator.next(below: 4)
        for (name, file) in present.sorted(by: { $0.key < $1.key }) where name.hasPrefix(below) {
            let relative = String(name.dropFirst(below.count))
            guard !leavingOut(relative) else { continue }
            var content = files[file].durable
            for change in files[file].pending {
                if change.kind == .write {
                    keep(change, losses, in: &content, &generator)
                } else if change.position < max(forced, journal) {
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
