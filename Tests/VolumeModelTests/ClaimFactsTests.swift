import Testing
import VolumeModel

/// What a peer may say of a claim.
@Suite struct ClaimFactsTests {
    private func facts(
        namespace: String = "shop", name: String = "data-0", labels: [String: String] = [:],
        storageClass: String = "godwit", requested: String = "1Gi", capacity: String = "",
        accessModes: [String] = ["ReadWriteOnce"], volumeMode: String = ""
    ) throws -> ClaimFacts {
        try ClaimFacts(
            namespace: namespace, name: name, labels: labels, storageClass: storageClass,
            requested: requested,
            capacity: capacity, accessModes: accessModes, volumeMode: volumeMode)
    }

    @Test func aClaimIsTakenAsItIs() throws {
        let taken = try facts(
            labels: ["app": "postgres", "app.kubernetes.io/name": "db_1", "empty": ""], capacity: "2Gi",
            accessModes: ["ReadWriteOncePod", "ReadWriteOnce"], volumeMode: "Filesystem")
        #expect(taken.labels == ["app": "postgres", "app.kubernetes.io/name": "db_1", "empty": ""])
        #expect(taken.requested == "1Gi" && taken.capacity == "2Gi")
        #expect(taken.accessModes == ["ReadWriteOnce", "ReadWriteOncePod"])
        #expect(try facts().capacity == "1Gi")
        #expect(try facts(name: "a.b", storageClass: "").name == "a.b")
    }

    @Test(arguments: [
        "", "../x", "Shop", "a b", "-a", "a-", "a/b", "a\u{0}", String(repeating: "a", count: 254), "é",
    ])
    func namesThatCannotBeAreRefused(_ name: String) {
        #expect(throws: ClaimFacts.Refusal.self) { try facts(namespace: name) }
        #expect(throws: ClaimFacts.Refusal.self) { try facts(name: name) }
        if !name.isEmpty { #expect(throws: ClaimFacts.Refusal.self) { try facts(storageClass: name) } }
    }

    @Test func sizesAndModesThatCannotBeAreRefused() {
        for size in ["", "-1", "Gi", "1 Gi", "1\n", String(repeating: "9", count: 33)] {
            #expect(throws: ClaimFacts.Refusal.self, "\(size)") { try facts(requested: size) }
        }
        #expect(throws: ClaimFacts.Refusal.self) { try facts(accessModes: []) }
        #expect(throws: ClaimFacts.Refusal.self) { try facts(accessModes: ["Everything"]) }
        #expect(throws: ClaimFacts.Refusal.self) { try facts(volumeMode: "Block") }
        #expect(throws: ClaimFacts.Refusal.self) { try facts(namespace: "a.b") }
    }

    @Test func labelsThatCannotBeAndTooManyAreLeftOut() throws {
        var labels = Dictionary(uniqueKeysWithValues: (100..<300).map { ("key\($0)", "v") })
        #expect(try facts(labels: labels).labels.count == ClaimFacts.labelLimit)
        labels = [
            "a/b/c": "v", "": "v", "/a": "v", "A/b": "v", "good": "v", "a": "spaces are no",
            "b": String(repeating: "v", count: 64), String(repeating: "k", count: 64): "v", "c": "\u{0}",
        ]
        #expect(try facts(labels: labels).labels == ["good": "v"])
    }

    @Test func aReportIsCutToOneShortLine() {
        let report = ClaimReport(
            isMade: false, reason: "Two words\n", message: "a\nb" + String(repeating: "c", count: 10_000))
        #expect(report.reason == "Unknown" && report.message.count == 400 && report.message.hasPrefix("a bc"))
        #expect(ClaimReport(isMade: true, reason: "Made", message: "").reason == "Made")
    }
}
