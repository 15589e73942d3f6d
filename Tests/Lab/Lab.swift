internal import ArgumentParser

@main
struct Lab: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "godwit-lab",
        abstract: "Tools to show, measure and test Godwit on one machine.",
        subcommands: [BenchCommand.self, DemoCommand.self, WANCommand.self]
    )
}
