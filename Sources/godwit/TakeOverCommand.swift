internal import ArgumentParser
internal import ControlProtocol
internal import Foundation
internal import RPC

extension VolumeCommand {
    struct TakeOver: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "takeover",
            abstract: "Own a volume whose owner's site is gone, without what it has not told.",
            discussion: """
                Without --force nothing is done: it tells which states of the volume are here, and what each lacks. \
                The owner that is overruled keeps what it has written since as a divergence; should it return, it \
                stops by itself. If the owner can still be reached, migrate or mount the volume instead: then nothing \
                is lost.

                Example: godwit volume takeover data
                         godwit volume takeover data --force --overrule 2 --from kept
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Flag(help: "Take it over. What the overruled owner has not told stays with it.") var force = false
        @Option(help: "The epoch that is overruled, as it is told without --force.") var overrule: UInt64?
        @Option(help: "The state to begin with: followed, kept or own. Default: the first that is told.")
        var from: String?
        @Flag(help: "Print JSON.") var json = false

        func validate() throws {
            if force, overrule == nil {
                throw ValidationError("--force wants the epoch that is overruled: --overrule.")
            }
            if !force, overrule != nil || from != nil {
                throw ValidationError("Nothing is done without --force.")
            }
        }

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_TakeOverRequest()
                request.volume = volume
                request.force = force
                request.overruledEpoch = overrule ?? 0
                request.base = from ?? ""
                let reply: Godwit_Control_V1_TakeOverReply = try await ControlClient(site).call(
                    "TakeOver", request)
                if json {
                    print(Self.json(reply))
                } else if force {
                    print("volume \(reply.volume) is owned here, at epoch \(reply.epoch)")
                } else {
                    print(Self.text(reply))
                }
            }
        }

        private static func json(_ reply: Godwit_Control_V1_TakeOverReply) -> String {
            var object = JSONObject()
            object.add("volume", reply.volume)
            object.add("overruledOwner", reply.overruledOwner)
            object.add("overruledEpoch", reply.overruledEpoch)
            object.add("epoch", reply.epoch)
            if let known = lastKnown(reply) {
                object.add("ownerSequence", UInt64(clamping: known.sequence))
                if known.hasAgeSeconds { object.add("ownerSilentSeconds", known.ageSeconds) }
            }
            for option in reply.options {
                object.add("\(option.name)Sequence", UInt64(clamping: option.sequence))
                if option.hasAgeSeconds { object.add("\(option.name)AgeSeconds", option.ageSeconds) }
                object.add("\(option.name)Inodes", option.inodeCount)
                object.add("\(option.name)TotalBytes", option.totalByteCount)
                object.add("\(option.name)MissingBytes", option.missingByteCount)
                if option.hasUnreachableByteCount {
                    object.add("\(option.name)UnreachableBytes", option.unreachableByteCount)
                    object.add("\(option.name)UnreachableFiles", option.unreachableFileCount)
                }
            }
            object.add("silentSites", reply.silentSites)
            object.add("ownerAnswers", reply.ownerAnswers)
            return object.text
        }

        private static func text(_ reply: Godwit_Control_V1_TakeOverReply) -> String {
            let owner =
                reply.overruledOwner.isEmpty
                ? "nobody who is known here; this site was overruled by epoch \(reply.overruledEpoch)"
                : "\(reply.overruledOwner) at epoch \(reply.overruledEpoch)"
            guard let first = reply.options.first else {
                return "volume \(reply.volume) is owned by \(owner); nothing of it is here to begin with"
            }
            let rows = reply.options.map { option in
                [
                    option.name, String(option.sequence),
                    option.hasAgeSeconds ? Text.duration(option.ageSeconds) + " ago" : "unknown",
                    String(option.inodeCount), Text.size(option.totalByteCount),
                    Text.size(option.missingByteCount), unreachable(option),
                ]
            }
            return """
                volume \(reply.volume) is owned by \(owner)

                \(Text.table([["STATE", "SEQUENCE", "AS OF", "INODES", "BYTES", "NOT HERE", "NOWHERE"]] + rows))

                \(ownersPosition(reply))
                What the owner has changed since is not in it. What is not here comes from where it is, as far as it has
                not changed there; what is nowhere is at no site that can be reached, and reading it fails until one
                returns that has it.\(silence(reply))
                To take it over: godwit volume takeover \(reply.volume) --force --overrule \(reply.overruledEpoch) \
                --from \(first.name)
                """
        }

        private static func unreachable(_ option: Godwit_Control_V1_TakeOverOption) -> String {
            guard option.hasUnreachableByteCount else { return "unknown" }
            let (bytes, files) = (option.unreachableByteCount, option.unreachableFileCount)
            guard bytes > 0 else { return Text.size(0) }
            return Text.size(bytes) + (files == 1 ? " in 1 file" : " in \(files) files")
        }

        private static func silence(_ reply: Godwit_Control_V1_TakeOverReply) -> String {
            var text = ""
            if !reply.silentSites.isEmpty {
                text =
                    "\nNot told, and so taken for nowhere: what \(reply.silentSites.joined(separator: ", ")) has."
            }
            if reply.ownerAnswers {
                text +=
                    "\n\(reply.overruledOwner) can be reached: migrate or mount the volume instead, then nothing is lost."
            }
            return text
        }

        /// The last that is known here of the owner. A follower takes all that there is whenever it asks; and who was given
        /// the volume began where it was kept.
        private static func lastKnown(
            _ reply: Godwit_Control_V1_TakeOverReply
        ) -> Godwit_Control_V1_TakeOverOption? {
            reply.options.first { $0.name == "followed" } ?? reply.options.first { $0.name == "kept" }
        }

        private static func ownersPosition(_ reply: Godwit_Control_V1_TakeOverReply) -> String {
            let owner = reply.overruledOwner
            guard let known = lastKnown(reply) else {
                return owner.isEmpty
                    ? "What was changed under epoch \(reply.overruledEpoch) is unknown here."
                    : "Where \(owner) is is unknown here."
            }
            let time =
                known.hasAgeSeconds
                ? Text.duration(known.ageSeconds) + " ago" : "at a time that is unknown here"
            let position =
                known.name == "followed"
                ? "\(owner) was at sequence \(known.sequence) \(time)"
                : "\(owner) was given the volume at sequence \(known.sequence), \(time)"
            return position + "; how far it has come since is unknown here."
        }
    }

    struct Diff: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List what is different in a divergence, compared with the volume as it is known here.",
            discussion: """
                One line for each path: A only in the divergence, D only in the volume, M different. Files count \
                as different when their size or the time of their last write is.
                Example: godwit volume diff data 2
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Argument(help: "The epoch under which the divergence was written.") var epoch: UInt64

        func run() async throws {
            try await reporting {
                let letters = ["added": "A", "removed": "D", "changed": "M"]
                try await ControlClient(site).stream(
                    "CompareDivergence", Divergence.request(volume, epoch)
                ) { (difference: Godwit_Control_V1_Difference) in
                    print((letters[difference.kind] ?? "?") + " " + Text.quoted(difference.path))
                }
            }
        }
    }

    struct Divergence: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Mount what this site wrote while it was overruled, make a volume of it, or delete it.",
            discussion: "'godwit volume inspect' tells the epochs under which it was written.",
            subcommands: [Mount.self, Restore.self, Delete.self])

        struct Mount: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Mount it read-only, to copy from it.",
                discussion: "Example: godwit volume divergence mount data 2 /mnt/old")

            @OptionGroup var site: SiteOptions
            @Argument(help: "The volume's name or identifier.") var volume: String
            @Argument(help: "The epoch under which it was written.") var epoch: UInt64
            @Argument(help: "An existing, empty directory.") var path: String

            func run() async throws {
                try await reporting {
                    let path = URL(fileURLWithPath: path).standardizedFileURL.path
                    let request = Divergence.request(volume, epoch, path: path)
                    let _: Godwit_Control_V1_Empty = try await ControlClient(site).call(
                        "MountDivergence", request)
                }
            }
        }

        struct Restore: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Make a volume of its own of it.",
                discussion: """
                    The divergence stays. All its bytes must be here, and there must be room for them once more.
                    Example: godwit volume divergence restore data 2 --as data-before
                    """)

            @OptionGroup var site: SiteOptions
            @Argument(help: "The volume's name or identifier.") var volume: String
            @Argument(help: "The epoch under which it was written.") var epoch: UInt64
            @Option(name: .customLong("as"), help: "The new volume's name.") var name: String
            @Flag(help: "Print JSON.") var json = false

            func run() async throws {
                try await reporting {
                    var request = Divergence.request(volume, epoch)
                    request.name = name
                    // As long as copying takes.
                    let reply: Godwit_Control_V1_Volume = try await ControlClient(site).call(
                        "RestoreDivergence", request, timeout: nil)
                    try VolumeText.print(reply, json: json)
                }
            }
        }

        struct Delete: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Delete it, for good.",
                discussion: "Example: godwit volume divergence delete data 2 --yes")

            @OptionGroup var site: SiteOptions
            @Argument(help: "The volume's name or identifier.") var volume: String
            @Argument(help: "The epoch under which it was written.") var epoch: UInt64
            @Flag(help: "It is in no other place, and is not wanted.") var yes = false

            func validate() throws {
                if !yes { throw ValidationError("This cannot be undone. Say --yes if you mean it.") }
            }

            func run() async throws {
                try await reporting {
                    let _: Godwit_Control_V1_Empty = try await ControlClient(site).call(
                        "DeleteDivergence", Divergence.request(volume, epoch))
                }
            }
        }

        fileprivate static func request(
            _ volume: String, _ epoch: UInt64, path: String = ""
        ) -> Godwit_Control_V1_DivergenceRequest {
            var request = Godwit_Control_V1_DivergenceRequest()
            request.volume = volume
            request.epoch = epoch
            request.path = path
            return request
        }
    }
}
