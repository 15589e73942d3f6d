@testable import Catalog
import EngineTestSupport
import Foundation
import SQLite
import Testing
import VolumeModel

/// A catalog that is in use stays locked for other processes.
@Suite struct LockTests {
    /// For a moment the closing of a connection keeps others of the same process from beginning: they wait.
    @Test func connectionsThatComeAndGoDoNotRefuseEachOther() async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/database"
        let lasting = try Connection(path: path, mode: .create)
        try lasting.execute("PRAGMA journal_mode = WAL; CREATE TABLE t(x)")
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    for _ in 0..<500 {
                        try Connection(path: path, mode: .readWrite).execute("PRAGMA synchronous = FULL")
                    }
                }
            }
            try await group.waitForAll()
        }
        try lasting.execute("DROP TABLE t")
    }

    private func inodeNumber(_ path: String) -> UInt64? {
        var status = stat()
        return stat(path, &status) == 0 ? UInt64(status.st_ino) : nil
    }

    private func look(_ path: String) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/sqlite3")
        process.arguments = [path, "SELECT count(*) FROM inode"]
        process.standardOutput = nil
        try process.run()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
    }

    /// Whoever takes itself for the last to close a database moves its log and deletes it: what the others write then is
    /// in a file without a name, and gone with them. Only their locks tell it, and a process loses those of its locks that
    /// are on a file when it closes any descriptor of it.
    @Test func whoeverLooksAtItBesideNeitherLosesItsLocksNorItsLog() throws {
        let temporary = try TemporaryDirectory()
        try Catalog.create(
            in: temporary.path, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first, now: .zero,
            withRoot: true)
        let catalog = try Catalog(opening: temporary.path)
        let path = temporary.path + "/" + Catalog.fileName
        let log = try #require(inodeNumber(path + "-wal"))
        let uses: [() throws -> Void] = [
            {}, { _ = try CatalogView(of: temporary.path).ending() },
            { _ = try CatalogCheck(of: temporary.path) },
            { #expect(throws: CatalogError.self) { _ = try Catalog(opening: temporary.path) } },
        ]
        for (number, use) in uses.enumerated() {
            try use()
            // Another process, SQLite's own shell.
            try look(path)
            #expect(inodeNumber(path + "-wal") == log, "after use \(number)")
        }
        try catalog.perform { try $0.setEpoch(Epoch(7)) }
        try catalog.synchronize()
        catalog.abandon()
        let next = try Catalog(opening: temporary.path)
        #expect(try next.perform { try $0.epoch() } == Epoch(7))
        try next.close()
    }
}
