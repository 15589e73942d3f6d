internal import Foundation

extension KubernetesClient {
    private struct Version: Decodable {
        var gitVersion: String
    }

    /// The release of the API server, for example `v1.36.0`.
    package func serverVersion() async throws(KubernetesError) -> String {
        try Self.decode(Version.self, try await send(Request(method: .get, path: "/version"))).gitVersion
    }
}
