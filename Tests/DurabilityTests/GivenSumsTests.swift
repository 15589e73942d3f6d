import Catalog
import EngineTestSupport
import Foundation
import Testing
import VolumeModel

@testable import TestBed

/// `volume check --repair` of a catalog that an earlier release has made without sums, and a `kill -9` or a power loss at any
/// moment of it: there is always a catalog, with all that it held, and the repair can be done again.
@Suite struct GivenSumsTests {
    private static let seed =
        ProcessInfo.processInfo.environment["GODWIT_POWER_LOSS_SEED"].flatMap { UInt64($0) }
        ?? UInt64.random(in: 0..<1_000_000)
    private static let below = "volumes/00000000-0000-4000-8000-000000000001/heads/1/"

    private struct Repaired {
        let log: String
        /// Where its notes begin.
        let first: UInt64
        let rows: [String]
        let memory: TemporaryDirectory
    }

    @Test func whereverARepairEndsThereIsACatalogWithAllItsRows() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let repaired = try await Self.record(cleanup)
            var generator = Generator(seed: Self.seed)
            for names in [SimulatedDisk.Names.journalled, .bySyncOfTheirDirectory] {
                var outcomes: [Bool: Int] = [:]
                var disk = try SimulatedDisk(log: repaired.log, names: names)
                for moment in disk.moments.filter({ $0 >= repaired.first }) {
                    disk.advance(to: moment)
                    // By a kill everything that was written is there.
                    for isKilled in [true, false, false] {
                        let place: Comment =
                            "\(names), moment \(moment), killed \(isKilled), seed \(Self.seed)"
                        let head = try Self.write(disk, isKilled, repaired, &generator)
                        try #require(try rows(ofCatalogIn: head) == repaired.rows, place)
                        let lacks = try !CatalogCheck(of: head).findings.isEmpty
                        outcomes[lacks, default: 0] += 1
                        try CatalogCheck.repair(head)
                        try CatalogCheck.givePageSums(head)
                        try #require(try CatalogCheck(of: head).findings == [], place)
                        try #require(try rows(ofCatalogIn: head) == repaired.rows, place)
                    }
                }
                // Both sides of the moment at which it takes the other's place.
                #expect(outcomes[true, default: 0] > 20 && outcomes[false, default: 0] > 2, "\(outcomes)")
            }
        }
    }

    private static func write(
        _ disk: SimulatedDisk, _ isKilled: Bool, _ repaired: Repaired, _ generator: inout Generator
    ) throws -> String {
        let head = repaired.memory.path + "/head"
        try? FileManager.default.removeItem(atPath: head)
        try disk.write(
            to: head, below: below, isRunning: isKilled, leavingOut: { $0 == "lock" || $0.hasSuffix("-shm") },
            &generator)
        return head
    }

    private static func record(_ cleanup: Cleanup) async throws -> Repaired {
        let directory = try cleanup.makeTemporaryDirectory()
        let (state, log) = (directory + "/state", directory + "/log")
        let head = state + "/" + below
        try FileManager.default.createDirectory(atPath: head, withIntermediateDirectories: true)
        try Catalog.create(
            in: head, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first, now: .zero, withRoot: true)
        let catalog = try Catalog(opening: head)
        for number in 0..<100 { _ = try catalog.perform { try $0.addFile(Array("file \(number)".utf8)) } }
        try catalog.close()
        let environment = try await RecordedSite.environment(recording: state, to: log, in: directory)
        try takePageSums(
            fromCatalogIn: head,
            environment: ProcessInfo.processInfo.environment.merging(environment) { $1 })
        let before = try rows(ofCatalogIn: head)
        let look = try await ChildProcess.run(
            Program(godwitBinary, ["volume", "check", "--state-dir", state]))
        #expect(look.exit.isSuccess && look.output.contains(": weakness: "), "\(look.output)")
        let first = try Data(contentsOf: URL(fileURLWithPath: log)).count
        var repair = Program(godwitBinary, ["volume", "check", "--repair", "--state-dir", state])
        repair.environment = environment
        let outcome = try await ChildProcess.run(repair)
        #expect(outcome.exit == .exited(1) && outcome.output.contains("(repaired)"), "\(outcome.output)")
        #expect(try rows(ofCatalogIn: head) == before)
        let memory = try TemporaryDirectory(in: access("/dev/shm", W_OK) == 0 ? "/dev/shm" : nil)
        return Repaired(log: log, first: UInt64(first), rows: before, memory: memory)
    }
}
