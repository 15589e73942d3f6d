internal import ArgumentParser
internal import ControlProtocol

extension VolumeCommand {
    struct GiveUp: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "give-up",
            abstract: "Give up what was begun here to own a volume, and has not come to its end.",
            discussion: """
                A move whose command failed or was interrupted goes on by itself, and after an hour in which nobody asks \
                again it is given up. This does so at once, at the site that was to own the volume: it declines, for good \
                and whether or not the other site can be told yet. The volume then stays at its owner, or goes back there \
                as soon as that one hears of it. At a site that wants back what it has sealed, the hand-over goes on \
                instead. The same may be asked for again, and is then begun anew.

                A takeover by force is carried out at once or not at all, and leaves nothing to give up.

                Example: godwit volume give-up data
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Flag(help: "Print JSON.") var json = false

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_VolumeRequest()
                request.volume = volume
                let reply: Godwit_Control_V1_Volume = try await ControlClient(site).call("GiveUp", request)
                if json {
                    try VolumeText.print(reply, json: true)
                } else {
                    print(Self.text(reply))
                }
            }
        }

        private static func text(_ volume: Godwit_Control_V1_Volume) -> String {
            switch volume.role {
            case "declining":
                "given up: volume \(volume.name) stays at \(volume.owner), or goes back there, as soon as that site can be told"
            case "sealed":
                "volume \(volume.name) goes on to \(volume.owner): mount it here to have it back"
            default:
                "nothing is asked for here: volume \(volume.name) is owned by \(volume.owner)"
            }
        }
    }
}
