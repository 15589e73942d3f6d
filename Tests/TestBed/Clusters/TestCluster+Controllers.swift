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

    /// Starts the controller manager and the scheduler; they end with the cleanup.
    package nonisolated func startControllers(_ cleanup: Cleanup) async throws {
        let options = ["--kubeconfig", kubeconfig, "--leader-elect=false", "--port", "0", "--v", "1"]
        for (name, more) in [
            ("kube-controller-manager", ["--controllers", Self.controllers.joined(separator: ",")]),
            ("kube-scheduler", []),
        ] {
            guard let path = Self.program(name) else {
                throw LabError.programMissing("\(name) (run Tests/install-kubernetes)")
            }
            let own = [
                "--secure-port", String(try freePort()), "--bind-address", "127.0.0.1",
                "--cert-dir", "\(directory)/\(name)",
            ]
            var program = Program(path, options + own + more)
            program.output = .file("\(directory)/\(name).log")
            try cleanup.add(try await ChildProcess.start(program))
        }
    }
}
