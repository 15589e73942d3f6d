import Foundation
import Glibc
import Logging
import Synchronization
import Testing

@testable import Monitoring

@Suite struct JSONLogHandlerTests {
    private func object(_ line: String) throws -> [String: Any] {
        try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any], "\(line)")
    }

    @Test func aLineIsAnObjectThatBeginsWithTimeLevelAndMessage() throws {
        let line = JSONLogHandler.line(
            .warning, "it \"broke\"\nat C:\\ \u{1}é",
            [
                "volume": "pvc-1", "level": "high", "limits": ["a": "1", "b": ["x", "y\t"]],
                "count": .stringConvertible(3),
            ], at: timespec(tv_sec: 1_700_000_000, tv_nsec: 5_999_999))
        #expect(
            line.hasPrefix(#"{"time":"2023-11-14T22:13:20.005Z","level":"warning","message":"#), "\(line)")
        #expect(!line.contains("\n"))
        let object = try object(line)
        #expect(object["message"] as? String == "it \"broke\"\nat C:\\ \u{1}é")
        #expect(object["volume"] as? String == "pvc-1" && object["count"] as? String == "3")
        // A name that is taken.
        #expect(object["level_"] as? String == "high")
        let limits = try #require(object["limits"] as? [String: Any])
        #expect(limits["a"] as? String == "1" && limits["b"] as? [String] == ["x", "y\t"])
    }

    @Test func aLineHasTheMetadataOfItsLoggerOfItsTaskAndItsOwn() throws {
        let lines = Lines()
        var logger = Logger(label: "test") { _ in
            JSONLogHandler(metadataProvider: .init { ["request": "7", "b": "task"] }) { lines.add($0) }
        }
        logger[metadataKey: "a"] = "logger"
        logger[metadataKey: "b"] = "logger"
        logger.debug("below its level")
        logger.info("hello", metadata: ["c": "own"])
        let all = lines.all
        try #require(all.count == 1)
        let object = try object(all[0])
        #expect(
            object.filter { $0.key != "time" } as? [String: String] == [
                "level": "info", "message": "hello", "request": "7", "a": "logger", "b": "task", "c": "own",
            ])
    }

    private final class Lines: Sendable {
        private let lines = Mutex<[String]>([])
        func add(_ line: String) { lines.withLock { $0.append(line) } }
        var all: [String] { lines.withLock { $0 } }
    }
}
