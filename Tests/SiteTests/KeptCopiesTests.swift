import Foundation
import Synchronization
import Testing
import VolumeModel

@testable import Site
@testable import TestBed

/// Who finds the disk full while a copy is being deleted waits for that.
@Suite struct KeptCopiesTests {
    /// A site's directory with copies of so many bytes each, which "take" that on a disk that is full.
    private static func copies(
        _ count: Int, of byteCount: UInt64, in directory: String
    ) throws -> (copies: KeptCopies, heads: [String]) {
        let state = try StateDirectory(directory)
        let copies = KeptCopies(.whileThereIsRoom, in: state)
        var heads: [String] = []
        for index in 0..<count {
            let id = VolumeID(randomHigh: 7, randomLow: UInt64(index))
            let number = try state.makeHead(above: 0, of: id)
            heads.append(state.head(number, of: id))
            // Long enough to be deleted that others come meanwhile.
            for file in 0..<2000 {
                _ = FileManager.default.createFile(atPath: "\(heads[index])/\(file)", contents: nil)
            }
            copies.note(
                KeptCopy(number: number, byteCount: byteCount, since: Int64(index)),
                KeptCopies.Key(volume: id, epoch: .first))
        }
        return (copies, heads)
    }

    private static func missing(_ wanted: UInt64, _ heads: [String], of byteCount: UInt64) -> UInt64 {
        let freed = heads.filter { !FileManager.default.fileExists(atPath: $0) }.count
        return wanted - min(wanted, UInt64(freed) * byteCount)
    }

    @Test func allWhoFindTheDiskFullGetTheRoomOfOneCopyAndTheOthersStay() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let (copies, heads) = try Self.copies(2, of: 1000, in: directory + "/site")
            let served = Mutex(0)
            DispatchQueue.concurrentPerform(iterations: 8) { _ in
                if copies.makeRoom({ Self.missing(1000, heads, of: 1000) }) { served.withLock { $0 += 1 } }
            }
            #expect(served.withLock { $0 } == 8)
            #expect(!FileManager.default.fileExists(atPath: heads[0]))
            #expect(FileManager.default.fileExists(atPath: heads[1]))
        }
    }

    @Test func nothingIsGivenUpForWhatWouldNotFitEvenSo() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let (copies, heads) = try Self.copies(2, of: 1000, in: directory + "/site")
            #expect(!copies.makeRoom { Self.missing(1 << 40, heads, of: 1000) })
            #expect(heads.allSatisfy { FileManager.default.fileExists(atPath: $0) })
        }
    }
}
