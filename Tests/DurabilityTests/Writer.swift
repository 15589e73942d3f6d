import EngineTestSupport
import Foundation
import Glibc

@testable import TestBed

/// Changes files of its own on a mount and notes what each sync has promised.
struct Writer {
    private struct File {
        var generations: [UInt32] = []
    }

    let number: Int
    let mountPoint: String
    let log: String
    private var generator: Generator
    private var generation: UInt32 = 0
    private var files: [String: File] = [:]

    /// How many blocks of generation 1 each file has that came from elsewhere.
    static let arrivedBlockCount = 24

    /// - Parameter finds: whether its directory and files are there already, as `arrivedFiles` makes them.
    init(number: Int, mountPoint: String, log: String, seed: UInt64, finds: Bool = false) {
        if finds {
            generation = 1
            let blocks = Array(repeating: UInt32(1), count: Self.arrivedBlockCount)
            for name in Self.arrivedFiles(of: number) { files[name] = File(generations: blocks) }
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
        for step in 0..<steps {
            let name = "\(directory)/f\(generator.next(below: 6))"
            switch generator.next(below: 12) {
            case 0...5: try writeInPlace(name, promises)
            case 6: try cut(name, promises)
            case 7...8: try replace("\(directory)/r\(generator.next(below: 2))", promises)
            default: try makeAndRemove("\(directory)/n\(step)", promises)
            }
        }
    }

    private func synchronize(directory: String) throws {
        let descriptor = open("\(mountPoint)/\(directory)", O_RDONLY | O_DIRECTORY)
        try check(descriptor, "open")
        defer { close(descriptor) }
        try check(fsync(descriptor), "fsync")
    }

    private mutating func writeInPlace(_ name: String, _ promises: PromiseLog) throws {
        let descriptor = open("\(mountPoint)/\(name)", O_RDWR | O_CREAT, 0o644)
        try check(descriptor, "open")
        defer { close(descriptor) }
        var file = files[name] ?? File()
        for _ in 0..<1 + generator.next(below: 4) {
            generation += 1
            let index = generator.next(below: min(24, file.generations.count + 3))
            let bytes = Block.bytes(name, index, generation)
            try check(pwrite(descriptor, bytes, bytes.count, off_t(index * Block.byteCount)), "pwrite")
            while file.generations.count <= index { file.generations.append(0) }
            file.generations[index] = generation
        }
        files[name] = file
        guard generator.next(below: 3) > 0 else { return }
        try check(generator.next(below: 2) == 0 ? fsync(descriptor) : fdatasync(descriptor), "fsync")
        // The file's own sync says nothing of its name, if it is new.
        try synchronize(directory: "w\(number)")
        try promise(name, file, promises)
    }

    private func promise(_ name: String, _ file: File, _ promises: PromiseLog) throws {
        let moment = try now()
        promises.change {
            $0.contents[name, default: []].append(
                Promises.Synced(moment: moment, generations: file.generations))
        }
    }

    /// Cuts a file to nothing and writes the same places anew: nothing of its older life may come back.
    private mutating func cut(_ name: String, _ promises: PromiseLog) throws {
        guard var file = files[name], !file.generations.isEmpty else { return }
        let descriptor = open("\(mountPoint)/\(name)", O_RDWR)
        try check(descriptor, "open")
        defer { close(descriptor) }
        // From here on, until the next promise, the file may be anything between.
        let begun = try now()
        promises.change {
            $0.contents[name, default: []].append(Promises.Synced(moment: begun, generations: []))
        }
        try check(ftruncate(descriptor, 0), "ftruncate")
        let count = file.generations.count
        file.generations = []
        for index in 0..<count where generator.next(below: 2) == 0 {
            generation += 1
            let bytes = Block.bytes(name, index, generation)
            try check(pwrite(descriptor, bytes, bytes.count, off_t(index * Block.byteCount)), "pwrite")
            while file.generations.count <= index { file.generations.append(0) }
            file.generations[index] = generation
        }
        try check(fsync(descriptor), "fsync")
        files[name] = file
        try promise(name, file, promises)
    }

    /// Write, sync, rename over, sync the directory: the old or the new, never anything else.
    private mutating func replace(_ name: String, _ promises: PromiseLog) throws {
        generation += 1
        let temporary = "\(mountPoint)/\(name).tmp"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
        try check(descriptor, "open")
        for index in 0..<Block.replacedCount {
            let bytes = Block.bytes(name, index, generation)
            try check(pwrite(descriptor, bytes, bytes.count, off_t(index * Block.byteCount)), "pwrite")
        }
        try check(fsync(descriptor), "fsync")
        close(descriptor)
        try check(rename(temporary, "\(mountPoint)/\(name)"), "rename")
        try synchronize(directory: "w\(number)")
        let moment = try now()
        promises.change { $0.replaced[name, default: []].append((moment, generation)) }
    }

    private mutating func makeAndRemove(_ name: String, _ promises: PromiseLog) throws {
        let path = "\(mountPoint)/\(name)"
        let descriptor = open(path, O_WRONLY | O_CREAT, 0o644)
        try check(descriptor, "open")
        close(descriptor)
        try synchronize(directory: "w\(number)")
        try promise(name, exists: true, promises)
        guard generator.next(below: 2) == 0 else { return }
        try promise(name, exists: nil, promises)
        try check(unlink(path), "unlink")
        try synchronize(directory: "w\(number)")
        try promise(name, exists: false, promises)
    }

    private func promise(_ name: String, exists: Bool?, _ promises: PromiseLog) throws {
        let moment = try now()
        promises.change { $0.names[name, default: []].append((moment, exists)) }
    }
}
