internal import ArgumentParser
internal import ControlProtocol
internal import Foundation
internal import VolumeModel

/// `godwit volume …`
struct VolumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume", abstract: "Make, list, mount, unmount, inspect and delete volumes.",
        subcommands: [
            Create.self, List.self, Inspect.self, Mount.self, Unmount.self, Expand.self, Revoke.self,
            Hydrate.self,
            Check.self, TakeOver.self, GiveUp.self, Divergence.self, Diff.self,
            DropCopies.self, Delete.self,
        ])

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make an empty volume, owned by this site.",
            discussion: "Example: godwit volume create data --capacity 10Gi")

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name: 1 to 128 bytes, unique at the site.") var name: String
        @Option(help: "Its capacity, which df shows: 10Gi, 500M …") var capacity: ByteCount
        @Option(help: "Files and directories that it may hold. Default: as many as there is room for.")
        var inodes: UInt64?
        @Flag(help: "Print JSON.") var json = false

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_CreateVolumeRequest()
                request.name = name
                request.capacity = capacity.bytes
                request.inodeLimit = inodes ?? 0
                let volume: Godwit_Control_V1_Volume = try await ControlClient(site).call(
                    "CreateVolume", request)
                try VolumeText.print(volume, json: json)
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the volumes that this site knows.",
            discussion: "Example: godwit volume list --json")

        @OptionGroup var site: SiteOptions
        @Flag(help: "Print JSON, an array.") var json = false

        func run() async throws {
            try await reporting {
                let reply: Godwit_Control_V1_ListVolumesReply = try await ControlClient(site).call(
                    "ListVolumes", Godwit_Control_V1_ListVolumesRequest())
                if json {
                    print("[" + (try reply.volumes.map(VolumeText.json).joined(separator: ",\n ")) + "]")
                    return
                }
                let rows = reply.volumes.map { volume in
                    [
                        volume.name, volume.id, volume.node, volume.role, volume.owner, String(volume.epoch),
                        Text.size(volume.totalByteCount), VolumeText.residentPercent(volume),
                        volume.mounts.joined(separator: ","),
                    ]
                }
                print(
                    Text.table(
                        [["NAME", "ID", "NODE", "ROLE", "OWNER", "EPOCH", "BYTES", "RESIDENT", "MOUNTED"]]
                            + rows))
                for volume in reply.volumes where !volume.trouble.isEmpty {
                    print("\(volume.name): \(volume.trouble)")
                }
            }
        }
    }

    struct Inspect: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show everything that is known of a volume.",
            discussion: "Example: godwit volume inspect data")

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Flag(help: "Print JSON.") var json = false

        func run() async throws { try await show("InspectVolume", volume, site, json: json) }
    }

    struct Mount: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Mount a volume at a directory of this host.",
            discussion: """
                A volume that this site only follows is taken over first, if its owner has it unmounted.
                Example: godwit volume mount data /mnt/data
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Argument(help: "An existing, empty directory.") var path: String
        @Flag(help: "Mount read-only.") var readOnly = false

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_MountRequest()
                request.volume = volume
                request.path = URL(fileURLWithPath: path).standardizedFileURL.path
                request.readOnly = readOnly
                let _: Godwit_Control_V1_Volume = try await ControlClient(site).call("Mount", request)
            }
        }
    }

    struct Unmount: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Unmount a volume here.",
            discussion: "Refused while files are open. Example: godwit volume unmount data")

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_VolumeRequest()
                request.volume = volume
                let _: Godwit_Control_V1_Volume = try await ControlClient(site).call("Unmount", request)
            }
        }
    }

    struct Expand: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Let a volume hold more, also while it is mounted.",
            discussion: """
                A volume cannot be made smaller. Only its owner can expand it.
                Example: godwit volume expand data 20Gi
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Argument(help: "Its new capacity: 20Gi, 500M ….") var capacity: ByteCount?
        @Option(help: "Files and directories that it may hold; 0: as many as there is room for.")
        var inodes: UInt64?
        @Flag(help: "Print JSON.") var json = false

        func validate() throws {
            if capacity == nil, inodes == nil { throw ValidationError("Say a capacity, or --inodes.") }
        }

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_ExpandVolumeRequest()
                request.volume = volume
                if let capacity { request.capacity = capacity.bytes }
                if let inodes { request.inodeLimit = inodes }
                let reply: Godwit_Control_V1_Volume = try await ControlClient(site).call(
                    "ExpandVolume", request)
                try VolumeText.print(reply, json: json)
            }
        }
    }

    struct Revoke: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract:
                "Take back a site's right to know of a volume, that is to follow it and to take it over.",
            discussion: """
                Offering a volume to a site ('godwit migrate') gives the right. What the site has seen it has. Refused \
                while the volume is there, or bytes of it are on their way. 'godwit volume inspect --json' names the \
                sites that have it.
                Example: godwit volume revoke data --site sydney
                """)

        @OptionGroup var options: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Option(help: "The site.") var site: String
        @Flag(help: "Print JSON.") var json = false

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_RevokeRequest()
                request.volume = volume
                request.site = site
                let reply: Godwit_Control_V1_Volume = try await ControlClient(options).call("Revoke", request)
                try VolumeText.print(reply, json: json)
            }
        }
    }

    struct Hydrate: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Pause, resume or slow the fetching of a volume's missing bytes.",
            discussion: """
                What an application reads is fetched at once in any case. The setting stays until it is changed.
                Example: godwit volume hydrate data --rate-limit 10Mi
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Flag(inversion: .prefixedNo, help: "Fetch nothing in the background; --no-pause: go on.")
        var pause: Bool?
        @Option(help: "Bytes of the volume a second at most, as 10Mi or 500K; 'none' for no limit.")
        var rateLimit: RateLimit?
        @Option(
            help: """
                What is fetched before it is read: 'all'; 'start': only what the application reads when it starts; 'none'. \
                With the latter two the site that has the rest is needed for as long as there is some.
                """)
        var prefetch: PrefetchPolicy?
        @Flag(
            inversion: .prefixedNo,
            help:
                "While another site owns the volume, take its bytes ahead of a hand-over; --no-ahead: delete them."
        )
        var ahead: Bool?
        @Flag(help: "Print JSON.") var json = false

        func validate() throws {
            if pause == nil, rateLimit == nil, prefetch == nil, ahead == nil {
                throw ValidationError(
                    "Say --pause, --no-pause, --rate-limit, --prefetch, --ahead or --no-ahead.")
            }
        }

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_SetHydrationRequest()
                request.volume = volume
                if let pause { request.paused = pause }
                if let rateLimit { request.bytesPerSecond = rateLimit.bytesPerSecond }
                if let prefetch { request.prefetch = prefetch.rawValue }
                if let ahead { request.ahead = ahead }
                let reply: Godwit_Control_V1_Volume = try await ControlClient(site).call(
                    "SetHydration", request)
                try VolumeText.print(reply, json: json)
            }
        }
    }

    struct DropCopies: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "drop-copies",
            abstract: "Delete the copies of a volume that are kept here in case it returns.",
            discussion: """
                Nobody depends on them: should the volume return, all of its bytes come over the link.

                Example: godwit volume drop-copies data
                """)
        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String
        @Flag(help: "Print JSON.") var json = false

        func run() async throws { try await show("DropCopies", volume, site, json: json) }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Delete a volume and its bytes at this site.",
            discussion: """
                Refused while it is mounted, or while another site still fetches its bytes from here.
                Example: godwit volume delete data
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier.") var volume: String

        func run() async throws {
            try await reporting {
                var request = Godwit_Control_V1_VolumeRequest()
                request.volume = volume
                let _: Godwit_Control_V1_Empty = try await ControlClient(site).call("DeleteVolume", request)
            }
        }
    }
}

private func show(_ method: String, _ volume: String, _ site: SiteOptions, json: Bool) async throws {
    try await reporting {
        var request = Godwit_Control_V1_VolumeRequest()
        request.volume = volume
        let reply: Godwit_Control_V1_Volume = try await ControlClient(site).call(method, request)
        try VolumeText.print(reply, json: json)
    }
}

/// A volume as text.
enum VolumeText {
    static func json(_ volume: Godwit_Control_V1_Volume) throws -> String {
        var options = JSONObject()
        options.add("id", volume.id)
        options.add("name", volume.name)
        options.add("capacity", volume.capacity)
        options.add("node", volume.node)
        options.add("role", volume.role)
        options.add("owner", volume.owner)
        options.add("epoch", volume.epoch)
        options.add("origin", volume.origin)
        options.add("allocatedBytes", volume.allocatedByteCount)
        options.add("inodeLimit", volume.inodeLimit)
        options.add("inodes", volume.inodeCount)
        options.add("totalBytes", volume.totalByteCount)
        options.add("missingBytes", volume.missingByteCount)
        options.add("namesArriving", volume.namesArriving)
        options.add("receivedBytes", volume.receivedByteCount)
        options.add("savedBytes", volume.savedByteCount)
        options.add("neededBytes", volume.neededByteCount)
        options.add("keptCopies", volume.keptCopies.map { String($0.epoch) })
        options.add("keptCopyBytes", volume.keptCopies.reduce(0) { $0 &+ $1.byteCount })
        options.add("faults", volume.faultCount)
        options.add("faultP50Microseconds", volume.faultP50Microseconds)
        options.add("faultP99Microseconds", volume.faultP99Microseconds)
        options.add("waitingReason", volume.waitingReason)
        options.add("trouble", volume.trouble)
        options.add("healed", volume.healed)
        options.add("divergences", volume.divergences.map(String.init))
        options.add("released", volume.released)
        options.add("sharedWith", volume.sharedWith)
        options.add("hydrationPaused", volume.hydrationPaused)
        options.add("hydrationBytesPerSecond", volume.hydrationBytesPerSecond)
        options.add("hydrationPrefetch", volume.hydrationPrefetch)
        options.add("hydrationAhead", volume.hydrationAhead)
        options.add("aheadBytes", volume.aheadByteCount)
        options.add("prefetchedBytes", volume.prefetchedByteCount)
        options.add("prefetchedUnreadBytes", volume.prefetchedUnreadByteCount)
        options.add("mounts", volume.mounts)
        return options.text
    }

    static func residentPercent(_ volume: Godwit_Control_V1_Volume) -> String {
        guard volume.totalByteCount > 0 else { return volume.missingByteCount == 0 ? "100 %" : "0 %" }
        let resident = volume.totalByteCount - min(volume.totalByteCount, volume.missingByteCount)
        return Text.decimal(Double(resident) * 100 / Double(volume.totalByteCount), places: 1) + " %"
    }

    static func print(_ volume: Godwit_Control_V1_Volume, json: Bool) throws {
        if json {
            Swift.print(try Self.json(volume))
            return
        }
        var rows = [
            ["name", volume.name], ["id", volume.id], ["capacity", Text.size(volume.capacity)],
            ["node", volume.node], ["role here", volume.role],
            ["owner", "\(volume.owner) at epoch \(volume.epoch)"],
            ["used", "\(Text.size(volume.allocatedByteCount)) of the capacity"],
            [
                "inodes",
                String(volume.inodeCount) + (volume.inodeLimit > 0 ? " of \(volume.inodeLimit)" : ""),
            ],
            ["bytes", "\(Text.size(volume.totalByteCount)), \(residentPercent(volume)) resident"],
        ]
        if !volume.origin.isEmpty { rows.append(["origin", "site \(volume.origin)"]) }
        if volume.namesArriving { rows.append(["names", "still arriving from site \(volume.origin)"]) }
        if volume.receivedByteCount > 0 || volume.savedByteCount > 0 {
            rows.append([
                "moved",
                "\(Text.size(volume.receivedByteCount)) over the link, "
                    + "\(Text.size(volume.savedByteCount)) taken from a copy here, "
                    + "\(Text.size(volume.neededByteCount)) read by applications",
            ])
        }
        for copy in volume.keptCopies {
            rows.append([
                "kept copy", "\(Text.size(copy.byteCount)), as handed over to epoch \(copy.epoch)",
            ])
        }
        if volume.faultCount > 0 {
            rows.append([
                "faults",
                "\(volume.faultCount), p50 \(Text.milliseconds(volume.faultP50Microseconds)), "
                    + "p99 \(Text.milliseconds(volume.faultP99Microseconds))",
            ])
        }
        if volume.hydrationPaused { rows.append(["hydration", "paused"]) }
        if volume.hydrationBytesPerSecond > 0 {
            rows.append(["rate limit", "\(Text.size(volume.hydrationBytesPerSecond)) a second"])
        }
        if !["", "all"].contains(volume.hydrationPrefetch) {
            rows.append(["prefetch", volume.hydrationPrefetch])
        }
        if volume.hydrationAhead || volume.aheadByteCount > 0 {
            let state = volume.hydrationAhead ? "" : " (not any more)"
            rows.append(["taken ahead", Text.size(volume.aheadByteCount) + state])
        }
        if volume.prefetchedByteCount > 0 {
            rows.append([
                "fetched ahead",
                "\(Text.size(volume.prefetchedByteCount)), "
                    + "\(Text.size(volume.prefetchedUnreadByteCount)) of it not read yet",
            ])
        }
        if !volume.waitingReason.isEmpty { rows.append(["waits", volume.waitingReason]) }
        for epoch in volume.divergences {
            rows.append(["divergence", "what was written here at epoch \(epoch) and is nowhere else"])
        }
        if !volume.trouble.isEmpty { rows.append(["trouble", volume.trouble]) }
        if !volume.healed.isEmpty { rows.append(["healed", volume.healed]) }
        for mount in volume.mounts { rows.append(["mounted at", mount]) }
        Swift.print(Text.table(rows))
    }
}

extension PrefetchPolicy: ExpressibleByArgument {}
