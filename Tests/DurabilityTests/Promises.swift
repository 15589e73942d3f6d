import EngineTestSupport
import Foundation
import Synchronization
import VolumeFileSystem
import VolumeModel

/// The promises of several writers.
final class PromiseLog: Sendable {
    private let promises = Mutex(Promises())

    func change(_ body: (inout Promises) -> Void) { promises.withLock { body(&$0) } }
    var all: Promises { promises.withLock { $0 } }
}

/// What a block must be at least.
struct Least: Hashable, Sendable {
    var generation: UInt32 = 0
    var mayBeZero = true

    func allows(_ found: UInt32?) -> Bool { found.map { $0 >= generation } ?? mayBeZero }
}

/// What was promised, and from which moment on.
struct Promises: Sendable {
    /// Blocks of a file in place: from then on none is older than this.
    struct Synced: Sendable {
        var moment: UInt64
        var blocks: [Least] = []
        /// Of all behind them, should there be any.
        var rest = Least()
    }

    /// What is known from a moment on, until the next one; nil: nothing.
    struct Known<Value: Sendable>: Sendable {
        var moment: UInt64
        let value: Value?
    }

    var contents: [String: [Synced]] = [:]
    /// Files that were replaced by rename, with the least generation that they must be.
    var replaced: [String: [Known<UInt32>]] = [:]
    /// Names that are there, or not.
    var names: [String: [Known<Bool>]] = [:]
    /// Second names, and of what.
    var links: [String: String] = [:]
    /// Pairs of files, `…a` and `…b`, that trade places: whether they have. Never is one of them missing.
    var pairs: [String: [Known<Bool>]] = [:]
    /// Files that go from one directory to another: where they are. They are always in one of them.
    var places: [String: [Known<Int>]] = [:]
    /// The least value of a file's extended attribute.
    var attributes: [String: [Known<UInt32>]] = [:]
    /// What a `TreeWriter` was promised.
    var tree: [String: [TreePromise]] = [:]

    static let attributeName = "user.generation"
    static func place(_ name: String, _ number: Int) -> String { "\(name)\(number)/moving" }

    var first: UInt64? {
        (contents.values.flatMap { $0.map(\.moment) } + names.values.flatMap { $0.map(\.moment) }).min()
    }

    /// All names that anything is promised of.
    var allNames: Set<String> {
        var all = Set(contents.keys).union(replaced.keys).union(names.keys).union(links.keys)
        all.formUnion(attributes.keys)
        for pair in pairs.keys { all.formUnion([pair + "a", pair + "b"]) }
        for place in places.keys { all.formUnion([0, 1].map { Self.place(place, $0) }) }
        return all
    }

    func broken(at moment: UInt64, in volume: TestVolume) async -> [String] {
        var faults: [String] = []
        for (name, promises) in contents {
            let promise = promises.last { $0.moment <= moment } ?? Synced(moment: 0)
            faults += await Block.faults(of: name, promise, in: volume)
        }
        for (name, least) in Self.known(replaced, at: moment) {
            let blocks = await Block.read(name, volume)
            if blocks?.count != Block.replacedCount || Set(blocks ?? []).count != 1
                || blocks?[0].map({ $0 < least }) ?? true
            {
                faults.append(
                    "\(name) was replaced by generation \(least) and is \(String(describing: blocks))")
            }
        }
        for (name, exists) in Self.known(names, at: moment) {
            let isThere = Block.look(name, volume.fileSystem) != nil
            if isThere != exists { faults.append("\(name) is there: \(isThere), promised: \(exists)") }
        }
        for (name, target) in links {
            guard let link = Block.look(name, volume.fileSystem) else { continue }
            if link.inode != Block.look(target, volume.fileSystem)?.inode {
                faults.append("\(name) is no name of \(target)")
            }
        }
        for (name, least) in Self.known(attributes, at: moment) {
            let value = Block.look(name, volume.fileSystem).flatMap {
                try? volume.fileSystem.extendedAttribute(Array(Self.attributeName.utf8), of: $0.inode)
            }
            let found = value.flatMap { UInt32(String(decoding: $0, as: UTF8.self)) }
            if found.map({ $0 < least }) ?? true {
                faults.append("\(name) had attribute \(least) and has \(String(describing: found))")
            }
        }
        faults += await TreePromise.broken(tree, at: moment, in: volume)
        return await faults + brokenMoves(at: moment, in: volume)
    }

    /// Of what is one change, nobody ever sees half.
    private func brokenMoves(at moment: UInt64, in volume: TestVolume) async -> [String] {
        var faults: [String] = []
        for (name, promises) in pairs where promises[0].moment <= moment {
            let wanted = promises.last { $0.moment <= moment }?.value
            let (first, second) = (name + "a", name + "b")
            let isAsBefore = await Block.areWhole([(first, first), (second, second)], volume)
            let isExchanged = await Block.areWhole([(first, second), (second, first)], volume)
            if isAsBefore == isExchanged || (wanted ?? isExchanged) != isExchanged {
                faults.append(
                    "\(name): as before: \(isAsBefore), exchanged: \(isExchanged), promised: \(wanted as Any)"
                )
            }
        }
        for (name, promises) in places where promises[0].moment <= moment {
            let wanted = promises.last { $0.moment <= moment }?.value
            let found = [0, 1].filter { Block.look(Self.place(name, $0), volume.fileSystem) != nil }
            let isWhole = await Block.areWhole(found.map { (Self.place(name, $0), name) }, volume)
            if found.count != 1 || !isWhole || (wanted ?? found[0]) != found[0] {
                faults.append("\(name) is in \(found), whole: \(isWhole), promised: \(wanted as Any)")
            }
        }
        return faults
    }

    private static func known<Value>(
        _ promises: [String: [Known<Value>]], at moment: UInt64
    ) -> [(String, Value)] {
        promises.compactMap { name, all in
            all.last { $0.moment <= moment }?.value.map { (name, $0) }
        }
    }
}

/// A block of 4 KiB that tells which file, place and generation it is of, throughout.
enum Block {
    static let byteCount = 4096
    static let replacedCount = 5

    /// Sixteen bytes say it, and every sixteen of the block say it anew: a torn block tells of itself.
    private static func word(_ name: String, _ index: Int, _ generation: UInt32) -> [UInt8] {
        var hash = UInt64(generation) &+ 0x9e37_79b9_7f4a_7c15
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        hash = (hash ^ UInt64(index)) &* 0x2545_f491_4f6c_dd1d
        var word: [UInt8] = []
        withUnsafeBytes(of: generation) { word += $0 }
        word += [0x67, 0x64, 0x77, 0x74]
        withUnsafeBytes(of: hash) { word += $0 }
        return word
    }

    static func bytes(_ name: String, _ index: Int, _ generation: UInt32) -> [UInt8] {
        Array(repeatElement(word(name, index, generation), count: byteCount / 16).joined())
    }

    /// The generation that a part of a block tells of.
    ///
    /// - Returns: nil for zeros; .max for anything that was never written there.
    private static func generation(
        of part: UnsafeRawBufferPointer, _ name: String, _ index: Int
    ) -> UInt32? {
        guard let start = part.baseAddress, part.count > 16 else { return .max }
        // Whether all words are the same.
        guard memcmp(start, start + 16, part.count - 16) == 0 else { return .max }
        let first = Array(part.prefix(16))
        if first.allSatisfy({ $0 == 0 }) { return nil }
        let generation = part.loadUnaligned(as: UInt32.self)
        return first == word(name, index, generation) ? generation : .max
    }

    static func look(_ name: String, _ fileSystem: VolumeFileSystem) -> FileAttributes? {
        var parent = InodeNumber.root
        var found: FileAttributes?
        for part in name.split(separator: "/") {
            guard let next = try? fileSystem.lookup(Array(part.utf8), in: parent) else { return nil }
            parent = next.inode
            found = next
        }
        return found
    }

    /// What a file holds that another site has made.
    static func arrived(_ name: String) -> [UInt8] {
        (0..<Writer.arrivedBlockCount).flatMap { bytes(name, $0, 1) }
    }

    /// - Returns: whole blocks; nil when there is no such file, or when it cannot be read.
    private static func contents(of name: String, _ volume: TestVolume) async -> [UInt8]? {
        guard let attributes = look(name, volume.fileSystem) else { return nil }
        let size = (Int(attributes.size) + byteCount - 1) / byteCount * byteCount
        guard let bytes = try? await volume.read(attributes.inode, 0..<size) else { return nil }
        return bytes + [UInt8](repeating: 0, count: size - bytes.count)
    }

    private static func blocks(_ contents: [UInt8]) -> [ArraySlice<UInt8>] {
        stride(from: 0, to: contents.count, by: byteCount).map { contents[$0..<$0 + byteCount] }
    }

    /// The generations of a file's blocks; nil for a block of zeros.
    ///
    /// - Parameter writer: the name under which it was written, if that was another one.
    /// - Returns: nil when there is no such file; a block that is neither has the generation .max.
    static func read(_ name: String, as writer: String? = nil, _ volume: TestVolume) async -> [UInt32?]? {
        await contents(of: name, volume).map { contents in
            blocks(contents).enumerated().map { index, block in
                block.withUnsafeBytes { generation(of: $0, writer ?? name, index) }
            }
        }
    }

    /// Whether files are such as were written once, as a whole, under another name each.
    static func areWhole(_ files: [(name: String, writer: String)], _ volume: TestVolume) async -> Bool {
        for (name, writer) in files {
            let blocks = await read(name, as: writer, volume)
            guard blocks == Array(repeating: 1, count: replacedCount) else { return false }
        }
        return true
    }

    /// Holds a file that is written in place against what was synced.
    static func faults(of name: String, _ promise: Promises.Synced, in volume: TestVolume) async -> [String] {
        guard let contents = await contents(of: name, volume) else {
            // What was never synced may be short of bytes, which are zeros then, and no error.
            if look(name, volume.fileSystem) != nil { return ["\(name) cannot be read"] }
            return promise.blocks.isEmpty ? [] : ["\(name) was synced and is not there"]
        }
        let blocks = blocks(contents)
        var faults: [String] = []
        if blocks.count < promise.blocks.count {
            faults.append("\(name) had \(promise.blocks.count) blocks and has \(blocks.count)")
        }
        for (index, block) in blocks.enumerated() {
            let wanted = index < promise.blocks.count ? promise.blocks[index] : promise.rest
            let found = block.withUnsafeBytes { generation(of: $0, name, index) }
            // A write that was not synced may be torn over what was there; what was synced last is whole unless
            // a later one began, so that only strange bytes where nothing was ever torn are told.
            if found == .max {
                if !isTorn(block, name, index, atLeast: wanted) {
                    faults.append("\(name), block \(index): bytes of nowhere")
                }
            } else if !wanted.allows(found) {
                faults.append("\(name), block \(index): generation \(found ?? 0), synced was \(wanted)")
            }
        }
        return faults
    }

    /// Whether each sector is of this block, of no generation older than the synced one.
    private static func isTorn(
        _ block: ArraySlice<UInt8>, _ name: String, _ index: Int, atLeast wanted: Least
    ) -> Bool {
        for start in stride(from: 0, to: byteCount, by: 512) {
            let sector = block.withUnsafeBytes { bytes in
                generation(of: UnsafeRawBufferPointer(rebasing: bytes[start..<start + 512]), name, index)
            }
            guard sector != .max, wanted.allows(sector) else { return false }
        }
        return true
    }
}
