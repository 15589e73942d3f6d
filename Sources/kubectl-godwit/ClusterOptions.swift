internal import ArgumentParser
internal import Foundation
internal import KubernetesAPI

/// Which cluster and namespace, as kubectl takes them.
struct ClusterOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The kubeconfig file.", valueName: "path")) var kubeconfig: String?
    @Option(help: "The kubeconfig's context; the current one if not given.") var context: String?
    @Option(name: [.customShort("n"), .long], help: "The namespace; the context's if not given.")
    var namespace: String?

    /// Runs something with a client of the cluster, and says what went wrong in one line.
    func withClient(_ body: (KubernetesClient) async throws -> Void) async throws {
        do {
            let client = try KubernetesClient(try connection(), options: Self.options)
            let result: Result<Void, any Error>
            do {
                result = .success(try await body(client))
            } catch {
                result = .failure(error)
            }
            await client.close()
            try result.get()
        } catch let error as KubernetesError {
            try Terminal.fail(error.description)
        }
    }

    private static var options: KubernetesClient.Options {
        var options = KubernetesClient.Options()
        options.userAgent = "kubectl-godwit"
        return options
    }

    private func connection() throws(KubernetesError) -> ClusterConnection {
        let environment = ProcessInfo.processInfo.environment
        if let kubeconfig { return try .kubeconfig(path: kubeconfig, context: context, runsPrograms: true) }
        let home = (environment["HOME"] ?? "") + "/.kube/config"
        var candidates = (environment["KUBECONFIG"] ?? "").split(separator: ":").map(String.init)
        if candidates.isEmpty { candidates = [home] }
        if candidates.contains(where: { FileManager.default.fileExists(atPath: $0) }) {
            return try .kubeconfig(paths: candidates, context: context, runsPrograms: true)
        }
        guard environment["KUBERNETES_SERVICE_HOST"] != nil, context == nil else {
            throw .configuration(
                "there is no kubeconfig: \(candidates.joined(separator: ", ")); name one with --kubeconfig")
        }
        return try .inCluster()
    }
}

/// How something is printed for programs.
enum OutputFormat: String, ExpressibleByArgument, CaseIterable { case json }
