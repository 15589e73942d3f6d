import Foundation
import Testing

/// README and the guides beside the code lead to each other, and to what is there.
@Suite struct GuideTests {
    private static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    private static func guides() throws -> [String] {
        var found = ["README.md"]
        for place in ["Sources", "Tests", "Manifests", "Protos"] {
            let all = FileManager.default.enumerator(atPath: root.appendingPathComponent(place).path)
            for case let path as String in all ?? .init() where path.hasSuffix(".md") {
                found.append("\(place)/\(path)")
            }
        }
        return found.sorted()
    }

    private static func text(_ path: String) throws -> String {
        try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8)
    }

    /// What `#…` may be: each heading in small letters, without punctuation, a hyphen for each space.
    private static func anchors(of text: String) -> Set<String> {
        Set(
            text.split(separator: "\n").filter { $0.hasPrefix("#") }.map { line in
                String(
                    line.drop { $0 == "#" }.drop { $0 == " " }.lowercased().compactMap { character in
                        if character == " " { return "-" }
                        return character.isLetter || character.isNumber || "-_".contains(character)
                            ? character : nil
                    })
            })
    }

    @Test func everyLinkLeadsSomewhere() throws {
        let guides = try Self.guides()
        #expect(guides.count > 5)
        for guide in guides {
            let text = try Self.text(guide)
            let folder = URL(fileURLWithPath: guide, relativeTo: Self.root).deletingLastPathComponent()
            for match in text.matches(of: /\]\(([^)\s]+)\)/) {
                let link = String(match.output.1)
                if link.contains("://") { continue }
                let parts = link.split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false)
                let target =
                    parts[0].isEmpty
                    ? Self.root.appendingPathComponent(guide)
                    : folder.appendingPathComponent(String(parts[0])).standardizedFileURL
                guard FileManager.default.fileExists(atPath: target.path) else {
                    Issue.record("\(guide): \(link) leads nowhere")
                    continue
                }
                guard parts.count == 2 else { continue }
                let anchors = Self.anchors(of: try String(contentsOf: target, encoding: .utf8))
                #expect(anchors.contains(String(parts[1])), "\(guide): \(link) has no such heading")
            }
        }
    }

    @Test func readmeLeadsToEveryGuide() throws {
        let readme = try Self.text("README.md")
        for guide in try Self.guides() where guide != "README.md" {
            #expect(readme.contains("(\(guide)"), "README.md does not lead to \(guide)")
        }
    }
}
