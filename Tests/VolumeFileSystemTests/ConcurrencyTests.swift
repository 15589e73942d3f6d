import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// Many threads at once, as FUSE calls.
@Suite struct ConcurrencyTests {
    /// Runs a body on threads of its own: tasks would share too few.
    private func threads(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Void) async -> [String] {
        let failures = Mutex<[String]>([])
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let left = Mutex(count)
            for index in 0..<count {
                Thread.detachNewThread {
                    do {
                        try body(index)
                    } catch {
                        failures.withLock { $0.append("thread \(index): \(error)") }
                    }
                    let isLast = left.withLock { left in
                        left -= 1
                        return left == 0
                    }
                    if isLast { continuation.resume() }
                }
            }
        }
        return failures.withLock { $0 }
    }

    private struct Wrong: Error {
        let what: String
    }

    /// - Parameter other: a file system on the same head; nil: the volume's own.
    private static func read(
        _ volume: TestVolume, _ inode: InodeNumber, _ range: Range<Int>, by other: VolumeFileSystem? = nil
    ) throws -> [UInt8] {
        let fileSystem = other ?? volume.fileSystem
        var bytes = [UInt8](repeating: 0xee, count: range.count)
        while true {
            do throws(FileSystemError) {
                var failure: FileSystemError?
                let count = bytes.withUnsafeMutableBytes { buffer -> Int in
                    do throws(FileSystemError) {
                        return try fileSystem.read(
                            inode, handle: FileHandle(inode.number), offset: UInt64(range.lowerBound),
                            into: buffer)
                    } catch {
                        failure = error
                        return 0
                    }
                }
                if let failure { throw failure }
                return Array(bytes.prefix(count))
            } catch {
                guard case .fault(let fault) = error else { throw error }
                let done = DispatchSemaphore(value: 0)
                let outcome = Mutex<FileSystemError?>(nil)
                Task {
                    do throws(FileSystemError) {
                        try await fileSystem.resolve(fault)
                    } catch {
                        outcome.withLock { $0 = error }
                    }
                    done.signal()
                }
                done.wait()
                if let error = outcome.withLock({ $0 }) { throw error }
            }
        }
    }

    /// Each thread knows what its file holds; others change theirs, settle, and bytes arrive.
    @Test func eachThreadFindsWhatItWroteWhateverTheOthersDo() async throws {
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        var generator = Generator(seed: 3)
        var contents: [InodeNumber: [UInt8]] = [:]
        for index in 0..<6 {
            let inode = try owner.create("f\(index)")
            let bytes = generator.bytes(200_000)
            try owner.write(inode, at: 0, bytes)
            contents[inode] = bytes
        }
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        try await owner.close()
        let all = contents
        let source = FakeSource({ all[$0] }) { $0.answerByteCount = 10_000 }
        var configuration = Hydrator.Configuration()
        configuration.batchByteCount = 8192
        let volume = try TestVolume(
            opening: directory, source: source, configuration: configuration, openFileLimit: 16)
        volume.startHydration()
        let inodes = all.keys.sorted()
        let failures = await threads(inodes.count + 1) { index in
            var generator = Generator(seed: UInt64(100 + index))
            guard index < inodes.count else {
                for _ in 0..<40 {
                    try volume.storage.settle()
                    usleep(2000)
                }
                return
            }
            let inode = inodes[index]
            var content = all[inode] ?? []
            for step in 0..<150 {
                let offset = generator.next(below: content.count + 1)
                switch generator.next(below: 10) {
                case 0...4:
                    let bytes = generator.bytes(1 + generator.next(below: 9000))
                    try volume.write(inode, at: offset, bytes)
                    content.replaceSubrange(offset..<min(content.count, offset + bytes.count), with: bytes)
                case 5:
                    let size = generator.next(below: 4) == 0 ? 0 : generator.next(below: 250_000)
                    try volume.truncate(inode, to: size)
                    content =
                        Array(content.prefix(size))
                        + [UInt8](repeating: 0, count: max(0, size - content.count))
                case 6:
                    try volume.synchronize(inode, dataOnly: step % 2 == 0)
                default:
                    let range = offset..<offset + 1 + generator.next(below: 20_000)
                    let found = try Self.read(volume, inode, range)
                    guard found == Array(content[range.clamped(to: 0..<content.count)]) else {
                        throw Wrong(what: "step \(step): \(range) of inode \(inode) is another")
                    }
                }
            }
            let found = try Self.read(volume, inode, 0..<content.count + 1)
            guard found == content else { throw Wrong(what: "the end of inode \(inode) is another") }
        }
        #expect(failures.isEmpty, "\(failures)")
        await volume.stopHydration()
        #expect(try CatalogImage(volume.storage.catalog).faults() == [])
        #expect(
            try volume.storage.catalog.perform { $0.missingByteCount }
                == countMissingBytes(volume.storage.catalog))
        try await volume.close()
    }

    @Test func writesBesideATruncationToNothingAreNeitherLostNorTorn() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let inode = try volume.create("f")
        let failures = await threads(3) { index in
            for round in 0..<300 {
                switch index {
                case 0: try volume.truncate(inode, to: 0)
                case 1: try volume.write(inode, at: 0, [UInt8](repeating: 7, count: 5000))
                default:
                    if round % 20 == 0 { try volume.storage.settle() }
                    let found = try Self.read(volume, inode, 0..<5000)
                    // Nothing yet or all sevens; zeros only where a cut came between.
                    guard found.isEmpty || found.allSatisfy({ $0 == 7 || $0 == 0 }) else {
                        throw Wrong(what: "bytes that nobody wrote")
                    }
                }
            }
        }
        #expect(failures.isEmpty, "\(failures)")
        // Whatever came first: what the attributes say is what there is.
        try volume.write(inode, at: 0, [UInt8](repeating: 7, count: 5000))
        #expect(try await volume.read(inode, 0..<9000) == [UInt8](repeating: 7, count: 5000))
        try volume.storage.settle()
        // With the end also those go that were made ahead.
        try await volume.close()
        let left = try FileManager.default.subpathsOfDirectory(atPath: volume.directory + "/data")
            .filter { $0.contains("/") }
        #expect(left.count == 1, "\(left.count) data files for one file")
    }

    @Test func namesStayConsistentWhateverIsMovedAtOnce() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        var directories = [InodeNumber.root]
        for name in ["x", "y"] {
            directories.append(
                try volume.fileSystem.makeDirectory(
                    Array(name.utf8), in: .root, permissions: 0o755, caller: .root
                ).inode)
        }
        let places = directories
        let failures = await threads(4) { index in
            var generator = Generator(seed: UInt64(index))
            for _ in 0..<400 {
                let name = [UInt8(ascii: "a") + UInt8(generator.next(below: 4))]
                let other = [UInt8(ascii: "a") + UInt8(generator.next(below: 4))]
                let from = places[generator.next(below: 3)]
                let to = places[generator.next(below: 3)]
                do {
                    switch generator.next(below: 6) {
                    case 0: _ = try volume.create(String(decoding: name, as: UTF8.self), in: from)
                    case 1:
                        _ = try volume.fileSystem.makeDirectory(
                            name, in: from, permissions: 0o755, caller: .root)
                    case 2: try volume.fileSystem.unlink(name, in: from)
                    case 3: try volume.fileSystem.removeDirectory(name, in: from)
                    case 4:
                        try volume.fileSystem.rename(name, in: from, to: other, in: to, rule: .replace)
                    default:
                        try volume.fileSystem.rename(name, in: from, to: other, in: to, rule: .exchange)
                    }
                } catch FileSystemError.errno(let errno) where errno != .inputOutput && errno != .stale {
                    continue
                }
            }
        }
        #expect(failures.isEmpty, "\(failures)")
        try volume.fileSystem.finish()
        #expect(try CatalogImage(volume.storage.catalog).faults() == [])
        try await volume.close()
    }

    @Test func nothingChangesAfterAFenceHasReturned() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let inode = try volume.create("f")
        try volume.write(inode, at: 0, [UInt8](repeating: 0, count: 1 << 16))
        let sealed = Mutex<(SequenceNumber, [UInt8])?>(nil)
        let reader = VolumeFileSystem(storage: volume.storage, hydrator: nil, access: .readOnly) { _ in }
        let failures = await threads(4) { index in
            if index == 0 {
                usleep(20_000)
                volume.fileSystem.fence()
                try volume.storage.catalog.synchronize()
                let sequence = try volume.storage.catalog.perform { $0.committedSequence }
                let bytes = try Self.read(volume, inode, 0..<1 << 16, by: reader)
                sealed.withLock { $0 = (sequence, bytes) }
                return
            }
            for round in 0... {
                do {
                    try volume.write(
                        inode, at: index * 4096, [UInt8](repeating: UInt8(round % 251), count: 4096))
                    if round % 5 == 0 { _ = try volume.create("n\(index)-\(round)") }
                } catch FileSystemError.errno(.stale) {
                    return
                }
            }
        }
        #expect(failures.isEmpty, "\(failures)")
        let (sequence, bytes) = try #require(sealed.withLock { $0 })
        try volume.storage.settle()
        #expect(try volume.storage.catalog.perform { $0.committedSequence }.number <= sequence.number + 1)
        #expect(try Self.read(volume, inode, 0..<1 << 16, by: reader) == bytes)
        try await volume.close()
    }

    /// What was fenced while it was being committed may be in no later state.
    @Test func aSyncThatAFenceOvertakesIsNotAcknowledged() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let inode = try volume.create("f")
        try volume.write(inode, at: 0, [1])
        let isHeld = DispatchSemaphore(value: 0)
        let failures = await threads(2) { index in
            if index == 0 {
                // Whoever syncs waits for the catalog meanwhile.
                try volume.storage.catalog.perform { _ in
                    isHeld.signal()
                    usleep(200_000)
                    volume.fileSystem.fence()
                }
                return
            }
            isHeld.wait()
            do throws(FileSystemError) {
                try volume.synchronize(inode)
            } catch {
                guard error == .errno(.stale) else { throw error }
                return
            }
            throw Wrong(what: "what was synced was acknowledged after the fence")
        }
        #expect(failures.isEmpty, "\(failures)")
        try await volume.close()
    }
}
