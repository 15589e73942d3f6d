internal import ArgumentParser
internal import VolumeModel

/// The command `godwit`.
@main
struct Godwit: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "godwit",
        abstract: "Volumes that move between clusters before their bytes do.",
        discussion: """
            A site runs 'godwit site', and 'godwit hold' keeps its mounts while that is replaced. Everything else talks to it: 'godwit volume' makes, mounts and \
            inspects volumes, 'godwit migrate' hands one to another site, 'godwit csi' drives a CSI socket \
            by hand. Sites trust each other after 'godwit pki'. 'godwit gateway' is the one address of a site of \
            several nodes.

            Exit codes: 0 done; 1 failed; 64 the command line is wrong; 10 + a gRPC status code when a \
            site or driver refused (15: not found, 16: exists, 19: not in this state, 24: not reachable).
            """,
        version: Release.current,
        subcommands: [
            SiteCommand.self, VolumeCommand.self, MigrateCommand.self, PKICommand.self, CSICommand.self,
            ControllerCommand.self, GatewayCommand.self, HoldCommand.self,
        ])
}
