import EngineTestSupport
import Foundation
import SQLite
import Testing
import VolumeModel

@testable import Catalog

/// Catalogs of schema 3, which releases before the sums of pages have made. They stay as they are.
@Suite struct EarlierCatalogTests {
    /// An empty volume's.
    private func make(_ temporary: TemporaryDirectory) throws -> String {
        let directory = try temporary.make("head")
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first, now: .zero, withRoot: true
        )
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = [
            "-ec",
            """
            sqlite3 catalog.db .dump > dump
            rm catalog.db*
            sqlite3 catalog.db < dump
            sqlite3 catalog.db "PRAGMA journal_mode = WAL; UPDATE meta SET value = 3 WHERE key = 'schema_version'"
            rm dump
            """,
        ]
        process.currentDirectoryURL = URL(fileURLWithPath: directory)
        process.standardOutput = nil
        try process.run()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0)
        return directory
    }

    private func add(_ numbers: Range<Int>, to catalog: Catalog) throws {
        for number in numbers {
            _ = try catalog.perform { try $0.addFile(Array("file \(number)".utf8)) }
        }
        try catalog.synchronize()
    }

    private func expectEarlier(_ directory: String) throws {
        let path = directory + "/" + Catalog.fileName
        #expect(try Data(contentsOf: URL(fileURLWithPath: path))[20] == 0)
        let connection = try Connection(path: path, mode: .readOnly)
        let version = try connection.prepare("SELECT value FROM meta WHERE key = 'schema_version'")
        #expect(try version.first { $0.integer(0) } == CatalogSchema.versionWithoutSums)
    }

    /// Whatever is in its log, and whatever of that has been moved, by the release that was cut off.
    @Test func oneThatWasCutOffLosesNothingAndCanBeGoneBackFrom() throws {
        let temporary = try TemporaryDirectory()
        let directory = try make(temporary)
        try expectEarlier(directory)
        var states: [(directory: String, image: CatalogImage)] = []
        do {
            let catalog = try Catalog(opening: directory)
            defer { catalog.abandon() }
            func cutOff() throws {
                let copy = temporary.path + "/cut \(states.count)"
                try TemporaryDirectory.copyHead(from: directory, to: copy)
                states.append((copy, try CatalogImage(catalog)))
            }
            try add(0..<150, to: catalog)
            try cutOff()
            try catalog.checkpoint()
            try cutOff()
            try add(150..<200, to: catalog)
            try cutOff()
        }
        for (copy, image) in states {
            #expect(try CatalogCheck(of: copy).findings.isEmpty, "\(copy)")
            let catalog = try Catalog(opening: copy)
            #expect(!catalog.wasClosedCleanly)
            #expect(try CatalogImage(catalog) == image, "\(copy)")
            // In use it goes on as it was: an earlier release can take it back at any time.
            try add(200..<260, to: catalog)
            try catalog.checkpoint()
            let later = try CatalogImage(catalog)
            try catalog.close()
            try expectEarlier(copy)
            let again = try Catalog(opening: copy)
            #expect(again.wasClosedCleanly)
            #expect(try CatalogImage(again) == later, "\(copy)")
            try again.close()
        }
    }

    /// A copy of one has sums. What is left of a copy that was cut off before that is settled is not taken for a catalog.
    @Test func aCopyThatWasCutOffIsNoCatalog() throws {
        let temporary = try TemporaryDirectory()
        let directory = try make(temporary)
        let catalog = try Catalog(opening: directory)
        try add(0..<150, to: catalog)
        let copy = try temporary.make("copy")
        do {
            let reader = try catalog.connectAgain()
            try reader.reservePageSums()
            try reader.execute("VACUUM INTO '\(copy)/\(Catalog.fileName)'")
        }
        #expect(throws: CatalogError.self) { _ = try Catalog(opening: copy) }
        // The one that it was made of is as it was.
        let image = try CatalogImage(catalog)
        try catalog.close()
        try expectEarlier(directory)
        let again = try Catalog(opening: directory)
        #expect(try CatalogImage(again) == image)
        try again.close()
    }
}
