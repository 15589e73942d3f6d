internal import ArgumentParser
internal import CSIProtocol
internal import SwiftProtobuf

/// CSI's Identity and Controller services.
extension CSICommand {
    struct Info: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "The driver's name and version.", discussion: "Example: godwit csi info")
        @OptionGroup var connection: Connection

        func run() async throws {
            try await reporting {
                try await connection.call(
                    "Identity/GetPluginInfo", Csi_V1_GetPluginInfoRequest(),
                    as: Csi_V1_GetPluginInfoResponse.self)
            }
        }
    }

    struct Capabilities: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "What the driver, its controller and its node service offer.",
            discussion: "Prints one JSON object a service. Example: godwit csi capabilities")
        @OptionGroup var connection: Connection

        func run() async throws {
            try await reporting {
                try await connection.call(
                    "Identity/GetPluginCapabilities", Csi_V1_GetPluginCapabilitiesRequest(),
                    as: Csi_V1_GetPluginCapabilitiesResponse.self)
                try await connection.call(
                    "Controller/ControllerGetCapabilities", Csi_V1_ControllerGetCapabilitiesRequest(),
                    as: Csi_V1_ControllerGetCapabilitiesResponse.self)
                try await connection.call(
                    "Node/NodeGetCapabilities", Csi_V1_NodeGetCapabilitiesRequest(),
                    as: Csi_V1_NodeGetCapabilitiesResponse.self)
            }
        }
    }

    struct Probe: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Whether the driver is ready.", discussion: "Example: godwit csi probe")
        @OptionGroup var connection: Connection

        func run() async throws {
            try await reporting {
                try await connection.call(
                    "Identity/Probe", Csi_V1_ProbeRequest(), as: Csi_V1_ProbeResponse.self)
            }
        }
    }

    struct CreateVolume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a volume.",
            discussion: "Example: godwit csi create-volume data --required-bytes 10Gi")
        @OptionGroup var connection: Connection
        @OptionGroup var capability: CapabilityOptions
        @OptionGroup var secrets: SecretOptions
        @Argument(help: "The volume's name: the same name gives the same volume.") var name: String
        @Option(help: "At least this large: 10Gi, 500M …") var requiredBytes: ByteCount?
        @Option(help: "At most this large.") var limitBytes: ByteCount?
        @Option(help: ArgumentHelp("A parameter; may be repeated.", valueName: "key=value"))
        var parameter: [String] = []
        @Option(help: ArgumentHelp("One that may be changed later; may be repeated.", valueName: "key=value"))
        var mutableParameter: [String] = []

        func run() async throws {
            try await reporting {
                var request = Csi_V1_CreateVolumeRequest()
                request.name = name
                request.capacityRange.requiredBytes = Int64(clamping: requiredBytes?.bytes ?? 0)
                request.capacityRange.limitBytes = Int64(clamping: limitBytes?.bytes ?? 0)
                request.volumeCapabilities = [try capability.capability()]
                request.parameters = try CSICommand.pairs(parameter)
                request.mutableParameters = try CSICommand.pairs(mutableParameter)
                request.secrets = try secrets.secrets()
                try await connection.call(
                    "Controller/CreateVolume", request, as: Csi_V1_CreateVolumeResponse.self)
            }
        }
    }

    struct DeleteVolume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Delete a volume.", discussion: "Example: godwit csi delete-volume ID")
        @OptionGroup var connection: Connection
        @OptionGroup var secrets: SecretOptions
        @Argument(help: "The volume's id.") var id: String

        func run() async throws {
            try await reporting {
                var request = Csi_V1_DeleteVolumeRequest()
                request.volumeID = id
                request.secrets = try secrets.secrets()
                try await connection.call(
                    "Controller/DeleteVolume", request, as: Csi_V1_DeleteVolumeResponse.self)
            }
        }
    }

    struct Publish: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Attach a volume to a node (ControllerPublishVolume).",
            discussion: "Example: godwit csi publish ID --node host-1")
        @OptionGroup var connection: Connection
        @OptionGroup var capability: CapabilityOptions
        @OptionGroup var secrets: SecretOptions
        @Argument(help: "The volume's id.") var id: String
        @Option(help: "The node's id, as 'node-info' tells it.") var node: String
        @Flag(help: "Attach it read-only.") var readonly = false

        func run() async throws {
            try await reporting {
                var request = Csi_V1_ControllerPublishVolumeRequest()
                request.volumeID = id
                request.nodeID = node
                request.volumeCapability = try capability.capability()
                request.readonly = readonly
                request.secrets = try secrets.secrets()
                try await connection.call(
                    "Controller/ControllerPublishVolume", request,
                    as: Csi_V1_ControllerPublishVolumeResponse.self)
            }
        }
    }

    struct Unpublish: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Detach a volume from a node (ControllerUnpublishVolume).",
            discussion: "Example: godwit csi unpublish ID --node host-1")
        @OptionGroup var connection: Connection
        @Argument(help: "The volume's id.") var id: String
        @Option(help: "The node's id; all nodes if not given.") var node = ""

        func run() async throws {
            try await reporting {
                var request = Csi_V1_ControllerUnpublishVolumeRequest()
                request.volumeID = id
                request.nodeID = node
                try await connection.call(
                    "Controller/ControllerUnpublishVolume", request,
                    as: Csi_V1_ControllerUnpublishVolumeResponse.self)
            }
        }
    }

    struct Validate: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Ask whether a volume can be used in a way (ValidateVolumeCapabilities).",
            discussion: "Example: godwit csi validate ID --access-mode multi-node-multi-writer")
        @OptionGroup var connection: Connection
        @OptionGroup var capability: CapabilityOptions
        @Argument(help: "The volume's id.") var id: String

        func run() async throws {
            try await reporting {
                var request = Csi_V1_ValidateVolumeCapabilitiesRequest()
                request.volumeID = id
                request.volumeCapabilities = [try capability.capability()]
                try await connection.call(
                    "Controller/ValidateVolumeCapabilities", request,
                    as: Csi_V1_ValidateVolumeCapabilitiesResponse.self)
            }
        }
    }

    struct ListVolumes: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List volumes, in pages.",
            discussion: "Example: godwit csi list-volumes --max-entries 10")
        @OptionGroup var connection: Connection
        @Option(help: "Entries on a page; 0: all.") var maxEntries: Int32 = 0
        @Option(help: "Where to go on: the last page's next_token.") var startingToken = ""

        func run() async throws {
            try await reporting {
                var request = Csi_V1_ListVolumesRequest()
                request.maxEntries = maxEntries
                request.startingToken = startingToken
                try await connection.call(
                    "Controller/ListVolumes", request, as: Csi_V1_ListVolumesResponse.self)
            }
        }
    }

    struct GetVolume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "One volume and its condition (ControllerGetVolume).",
            discussion: "Example: godwit csi get-volume ID")
        @OptionGroup var connection: Connection
        @Argument(help: "The volume's id.") var id: String

        func run() async throws {
            try await reporting {
                var request = Csi_V1_ControllerGetVolumeRequest()
                request.volumeID = id
                try await connection.call(
                    "Controller/ControllerGetVolume", request, as: Csi_V1_ControllerGetVolumeResponse.self)
            }
        }
    }

    struct ExpandVolume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Let a volume hold more (ControllerExpandVolume).",
            discussion: "Example: godwit csi expand-volume ID --required-bytes 20Gi")
        @OptionGroup var connection: Connection
        @Argument(help: "The volume's id.") var id: String
        @Option(help: "What it is to hold at least: 20Gi, 500M ….") var requiredBytes: ByteCount
        @Option(help: "What it is to hold at most.") var limitBytes: ByteCount?

        func run() async throws {
            try await reporting {
                var request = Csi_V1_ControllerExpandVolumeRequest()
                request.volumeID = id
                request.capacityRange.requiredBytes = Int64(clamping: requiredBytes.bytes)
                request.capacityRange.limitBytes = Int64(clamping: limitBytes?.bytes ?? 0)
                try await connection.call(
                    "Controller/ControllerExpandVolume", request,
                    as: Csi_V1_ControllerExpandVolumeResponse.self)
            }
        }
    }

    struct ModifyVolume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Change a volume's mutable parameters (ControllerModifyVolume).",
            discussion: "Example: godwit csi modify-volume ID --mutable-parameter rateLimit=10Mi")
        @OptionGroup var connection: Connection
        @OptionGroup var secrets: SecretOptions
        @Argument(help: "The volume's id.") var id: String
        @Option(help: ArgumentHelp("What to change; may be repeated.", valueName: "key=value"))
        var mutableParameter: [String] = []

        func run() async throws {
            try await reporting {
                var request = Csi_V1_ControllerModifyVolumeRequest()
                request.volumeID = id
                request.mutableParameters = try CSICommand.pairs(mutableParameter)
                request.secrets = try secrets.secrets()
                try await connection.call(
                    "Controller/ControllerModifyVolume", request,
                    as: Csi_V1_ControllerModifyVolumeResponse.self)
            }
        }
    }

    struct GetCapacity: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "How much room there is for volumes.", discussion: "Example: godwit csi get-capacity")
        @OptionGroup var connection: Connection

        func run() async throws {
            try await reporting {
                try await connection.call(
                    "Controller/GetCapacity", Csi_V1_GetCapacityRequest(), as: Csi_V1_GetCapacityResponse.self
                )
            }
        }
    }
}
