import Foundation
import Testing

/// The guide `Sources/VolumeFileSystem/Semantics.md`, sentence by sentence.
@Suite struct SemanticsTests {
    private static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// The names at the head of the guide's lines.
    private static func guideNames() throws -> [String] {
        let guide = root.appendingPathComponent("Sources/VolumeFileSystem/Semantics.md")
        return try String(contentsOf: guide, encoding: .utf8).split(separator: "\n")
            .filter { $0.hasPrefix("- **") }
            .compactMap { $0.dropFirst(4).split(separator: "*").first.map(String.init) }
    }

    @Test func eachSentenceOfTheGuideHasATest() throws {
        let names = try Self.guideNames()
        #expect(names.count > 40)
        #expect(Set(names).count == names.count, "a name is used twice")
        let tests = Self.root.appendingPathComponent("Tests")
        var sources = ""
        for case let path as String in FileManager.default.enumerator(atPath: tests.path) ?? .init()
        where path.hasSuffix("Tests.swift") {
            sources += try String(contentsOf: tests.appendingPathComponent(path), encoding: .utf8)
        }
        for name in names where SemanticsScripts.all[name] == nil {
            #expect(sources.contains("@Test func \(name)("), "nothing tests the sentence \(name)")
        }
        #expect(Set(SemanticsScripts.all.keys).subtracting(names).isEmpty, "tests of no sentence")
    }

    @Test(arguments: SemanticsScripts.all.keys.sorted())
    func aMountedVolumeDoesAsTheGuideSays(_ name: String) async throws {
        let probe = try Probe.directory()
        let volume = try MountedVolume()
        let script = try #require(SemanticsScripts.all[name])
        let result = try volume.shell(SemanticsScripts.prelude(probe: probe) + script)
        #expect(result.code == 0, "\(name): \(result.output)")
        await volume.end()
    }

    /// Whoever writes a sentence is told here whether ext4 agrees.
    @Test(Ext4Directory.isNeeded, arguments: SemanticsScripts.asOnExt4.keys.sorted())
    func ext4DoesAsTheGuideSays(_ name: String) async throws {
        let place = try await Ext4Directory()
        defer { place.remove() }
        let script = try #require(SemanticsScripts.all[name])
        let result = try Shell.run(
            SemanticsScripts.prelude(probe: try Probe.directory()) + script, in: place.path)
        #expect(result.code == 0, "\(name): \(result.output)")
    }
}
