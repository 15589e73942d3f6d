import Foundation
import KubernetesAPI
import Testing

/// The client, and what the API answers when it does not do as it is asked.
@Suite struct ScriptedClientTests {
    private static let path = "/api/v1/namespaces/default/configmaps"

    private static func map(_ name: String, _ version: Int) -> String {
        #"{"metadata": {"name": "\#(name)", "namespace": "default", "resourceVersion": "\#(version)"}}"#
    }

    private static func list(_ items: [String], _ version: Int, next: String = "") -> ScriptedServer.Reply {
        .init(
            body: """
                {"metadata": {"resourceVersion": "\(version)", "continue": "\(next)"},
                "items": [\(items.joined(separator: ", "))]}
                """)
    }

    private static func event(_ type: String, _ object: String) -> String {
        #"{"type": "\#(type)", "object": \#(object)}"# + "\n"
    }

    private static func map(_ name: String) -> ConfigMap {
        ConfigMap(metadata: ObjectMeta(name: name, namespace: "default"), data: nil)
    }

    // MARK: single requests

    /// A reading request and one that changes something: 429 says that nothing was done.
    @Test(arguments: ["GET", "POST"]) func whoIsToWaitWaitsAsLongAsTheServerSays(method: String) async throws
    {
        try await ScriptedServer.run { _, number in
            number == 0
                ? .refusal(429, "TooManyRequests", retryAfter: 1) : .init(body: Self.map("one", 5))
        } _: { server, client in
            if method == "GET" {
                #expect(try await client.get(ConfigMap.self, "one", in: "default").metadata.name == "one")
            } else {
                #expect(try await client.create(Self.map("one")).metadata.resourceVersion == "5")
            }
            let asked = server.requests
            try #require(asked.count == 2)
            #expect(asked.allSatisfy { $0.method == method })
            #expect(asked[1].time - asked[0].time >= .seconds(1))
        }
    }

    @Test func whatReadsIsAskedAgainAfterFailuresAndNotForEver() async throws {
        try await ScriptedServer.run { request, number in
            if request.path.hasSuffix("/never") { return .refusal(503) }
            return number < 2 ? .refusal(number == 0 ? 500 : 503) : .init(body: Self.map("one", 5))
        } _: { server, client in
            #expect(try await client.get(ConfigMap.self, "one", in: "default").metadata.name == "one")
            #expect(server.requests.count == 3)
            try await expect("503", { if case .server(503, _) = $0 { true } else { false } }) {
                () async throws(KubernetesError) in
                _ = try await client.get(ConfigMap.self, "never", in: "default")
            }
            #expect(server.requests.count == 3 + 4)
        }
    }

    /// Nobody knows whether it was done: whoever asked for it decides.
    @Test func whatChangesSomethingIsNotAskedAgainAfterAFailure() async throws {
        try await ScriptedServer.run { request, _ in
            request.path.hasSuffix("/broken")
                ? .init(body: #"{"metadata": {"na"#, ending: .broken) : .refusal(500)
        } _: { server, client in
            try await expect("500", { $0.isAmbiguous && $0.isTransient }) {
                () async throws(KubernetesError) in _ = try await client.create(Self.map("one"))
            }
            try await expect("500", { $0.isAmbiguous && $0.isTransient }) {
                () async throws(KubernetesError) in
                _ = try await client.patch(ConfigMap.self, "one", in: "default", ["data": [:]])
            }
            #expect(server.requests.map(\.method) == ["POST", "PATCH"])
            try await expect("no answer", { $0.isAmbiguous }) {
                () async throws(KubernetesError) in
                _ = try await client.patch(ConfigMap.self, "broken", in: "default", ["data": [:]])
            }
            #expect(server.requests.count == 3)
        }
    }

    /// A page's token that is too old: what came before it may have changed since.
    @Test func aListWhosePageIsGoneBeginsAnew() async throws {
        try await ScriptedServer.run { request, number in
            switch number {
            case 0: return Self.list([Self.map("stale", 1), Self.map("a", 2)], 7, next: "token")
            case 1: return .refusal(410, "Expired")
            case 2: return Self.list([Self.map("a", 2)], 9, next: "other")
            default: return Self.list([Self.map("b", 8)], 9)
            }
        } _: { server, client in
            let (items, version) = try await client.list(ConfigMap.self, in: "default", pageSize: 2)
            #expect(items.map(\.metadata.name) == ["a", "b"] && version == "9")
            #expect(server.requests.map { $0.query["continue"] } == [nil, "token", nil, "other"])
        }
    }

    // MARK: watches

    /// What a follower sees, and what the server was asked, until the last of the replies is being given.
    private func follow(
        _ replies: [ScriptedServer.Reply]
    ) async throws -> (seen: [String], watches: [String], requests: [ScriptedServer.Request]) {
        let seen = Shared<[String]>([])
        let watches = Shared<[String]>([])
        let all = Shared<[ScriptedServer.Request]>([])
        try await ScriptedServer.run { _, number in
            number < replies.count ? replies[number] : .init(body: "", ending: .silent)
        } _: { server, client in
            let task = Task {
                try await client.follow(ConfigMap.self, in: "default") { change in
                    let words =
                        switch change {
                        case .replaced(let items):
                            "= " + items.compactMap(\.metadata.name).joined(separator: " ")
                        case .applied(let item): "+ \(item.metadata.name ?? "")"
                        case .deleted(let item): "- \(item.metadata.name ?? "")"
                        }
                    seen.withLock { $0.append(words) }
                }
            }
            try await eventually("every reply") { server.requests.count > replies.count }
            task.cancel()
            _ = try? await task.value
            let requests = server.requests
            all.withLock { $0 = requests }
            watches.withLock { $0 = requests.map { $0.isWatch ? $0.query["resourceVersion"] ?? "" : "list" } }
        }
        return (seen.withLock { $0 }, watches.withLock { $0 }, all.withLock { $0 })
    }

    @Test func aWatchGoesOnFromTheLastBookmarkWithoutAnotherList() async throws {
        let end = try await follow([
            Self.list([Self.map("a", 3)], 10),
            .init(
                body: Self.event("ADDED", Self.map("b", 11))
                    + Self.event("BOOKMARK", #"{"metadata": {"resourceVersion": "20"}}"#)),
            // Ended in order, and nothing happened.
            .init(body: ""),
            .init(body: Self.event("DELETED", Self.map("a", 25))),
        ])
        #expect(end.seen == ["= a", "+ b", "- a"])
        #expect(end.watches == ["list", "10", "20", "20", "25"])
        for watch in end.requests where watch.isWatch {
            #expect(watch.query["allowWatchBookmarks"] == "true")
        }
    }

    @Test func aWatchThatBreaksOrIsRefusedGoesOnFromWhereItWas() async throws {
        let end = try await follow([
            Self.list([], 10),
            .init(
                body: Self.event("ADDED", Self.map("a", 11))
                    + String(Self.event("ADDED", Self.map("half", 12)).prefix(30)), ending: .broken),
            .refusal(500), .refusal(503),
            .refusal(429, "TooManyRequests", retryAfter: 1),
            .init(body: Self.event("MODIFIED", Self.map("a", 13))),
        ])
        #expect(end.seen == ["= ", "+ a", "+ a"])
        #expect(end.watches == ["list", "10", "11", "11", "11", "11", "13"])
        #expect(end.requests[5].time - end.requests[4].time >= .seconds(1))
    }

    /// As an answer, and in the middle of a watch: what was missed is in the list.
    @Test(arguments: [false, true]) func aPlaceThatIsGoneIsListedAnew(inTheMiddle: Bool) async throws {
        let gone: ScriptedServer.Reply =
            inTheMiddle
            ? .init(
                body: Self.event("ADDED", Self.map("b", 11))
                    + Self.event("ERROR", #"{"kind": "Status", "code": 410, "reason": "Expired"}"#))
            : .refusal(410, "Expired")
        let end = try await follow([
            Self.list([Self.map("a", 3)], 10), gone, Self.list([Self.map("c", 40)], 50),
        ])
        #expect(end.seen == (inTheMiddle ? ["= a", "+ b", "= c"] : ["= a", "= c"]))
        #expect(end.watches == ["list", "10", "list", "50"])
    }
}
