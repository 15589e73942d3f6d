import ByteStore
import EngineTestSupport
import Foundation
import FuseMount
import Glibc
import Hydration
import PeerService
import Testing
import VolumeFileSystem
import VolumeModel

@testable import TestBed

/// Disks and people that damage data files at random, below a head that was looked through once.
///
/// After the next scrub every damage is named, no read through the mount and none of a peer's gives a wrong byte, and
/// what was not damaged is all there. GODWIT_CORRUPTIONS sets how many damages; GODWIT_CORRUPTION_SEED repeats a run.
@Suite(.serialized, .enabled("no loop device can be mounted here") { await LoopFileSystem.canMount() })
struct CorruptionTests {
    private static let environment = ProcessInfo.processInfo.environment
    private static let count = environment["GODWIT_CORRUPTIONS"].flatMap { Int($0) } ?? 200
    private static let seed =
        environment["GODWIT_CORRUPTION_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0..<1_000_000)
    /// Damages that one scrub has to find.
    private static let together = 40
    private static let fileCount = 30

    private static let page = 4096
    private static let block = 1 << 20

    private struct File {
        let name: String
        let inode: InodeNumber
        let data: String
        let content: [UInt8]

        /// What reads may refuse once a range of it is known to be damaged.
        func blocks(of range: Range<Int>) -> Range<Int> {
            let first = range.lowerBound / block * block
            return first..<min(content.count, (range.upperBound + block - 1) / block * block)
        }
    }

    @Test func everyDamageIsFoundAndNoneIsGivenToAnybody() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let pristine = directory + "/pristine"
            let mountPoint = directory + "/disk"
            try await LoopFileSystem.makeExt4(image: pristine)
            try await LoopFileSystem.mount(pristine, at: mountPoint, cleanup)
            let head = mountPoint + "/head"
            let files = try await Self.makeFiles(in: head)
            #expect(try HeadScrub.run(closed: head, terms: ScrubTerms()).busyFileCount == 0)
            try await LoopFileSystem.unmount(mountPoint)
            var generator = Generator(seed: Self.seed)
            var left = Self.count
            while left > 0 {
                let image = directory + "/image"
                try await ChildProcess.check(Program("cp", ["--sparse=always", pristine, image]))
                let damage = try await Self.damage(
                    files, min(left, Self.together), image, mountPoint, &generator)
                left -= Self.together
                let faults = try await Self.faults(head, files, damage, directory + "/mnt")
                #expect(faults == [], "seed \(Self.seed), with \(left) to go: \(damage)")
                try await LoopFileSystem.unmount(mountPoint)
                if !faults.isEmpty { return }
            }
        }
    }

    private static func makeFiles(in head: String) async throws -> [File] {
        try FileManager.default.createDirectory(atPath: head, withIntermediateDirectories: true)
        let volume = try TestVolume.make(in: head)
        var generator = Generator(seed: seed)
        var files: [(String, InodeNumber, [UInt8])] = []
        for number in 0..<fileCount {
            let inode = try volume.create("f\(number)")
            let content = generator.bytes(page + generator.next(below: number % 5 == 0 ? 3 << 20 : 300_000))
            try volume.write(inode, at: 0, content)
            files.append(("f\(number)", inode, content))
        }
        let numbers = try volume.storage.catalog.perform { state in
            try files.map { try state.inode($0.1)?.data ?? .none }
        }
        try await volume.close()
        return zip(files, numbers).map {
            File(name: $0.0, inode: $0.1, data: "\(head)/data/\(ByteStore.name(of: $1))", content: $0.2)
        }
    }

    /// Damages files of an image and mounts it.
    ///
    /// - Returns: which bytes of each file are not what they were.
    private static func damage(
        _ files: [File], _ count: Int, _ image: String, _ mountPoint: String, _ generator: inout Generator
    ) async throws -> [String: [Range<Int>]] {
        try await LoopFileSystem.mount(image, at: mountPoint, nil)
        var damage: [String: [Range<Int>]] = [:]
        // A person's hand leaves a trace, after which the file's other bytes are taken as they are.
        var order = files.indices.shuffled(using: &generator)
        var touched: Set<String> = []
        var kinds = (0..<count).map { _ in generator.next(below: 5) }
        for kind in kinds where kind >= 3 && touched.count < files.count / 2 {
            let file = files[order.removeLast()]
            touched.insert(file.name)
            if kind == 3 {
                let size = generator.next(below: file.content.count)
                #expect(truncate(file.data, off_t(size)) == 0)
                damage[file.name] = [size..<file.content.count]
            } else {
                #expect(unlink(file.data) == 0)
                damage[file.name] = [0..<file.content.count]
            }
        }
        kinds.removeAll { $0 >= 3 }
        var inodes: [String: UInt64] = [:]
        for file in files where !touched.contains(file.name) {
            var status = stat()
            #expect(stat(file.data, &status) == 0)
            inodes[file.name] = UInt64(status.st_ino)
        }
        try await LoopFileSystem.unmount(mountPoint)
        var changed: Set<[Int]> = []
        for kind in kinds {
            let (one, other) = (
                order.randomElement(using: &generator) ?? 0, order.randomElement(using: &generator) ?? 0
            )
            let first = try place(in: one, files, &changed, &generator)
            guard let first, let inode = inodes[files[one].name] else { continue }
            if kind == 0 {
                let offset = first * page + generator.next(below: page)
                try await LoopFileSystem.flip(image: image, inode: inode, at: UInt64(offset))
                damage[files[one].name, default: []].append(offset..<offset + 1)
                continue
            }
            // Within a file, or between two.
            let target = kind == 1 ? one : other
            guard let second = try place(in: target, files, &changed, &generator),
                let targetInode = inodes[files[target].name]
            else { continue }
            try await LoopFileSystem.swap(
                image: image, (inode, UInt64(first)), (targetInode, UInt64(second)))
            for (file, block) in [(one, first), (target, second)] {
                damage[files[file].name, default: []].append(block * page..<(block + 1) * page)
            }
        }
        try await LoopFileSystem.mount(image, at: mountPoint, nil)
        return damage
    }

    /// A whole page of a file that was not damaged yet: twice could make it good again.
    private static func place(
        in file: Int, _ files: [File], _ changed: inout Set<[Int]>, _ generator: inout Generator
    ) throws -> Int? {
        for _ in 0..<20 {
            let page = generator.next(below: files[file].content.count / page)
            if changed.insert([file, page]).inserted { return page }
        }
        return nil
    }

    // MARK: looking

    private static func faults(
        _ head: String, _ files: [File], _ damage: [String: [Range<Int>]], _ mountPoint: String
    ) async throws -> [String] {
        var faults: [String] = []
        _ = try HeadScrub.run(closed: head, terms: ScrubTerms())
        let findings = try HeadCheck.run(head, isInUse: false).filter { $0.kind == .damage }.map(\.text)
        for file in files {
            let isNamed = findings.contains { $0.hasPrefix("/\(file.name) (") }
            if isNamed != (damage[file.name] != nil) { faults.append("\(file.name) is named: \(isNamed)") }
        }
        let volume = try TestVolume(opening: head)
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
        let mount = try FuseMount(fileSystem: volume.fileSystem, at: mountPoint)
        for file in files {
            let ranges = damage[file.name] ?? []
            faults += try Self.faults(of: file, ranges, at: mountPoint)
            faults += await Self.faults(of: file, ranges, in: volume.storage)
        }
        try await mount.unmount()
        try await volume.close()
        return faults
    }

    /// Through the mount, page by page: the right bytes or EIO, and EIO only near what was damaged.
    private static func faults(of file: File, _ damage: [Range<Int>], at mountPoint: String) throws
        -> [String]
    {
        let descriptor = open("\(mountPoint)/\(file.name)", O_RDONLY)
        guard descriptor >= 0 else { return ["\(file.name) does not open: \(errno)"] }
        defer { close(descriptor) }
        var faults: [String] = []
        var buffer = [UInt8](repeating: 0xee, count: page)
        for start in stride(from: 0, to: file.content.count, by: page) {
            let expected = file.content[start..<min(start + page, file.content.count)]
            let count = pread(descriptor, &buffer, page, off_t(start))
            let isDamaged = damage.contains { $0.overlaps(expected.indices) }
            let mayFail = damage.contains { file.blocks(of: $0).overlaps(expected.indices) }
            if count < 0 {
                if errno != EIO || !mayFail { faults.append("\(file.name) at \(start): errno \(errno)") }
            } else if count != expected.count || !expected.elementsEqual(buffer[..<count]) {
                faults.append("\(file.name) at \(start): \(count) wrong bytes")
            } else if isDamaged {
                faults.append("\(file.name) at \(start): bytes that cannot be right are")
            }
        }
        return faults
    }

    /// What another site is given: the right bytes, or a refusal.
    private static func faults(of file: File, _ damage: [Range<Int>], in storage: HeadStorage) async
        -> [String]
    {
        let reader = HeadReader(storage: storage, hydrator: nil)
        var faults: [String] = []
        for start in stride(from: 0, to: file.content.count, by: 1 << 16) {
            let range = start..<min(start + 1 << 16, file.content.count)
            do {
                let extent = Extent(
                    inode: file.inode, range: ByteRange(UInt64(range.lowerBound), UInt64(range.upperBound)))
                var given = [UInt8](repeating: 0, count: range.count)
                var end = range.lowerBound
                for piece in try await reader.read([extent], maximumByteCount: 1 << 20) {
                    let (from, to) = (Int(piece.range.start), min(Int(piece.range.end), range.upperBound))
                    if case .bytes(let bytes) = piece.content {
                        given.replaceSubrange(
                            from - range.lowerBound..<to - range.lowerBound, with: bytes[..<(to - from)])
                    }
                    end = to
                }
                if given[..<(end - range.lowerBound)] != file.content[range.lowerBound..<end] {
                    faults.append("\(file.name): a peer is given wrong bytes in \(range)")
                }
            } catch PeerError.damaged {
                if !damage.contains(where: { file.blocks(of: $0).overlaps(range) }) {
                    faults.append("\(file.name): a peer is refused \(range)")
                }
            } catch {
                faults.append("\(file.name): \(error)")
            }
        }
        return faults
    }
}
