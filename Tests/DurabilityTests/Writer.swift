import CTestBed
import EngineTestSupport
import Foundation
import Glibc

@testable import TestBed

/// Changes files of its own on a mount and notes what each sync has promised.
struct Writer {
    private struct File {
        var blocks: [Least] = []
        /// Of what is behind them.
        var rest = Least()
    }

    let number: Int
    let mountPoint: String
    let log: String
    private var generator: Generator
    private var generation: UInt32 = 0
    private var files: [String: File] = [:]
    private var isExchanged = false
    private var place = 0

    /// How many blocks of generation 1 each file has that came from elsewhere.
    static let arrivedBlockCount = 24

    /// - Parameter finds: whether its directory and files are there already, as `arrivedFiles` makes them.
    init(number: Int, mountPoint: String, log: String, seed: UInt64, finds: Bool = false) {
        if finds {
            generation = 1
            let block = Least(generation: 1, mayBeZero: false)
            let blocks = Array(repeating: block, count: Self.arrivedBlockCount)
            for name in Self.arrivedFiles(of: number) { files[name] = File(blocks: blocks) }
        }
        self.number = number
        self.mountPoint = mountPoint
        self.log = log
        generator = Generator(seed: seed)
    }

    static func arrivedFiles(of number: Int) -> [String] { (0..<6).map { "w\(number)/f\($0)" } }

    /// How much was recorded by now: a promise made now must hold from there on.
    private func now() throws -> UInt64 {
        var status = stat()
        try check(stat(log, &status), "stat")
        return UInt64(status.st_size)
    }

    private func check(_ result: some BinaryInteger, _ call: String) throws {
        let number = errno
        guard result < 0 else { return }
        throw LabError.systemCall(call, detail: "writer \(self.number)", errno: number)
    }

    mutating func run(steps: Int, _ promises: PromiseLog) throws {
        let directory = "w\(number)"
        if files.isEmpty {
            try check(mkdir("\(mountPoint)/\(directory)", 0o755), "mkdir")
            try synchronize(directory: "")
        }
        for (name, file) in files { try promise(name, file, promises) }
        try makePair(directory + "/x", promises)
        try makeMoving(directory + "/e", promises)
        for step in 0..<steps {
            let name = "\(directory)/f\(generator.next(below: 6))"
            switch generator.next(below: 22) {
            case 0...4: try writeInPlace(name, promises)
            case 5: try cut(name, promises)
            case 6...7: try replace("\(directory)/r\(generator.next(below: 2))", promises)
            case 8...10: try makeAndRemove("\(directory)/n\(step)", promises)
            case 11...12: try writeMapped(name, promises)
            case 13...14: try writeSynchronously(name, promises)
            case 15...17: try makeZero(name, promises)
            case 18: try link(name, "\(directory)/l\(step)", promises)
            case 19: try setAttribute(name, promises)
            case 20: try exchange(directory + "/x", promises)
            default: try move(directory + "/e", promises)
            }
        }
    }

    private func path(_ name: String) -> String { "\(mountPoint)/\(name)" }

    private func opened(_ name: String, _ flags: Int32, _ body: (Int32) throws -> Void) throws {
        let descriptor = open(path(name), flags, 0o644)
        try check(descriptor, "open")
        defer { close(descriptor) }
        try body(descriptor)
    }

    private func synchronize(directory: String) throws {
        try opened(directory, O_RDONLY | O_DIRECTORY) { try check(fsync($0), "fsync") }
    }

    private func write(_ block: [UInt8], _ index: Int, to descriptor: Int32) throws {
        let count = pwrite(descriptor, block, block.count, off_t(index * Block.byteCount))
        try check(count, "pwrite")
        guard count == block.count else { throw LabError.invalid("a write was cut short") }
    }

    /// A block of a new generation.
    private mutating func next(_ name: String, _ index: Int, of file: inout File) -> [UInt8] {
        generation += 1
        while file.blocks.count <= index { file.blocks.append(file.rest) }
        file.blocks[index] = Least(generation: generation, mayBeZero: false)
        return Block.bytes(name, index, generation)
    }

    // MARK: promises

    private func promise(_ name: String, _ file: File, _ promises: PromiseLog) throws {
        let moment = try now()
        promises.change {
            $0.contents[name, default: []].append(
                Promises.Synced(moment: moment, blocks: file.blocks, rest: file.rest))
        }
    }

    private func promise<Value>(
        _ kind: WritableKeyPath<Promises, [String: [Promises.Known<Value>]]>, _ name: String, _ value: Value?,
        _ promises: PromiseLog
    ) throws {
        let moment = try now()
        promises.change {
            $0[keyPath: kind][name, default: []].append(Promises.Known(moment: moment, value: value))
        }
    }

    // MARK: bytes

    private mutating func writeInPlace(_ name: String, _ promises: PromiseLog) throws {
        var file = files[name] ?? File()
        let isSynced = generator.next(below: 3) > 0
        try opened(name, O_RDWR | O_CREAT) { descriptor in
            for _ in 0..<1 + generator.next(below: 4) {
                let index = generator.next(below: min(24, file.blocks.count + 3))
                try write(next(name, index, of: &file), index, to: descriptor)
            }
            guard isSynced else { return }
            try check(generator.next(below: 2) == 0 ? fsync(descriptor) : fdatasync(descriptor), "fsync")
        }
        files[name] = file
        guard isSynced else { return }
        // As on ext4 the file's own sync keeps its name as well, if it is new.
        if generator.next(below: 2) == 0 { try synchronize(directory: "w\(number)") }
        try promise(name, file, promises)
    }

    /// Through a mapping, made safe by msync(2).
    private mutating func writeMapped(_ name: String, _ promises: PromiseLog) throws {
        guard var file = files[name], !file.blocks.isEmpty else { return }
        try opened(name, O_RDWR) { descriptor in
            let count = file.blocks.count * Block.byteCount
            let mapped = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
            guard let mapped, mapped != MAP_FAILED else {
                throw LabError.systemCall("mmap", detail: name, errno: errno)
            }
            defer { munmap(mapped, count) }
            for _ in 0..<1 + generator.next(below: 3) {
                let index = generator.next(below: file.blocks.count)
                let bytes = next(name, index, of: &file)
                memcpy(mapped + index * Block.byteCount, bytes, bytes.count)
            }
            try check(msync(mapped, count, Int32(MS_SYNC)), "msync")
        }
        files[name] = file
        try synchronize(directory: "w\(number)")
        try promise(name, file, promises)
    }

    /// With O_SYNC or O_DSYNC each write is safe when it returns.
    private mutating func writeSynchronously(_ name: String, _ promises: PromiseLog) throws {
        guard var file = files[name] else { return }
        // What came before must be safe, for the promise is about the whole file.
        try opened(name, O_RDWR) { try check(fsync($0), "fsync") }
        try synchronize(directory: "w\(number)")
        try opened(name, O_RDWR | (generator.next(below: 2) == 0 ? O_SYNC : O_DSYNC)) { descriptor in
            for _ in 0..<1 + generator.next(below: 3) {
                let index = generator.next(below: min(24, file.blocks.count + 2))
                try write(next(name, index, of: &file), index, to: descriptor)
                try promise(name, file, promises)
            }
        }
        files[name] = file
    }

    /// Punches a hole, or zeros a range: what was there must not come back.
    private mutating func makeZero(_ name: String, _ promises: PromiseLog) throws {
        guard var file = files[name], !file.blocks.isEmpty else { return }
        let start = generator.next(below: file.blocks.count)
        let end = min(file.blocks.count, start + 1 + generator.next(below: 3))
        try opened(name, O_RDWR) { descriptor in
            try check(fsync(descriptor), "fsync")
            for index in start..<end { file.blocks[index].mayBeZero = true }
            try synchronize(directory: "w\(number)")
            try promise(name, file, promises)
            // FALLOC_FL_PUNCH_HOLE or FALLOC_FL_ZERO_RANGE, both with FALLOC_FL_KEEP_SIZE.
            let mode: Int32 = generator.next(below: 2) == 0 ? 3 : 17
            let result = tb_fallocate(
                descriptor, mode, Int64(start * Block.byteCount), Int64((end - start) * Block.byteCount))
            guard result == 0 else { throw LabError.systemCall("fallocate", detail: name, errno: -result) }
            try check(fsync(descriptor), "fsync")
        }
        generation += 1
        for index in start..<end { file.blocks[index] = Least(generation: generation) }
        files[name] = file
        try promise(name, file, promises)
    }

    /// Cuts a file to nothing and writes the same places anew: nothing of its older life may come back.
    private mutating func cut(_ name: String, _ promises: PromiseLog) throws {
        guard var file = files[name], !file.blocks.isEmpty else { return }
        let count = file.blocks.count
        try opened(name, O_RDWR) { descriptor in
            // From here on, until the next promise, the file may be anything between.
            try promise(name, File(), promises)
            try check(ftruncate(descriptor, 0), "ftruncate")
            generation += 1
            file = File(rest: Least(generation: generation))
            for index in 0..<count where generator.next(below: 2) == 0 {
                try write(next(name, index, of: &file), index, to: descriptor)
            }
            try check(fsync(descriptor), "fsync")
        }
        files[name] = file
        try synchronize(directory: "w\(number)")
        try promise(name, file, promises)
    }

    // MARK: names

    /// A file of one generation, written under a name and synced.
    private func makeWhole(_ name: String, as writer: String, _ generation: UInt32) throws {
        try opened(name, O_WRONLY | O_CREAT | O_TRUNC) { descriptor in
            for index in 0..<Block.replacedCount {
                try write(Block.bytes(writer, index, generation), index, to: descriptor)
            }
            try check(fsync(descriptor), "fsync")
        }
    }

    /// Write, sync, rename over, sync the directory: the old or the new, never anything else.
    private mutating func replace(_ name: String, _ promises: PromiseLog) throws {
        generation += 1
        try makeWhole(name + ".tmp", as: name, generation)
        try check(rename(path(name + ".tmp"), path(name)), "rename")
        try synchronize(directory: "w\(number)")
        try promise(\.replaced, name, generation, promises)
    }

    private mutating func makeAndRemove(_ name: String, _ promises: PromiseLog) throws {
        try opened(name, O_WRONLY | O_CREAT) { _ in }
        try synchronize(directory: "w\(number)")
        try promise(\.names, name, true, promises)
        if generator.next(below: 2) == 0 { try remove(name, promises) }
    }

    private func remove(_ name: String, _ promises: PromiseLog) throws {
        try promise(\.names, name, nil, promises)
        try check(unlink(path(name)), "unlink")
        try synchronize(directory: "w\(number)")
        try promise(\.names, name, false, promises)
    }

    private mutating func link(_ name: String, _ other: String, _ promises: PromiseLog) throws {
        guard files[name] != nil else { return }
        promises.change { $0.links[other] = name }
        try check(Glibc.link(path(name), path(other)), "link")
        try synchronize(directory: "w\(number)")
        try promise(\.names, other, true, promises)
        if generator.next(below: 2) == 0 { try remove(other, promises) }
    }

    private mutating func setAttribute(_ name: String, _ promises: PromiseLog) throws {
        guard files[name] != nil else { return }
        generation += 1
        let value = Array(String(generation).utf8)
        let result = tb_set_attribute(path(name), Promises.attributeName, value, value.count)
        guard result == 0 else { throw LabError.systemCall("setxattr", detail: name, errno: -result) }
        try opened(name, O_RDONLY) { try check(fsync($0), "fsync") }
        try synchronize(directory: "w\(number)")
        try promise(\.attributes, name, generation, promises)
    }

    private func makePair(_ name: String, _ promises: PromiseLog) throws {
        for file in [name + "a", name + "b"] { try makeWhole(file, as: file, 1) }
        try synchronize(directory: "w\(number)")
        try promise(\.pairs, name, false, promises)
    }

    private mutating func exchange(_ name: String, _ promises: PromiseLog) throws {
        try promise(\.pairs, name, nil, promises)
        let result = tb_exchange(path(name + "a"), path(name + "b"))
        guard result == 0 else { throw LabError.systemCall("renameat2", detail: name, errno: -result) }
        try synchronize(directory: "w\(number)")
        isExchanged.toggle()
        try promise(\.pairs, name, isExchanged, promises)
    }

    private func makeMoving(_ name: String, _ promises: PromiseLog) throws {
        for number in [0, 1] { try check(mkdir(path("\(name)\(number)"), 0o755), "mkdir") }
        try makeWhole(Promises.place(name, 0), as: name, 1)
        for directory in [name + "0", "w\(number)"] { try synchronize(directory: directory) }
        try promise(\.places, name, 0, promises)
    }

    /// From one directory to another.
    private mutating func move(_ name: String, _ promises: PromiseLog) throws {
        try promise(\.places, name, nil, promises)
        let (old, new) = (Promises.place(name, place), Promises.place(name, 1 - place))
        try check(rename(path(old), path(new)), "rename")
        for number in [0, 1] { try synchronize(directory: "\(name)\(number)") }
        place = 1 - place
        try promise(\.places, name, place, promises)
    }
}
