@testable import Catalog
import EngineTestSupport
import Foundation
import SQLite
import Testing
import VolumeModel

@Suite struct WriteAheadLogTests {
    private func makeLog(in directory: String) throws -> (Connection, path: String) {
        let path = directory + "/some.db"
        let connection = try Connection(path: path, mode: .create)
        try connection.execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
        connection.watchLog()
        try connection.execute("CREATE TABLE t(a, b)")
        for number in 0..<20 {
            try connection.execute("INSERT INTO t VALUES (\(number), randomblob(3000))")
        }
        return (connection, path + "-wal")
    }

    @Test func aLogIsWrittenOnceMoreAsItIs() throws {
        let temporary = try TemporaryDirectory()
        let (connection, path) = try makeLog(in: temporary.path)
        let log = try WriteAheadLog(path: path)
        #expect(connection.logFrameCount >= 21)
        let before = try Data(contentsOf: URL(fileURLWithPath: path))
        try log.rewrite(frameCount: connection.logFrameCount)
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)
        // After it was moved into the database it begins anew, over what is left of the old one.
        try connection.checkpoint()
        try connection.execute("INSERT INTO t VALUES (1, 2)")
        #expect(connection.logFrameCount < 21)
        try log.rewrite(frameCount: connection.logFrameCount)
    }

    @Test func aByteThatTheDiskLostIsNotTakenForTheLog() throws {
        let temporary = try TemporaryDirectory()
        let (connection, path) = try makeLog(in: temporary.path)
        let log = try WriteAheadLog(path: path)
        let count = connection.logFrameCount
        var generator = Generator(seed: 7)
        let whole = try Data(contentsOf: URL(fileURLWithPath: path))
        for _ in 0..<100 {
            var damaged = whole
            // Bytes 4 to 8 of a frame's header tell the size after a commit, and all are in the checksum.
            let offset = generator.next(below: whole.count)
            damaged[offset] ^= 0x40
            let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
            try file.write(contentsOf: damaged)
            #expect(throws: CatalogError.self, "byte \(offset)") { try log.rewrite(frameCount: count) }
            try file.seek(toOffset: 0)
            try file.write(contentsOf: whole)
            try file.close()
        }
        #expect(throws: CatalogError.self) { try log.rewrite(frameCount: count + 1) }
        try log.rewrite(frameCount: count)
    }
}
