import Foundation
import FoundationNetworking

@testable import TestBed

extension TestCluster {
    /// All that a cluster holds at a moment: its objects as etcd has them, and the names of the files beside them.
    struct Contents: Sendable {
        /// The values, in base64.
        fileprivate let objects: [String: String]
        fileprivate let files: Set<String>
    }

    /// What the cluster holds now.
    func contents() async throws -> Contents {
        Contents(objects: try await objects(), files: try files())
    }

    /// Makes the cluster hold what it held then, whatever was made, changed or deleted since, and starts its API server if
    /// that was killed. May be repeated. Takes a fraction of a second, where a new cluster takes ten.
    ///
    /// Whoever worked with the cluster has to have ended. The API server hears of it as of any change in etcd: what it
    /// keeps in memory of namespaces and rights follows within milliseconds, which are waited for.
    func restore(_ contents: Contents) async throws {
        let isStarted = try await startServerIfKilled()
        let present = try await objects()
        // Those that may not be served yet.
        var kinds = isStarted ? contents.objects.keys.compactMap(Self.kind) : []
        // One at a time: each change gets a version of its own, as those of an API server do.
        for key in present.keys where contents.objects[key] == nil {
            _ = try await ask("deleterange", ["key": Self.encoded(key)])
        }
        for (key, value) in contents.objects where present[key] != value {
            _ = try await ask("put", ["key": Self.encoded(key), "value": value])
            kinds += [Self.kind(key)].compactMap(\.self)
        }
        for file in try files().subtracting(contents.files) {
            try FileManager.default.removeItem(atPath: "\(directory)/\(file)")
        }
        for kind in kinds { try await waitUntilServed(kind) }
        try await Task.sleep(for: .milliseconds(100))
    }

    /// What a custom resource definition at this place in etcd defines.
    private static func kind(_ key: String) -> String? {
        let place = "/registry/apiextensions.k8s.io/customresourcedefinitions/"
        return key.hasPrefix(place) ? String(key.dropFirst(place.count)) : nil
    }

    private func files() throws -> Set<String> {
        Set(try FileManager.default.contentsOfDirectory(atPath: directory))
    }

    private func objects() async throws -> [String: String] {
        // All that begins with the former: the latter is the first that does not.
        let range = ["key": Self.encoded("/registry/"), "range_end": Self.encoded("/registry0")]
        var found: [String: String] = [:]
        for pair in try await ask("range", range)["kvs"] as? [[String: Any]] ?? [] {
            guard let key = (pair["key"] as? String).flatMap({ Data(base64Encoded: $0) }),
                let value = pair["value"] as? String
            else { throw LabError.invalid("etcd of \(name) answers \(pair)") }
            found[String(decoding: key, as: UTF8.self)] = value
        }
        guard !found.isEmpty else { throw LabError.invalid("etcd of \(name) is empty") }
        return found
    }

    private static func encoded(_ key: String) -> String { Data(key.utf8).base64EncodedString() }

    /// Calls etcd itself, whose messages may be JSON.
    private func ask(_ call: String, _ message: [String: String]) async throws -> [String: Any] {
        guard let url = URL(string: "http://127.0.0.1:\(etcdPort)/v3/kv/\(call)") else {
            throw LabError.invalid("no call \(call)")
        }
        var request = URLRequest(url: url)
        request.httpMethod = "POST"
        request.httpBody = try JSONSerialization.data(withJSONObject: message)
        let (data, response) = try await URLSession.shared.data(for: request)
        guard (response as? HTTPURLResponse)?.statusCode == 200,
            let answer = try JSONSerialization.jsonObject(with: data) as? [String: Any]
        else {
            throw LabError.invalid(
                "etcd of \(name) answers \(call) with \(String(decoding: data.prefix(300), as: UTF8.self))")
        }
        return answer
    }

    private func waitUntilServed(_ kind: String) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            let outcome = try await kubectl(["get", kind, "--all-namespaces"])
            guard !outcome.exit.isSuccess else { return }
            guard ContinuousClock.now < deadline else {
                throw LabError.invalid("the API server \(name) does not serve \(kind): \(outcome.output)")
            }
            try await Task.sleep(for: .milliseconds(100))
        }
    }
}
