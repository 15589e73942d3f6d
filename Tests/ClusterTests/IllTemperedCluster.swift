import Foundation
import KubernetesAPI
import Synchronization

@testable import Cluster

/// Objects in memory, behind an API server that does half of what it is asked.
final class IllTemperedCluster: Sendable {
    private struct State {
        var objects: [String: JSONValue] = [:]
        var version: Int64 = 100
        /// How often each place was asked for, to read and to write.
        var counts: [String: Int] = [:]
    }

    private let state = Mutex(State())

    /// What a path names.
    private struct Place {
        var plural: String
        var namespace: String
        var name: String?

        init(_ path: String) {
            var parts = path.split(separator: "/").map(String.init)
            parts.removeFirst(parts[0] == "api" ? 2 : 3)
            namespace = ""
            if parts[0] == "namespaces", parts.count > 2 {
                namespace = parts[1]
                parts.removeFirst(2)
            }
            plural = parts[0]
            name = parts.count > 1 ? parts[1] : nil
        }

        func key(_ name: String) -> String { "\(plural)/\(namespace)/\(name)" }
    }

    func put(_ plural: String, _ namespace: String, _ name: String, _ object: JSONValue) {
        state.withLock { $0.objects["\(plural)/\(namespace)/\(name)"] = object }
    }

    func all(_ plural: String) -> [JSONValue] {
        state.withLock { state in
            state.objects.keys.filter { $0.hasPrefix(plural + "/") }.sorted().compactMap { state.objects[$0] }
        }
    }

    func answer(_ request: ScriptedServer.Request) -> ScriptedServer.Reply {
        state.withLock { state in
            let place = Place(request.path)
            let key = "\(request.method) \(request.path)\(request.isWatch ? " watch" : "")"
            let count = state.counts[key, default: 0]
            state.counts[key] = count + 1
            if request.isWatch {
                return count == 0 ? .refusal(410, "Expired") : .init(body: "", ending: .silent)
            }
            if request.method == "GET" {
                // Of two one is answered.
                return count % 2 == 0
                    ? .refusal(count % 4 == 0 ? 500 : 429, retryAfter: 0) : Self.read(place, state)
            }
            switch count {
            case 0: return .refusal(429, "TooManyRequests", retryAfter: 0)
            // It is done, and nobody is told.
            case 1:
                _ = Self.write(request, place, &state)
                return .refusal(503)
            case 2: return .refusal(409, "Conflict")
            default: return Self.write(request, place, &state)
            }
        }
    }

    private static func text(_ value: JSONValue) -> String {
        String(decoding: (try? JSONEncoder().encode(value)) ?? Data(), as: UTF8.self)
    }

    private static func read(_ place: Place, _ state: State) -> ScriptedServer.Reply {
        if let name = place.name {
            guard let object = state.objects[place.key(name)] else { return .refusal(404, "NotFound") }
            return .init(body: text(object))
        }
        let items = state.objects.filter { $0.key.hasPrefix(place.plural + "/") }.map(\.value)
        return .init(
            body: text([
                "metadata": ["resourceVersion": .string(String(state.version))], "items": .array(items),
            ]))
    }

    private static func write(
        _ request: ScriptedServer.Request, _ place: Place, _ state: inout State
    ) -> ScriptedServer.Reply {
        let body = (try? JSONDecoder().decode(JSONValue.self, from: request.body)) ?? [:]
        let name = place.name ?? field(body, "metadata", "name")
        let key = place.key(name)
        let present = state.objects[key]
        if request.method == "POST", present != nil { return .refusal(409, "AlreadyExists") }
        if request.method != "POST", present == nil { return .refusal(404, "NotFound") }
        if request.method == "DELETE" {
            let uid = field(body, "preconditions", "uid")
            guard uid.isEmpty || present.map({ field($0, "metadata", "uid") }) == uid else {
                return .refusal(409, "Conflict")
            }
            state.objects[key] = nil
            return .init(body: text(["kind": "Status", "status": "Success"]))
        }
        // Tried, and not kept.
        if request.query["dryRun"] != nil { return .init(body: text(body)) }
        let version = field(body, "metadata", "resourceVersion")
        if let present, !version.isEmpty, version != field(present, "metadata", "resourceVersion") {
            return .refusal(409, "Conflict")
        }
        state.version += 1
        let uid = present.map { field($0, "metadata", "uid") } ?? ""
        let stamp: JSONValue = [
            "metadata": [
                "resourceVersion": .string(String(state.version)),
                "uid": .string(uid.isEmpty ? "uid-" + key : uid),
            ]
        ]
        let object = merged(merged(request.method == "PATCH" ? present ?? [:] : [:], body), stamp)
        state.objects[key] = object
        return .init(body: text(object))
    }

    private static func field(_ value: JSONValue, _ first: String, _ second: String) -> String {
        value[first]?[second]?.text ?? ""
    }

    /// RFC 7386.
    private static func merged(_ present: JSONValue, _ patch: JSONValue) -> JSONValue {
        guard case .object(let changes) = patch else { return patch }
        var members: [String: JSONValue] = [:]
        if case .object(let known) = present { members = known }
        for (name, change) in changes {
            members[name] = change == .null ? nil : merged(members[name] ?? [:], change)
        }
        return .object(members)
    }
}
