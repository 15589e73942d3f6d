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

    private static func holding(_ epoch: UInt64, _ byteCount: UInt64, missing: UInt64) -> CopyHolding {
        CopyHolding(epoch: Epoch(epoch), byteCount: byteCount, missingByteCount: missing)
    }

    @Test func theNewestCopyIsKeptUnlessAnOlderOneHoldsMuchMore() {
        let whole = Self.holding(3, 1000, missing: 0)
        let newer = Self.holding(7, 800, missing: 200)
        #expect(CopyHolding.best(of: [whole, newer]) == newer)
        let emptier = Self.holding(9, 1000, missing: 251)
        #expect(CopyHolding.best(of: [whole, emptier]) == whole)
        // Neither has much: more counts, and of the same the newer.
        let some = Self.holding(4, 1000, missing: 600)
        #expect(CopyHolding.best(of: [some, Self.holding(5, 1000, missing: 900)]) == some)
        let alike = Self.holding(6, 500, missing: 100)
        #expect(CopyHolding.best(of: [some, alike]) == alike)
        #expect(CopyHolding.best(of: []) == nil)
        // An empty volume lacks nothing.
        let empty = Self.holding(8, 0, missing: 0)
        #expect(CopyHolding.best(of: [whole, empty]) == empty)
    }
}
