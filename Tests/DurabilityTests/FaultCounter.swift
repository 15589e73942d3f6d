import Foundation
import Glibc

@testable import TestBed

/// Counts system calls of a site that was started with it, and fails one of them: `struct counter` of `faults.c`.
///
/// Safe to share: the words are written by whoever arms it and, one by one and atomically, by the site.
final class FaultCounter: @unchecked Sendable {
    struct Kinds: OptionSet {
        let rawValue: UInt64

        static let reads = Kinds(rawValue: 1 | 32)
        static let changes = Kinds(rawValue: 2 | 8 | 16 | 64 | 256 | 512 | 1024)
        static let syncs = Kinds(rawValue: 4)
        /// What takes an inode.
        static let creations = Kinds(rawValue: 128 | 256)
        /// What may take room.
        static let growth = Kinds(rawValue: 2 | 4 | 8 | 16 | 128 | 256 | 512)
        static let all: Kinds = [.reads, .changes, .syncs]
    }

    private enum Word: Int {
        case kinds, at, lasting, error, count, hits
        static let all = 6
    }

    private static let byteCount = 256
    let path: String
    private let memory: UnsafeMutableRawBufferPointer

    /// - Parameter path: of a file that it makes.
    init(path: String) throws {
        self.path = path
        try Data(count: Self.byteCount).write(to: URL(fileURLWithPath: path))
        let descriptor = open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw LabError.systemCall("open", detail: path, errno: errno) }
        defer { close(descriptor) }
        let mapped = mmap(nil, Self.byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
        guard let mapped, mapped != MAP_FAILED else {
            throw LabError.systemCall("mmap", detail: path, errno: errno)
        }
        memory = UnsafeMutableRawBufferPointer(start: mapped, count: Self.byteCount)
    }

    deinit { munmap(memory.baseAddress, memory.count) }

    private subscript(word: Word) -> UInt64 {
        get { memory.load(fromByteOffset: word.rawValue * 8, as: UInt64.self) }
        set { memory.storeBytes(of: newValue, toByteOffset: word.rawValue * 8, as: UInt64.self) }
    }

    /// From now on calls of these kinds are counted and the `number`th fails, and if so wanted all after it.
    ///
    /// - Parameter number: from 1; 0: none.
    func arm(_ kinds: Kinds, failing number: UInt64, lasting: Bool = false, with error: Int32) {
        disarm()
        (self[.count], self[.hits], self[.error]) = (0, 0, UInt64(error))
        (self[.lasting], self[.at]) = (lasting ? 1 : 0, number)
        for index in Word.all * 8..<Self.byteCount { memory[index] = 0 }
        self[.kinds] = kinds.rawValue
    }

    /// From now on everything works.
    func disarm() { self[.kinds] = 0 }

    /// How many calls were counted since it was armed.
    var count: UInt64 { self[.count] }
    /// How many of them failed.
    var hitCount: UInt64 { self[.hits] }
    /// The first call that failed, and the end of its path.
    var firstHit: String {
        String(decoding: memory[(Word.all * 8)...].prefix { $0 != 0 }, as: UTF8.self)
    }
}
