import EngineTestSupport
import Foundation
import Testing
import VolumeFileSystem
import VolumeModel

@Suite struct LargeDirectoryTests {
    /// GODWIT_LARGE_DIRECTORY sets how many names: 1,000,000 take some minutes.
    private static let nameCount =
        ProcessInfo.processInfo.environment["GODWIT_LARGE_DIRECTORY"].flatMap { Int($0) } ?? 100_000

    /// A program that renames what it lists comes to an end.
    @Test func aListingEndsHoweverOftenItsNamesAreRenamed() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: temporary.path)
        let fileSystem = volume.fileSystem
        func name(_ word: String, _ number: Int) -> [UInt8] { Array("\(word)-\(number)".utf8) }
        for number in 0..<200 {
            _ = try fileSystem.makeNode(
                name("a", number), in: .root, kind: .regular, permissions: 0o644, device: 0, caller: .root)
        }
        var listed: [[UInt8]: Int] = [:]
        var numbers = Set<InodeNumber>()
        var offset: Int64 = 0
        var count = 0
        while count < 1000, let entry = try fileSystem.readDirectory(.root, offset: offset, limit: 1).first {
            offset = entry.nextOffset
            listed[entry.name, default: 0] += 1
            numbers.insert(entry.attributes.inode)
            // What was listed gets another name, and back; and its last name goes over one that is yet to come.
            try fileSystem.rename(entry.name, in: .root, to: name("b", count), in: .root, rule: .replace)
            try fileSystem.rename(name("b", count), in: .root, to: entry.name, in: .root, rule: .replace)
            if count < 50 {
                try fileSystem.rename(
                    entry.name, in: .root, to: name("a", 199 - count), in: .root,
                    rule: count % 2 == 0 ? .exchange : .replace)
            }
            count += 1
        }
        #expect(count == 200 && listed.count == 200 && numbers.count == 150)
        try await volume.close()
    }

    /// Whatever comes and goes meanwhile, a name that is there from beginning to end is listed once.
    @Test func aLargeDirectoryIsListedOnceWhileItChanges() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: temporary.path)
        let fileSystem = volume.fileSystem
        let directory = try fileSystem.makeDirectory(
            Array("d".utf8), in: .root, permissions: 0o755, caller: .root
        ).inode
        func name(_ number: Int) -> [UInt8] { Array("name-\(number)".utf8) }
        func make(_ name: [UInt8]) throws {
            let made = try fileSystem.makeNode(
                name, in: directory, kind: .regular, permissions: 0o644, device: 0, caller: .root)
            fileSystem.forget(made.inode, count: 1)
        }
        for number in 0..<Self.nameCount { try make(name(number)) }
        var generator = Generator(seed: 11)
        var gone: Set<Int> = []
        var listed: [[UInt8]: Int] = [:]
        var offset: Int64 = 0
        var round = 0
        while true {
            let batch = try fileSystem.readDirectory(directory, offset: offset, limit: 500)
            guard let last = batch.last else { break }
            for entry in batch { listed[entry.name, default: 0] += 1 }
            offset = last.nextOffset
            // Some behind, some ahead, and new ones; a rename is a name that goes and one that comes.
            for _ in 0..<5 {
                let number = generator.next(below: Self.nameCount)
                guard gone.insert(number).inserted else { continue }
                if number % 2 == 0 {
                    try fileSystem.unlink(name(number), in: directory)
                } else {
                    try fileSystem.rename(
                        name(number), in: directory, to: Array("moved-\(number)".utf8), in: directory,
                        rule: .replace)
                }
            }
            // Not for ever: a listing that new names keep from ending is none.
            round += 1
            if round < 50 { try make(Array("new-\(round)".utf8)) }
        }
        let stayed = (0..<Self.nameCount).filter { !gone.contains($0) }
        #expect(stayed.allSatisfy { listed[name($0)] == 1 })
        #expect(listed.values.allSatisfy { $0 == 1 })
        #expect(gone.count > min(100, Self.nameCount / 200))
        for number in stride(from: 0, to: Self.nameCount, by: max(1, Self.nameCount / 100))
        where !gone.contains(number) {
            let found = try fileSystem.lookup(name(number), in: directory)
            fileSystem.forget(found.inode, count: 1)
        }
        #expect(throws: FileSystemError.self) { try fileSystem.removeDirectory(Array("d".utf8), in: .root) }
        try await volume.close()
    }
}
