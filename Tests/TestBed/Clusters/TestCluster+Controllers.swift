internal import Foundation

extension TestCluster {
    /// A program that `Tests/install-kubernetes` puts beside the API server; nil where it has not run.
    package static func program(_ name: String) -> String? {
        guard let program else { return nil }
        let path = URL(fileURLWithPath: program).deletingLastPathComponent().path + "/" + name
        return FileManager.default.isExecutableFile(atPath: path) ? path : nil
    }

    /// The controllers that pods with volumes need. Those that would start what Manifests install are not among them:
    /// its image is in no registry.
    private static let controllers = [
        "attachdetach", "persistentvolume-binder", "persistentvolume-expander", "pvc-protection",
        "pv-protection", "statefulset", "nodelifecycle", "podgc", "garbagecollector", "namespace",
    ]

    /// Starts the controller manager; it ends with the cleanup. Nothing gives pods to nodes.
    package nonisolated func startControllers(_ cleanup: Cleanup) async throws {
        let name = "kube-controller-manager"
        guard let path = Self.program(name) else {
            throw LabError.programMissing("\(name) (run Tests/install-kubernetes)")
        }
        var program = Program(
            path,
            [
                "--kubeconfig", kubeconfig, "--leader-elect=false", "--port", "0", "--secure-port",
                String(try freePort()), "--bind-address", "127.0.0.1", "--cert-dir", "\(directory)/\(name)",
                "--controllers", Self.controllers.joined(separator: ","), "--v", "1",
            ])
        program.output = .file("\(directory)/\(name).log")
        try cleanup.add(try await ChildProcess.start(program))
    }
}
