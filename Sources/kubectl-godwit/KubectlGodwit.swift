internal import ArgumentParser
internal import VolumeModel

/// `kubectl godwit`, for whoever uses a cluster: it speaks to the API server alone, with the rights of its user.
@main
struct KubectlGodwit: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kubectl godwit",
        abstract: "Claims that move between clusters: ask for it, follow it, see what is wrong.",
        discussion: """
            Put 'kubectl-godwit' into a directory of PATH; kubectl finds it there. It reads the kubeconfig that kubectl \
            reads (--kubeconfig, else the files of KUBECONFIG, merged, else ~/.kube/config, else it is a pod).
            """,
        version: Release.current,
        subcommands: [
            Status.self, Migrate.self, TakeOver.self, Doctor.self, Init.self, Show.self, Trust.self,
            Distrust.self,
        ])
}
