internal import ArgumentParser
internal import CSIProtocol
internal import Foundation
internal import SwiftProtobuf

/// CSI's Node service, and any call by its name.
extension CSICommand {
    struct Stage: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Mount a volume on this node (NodeStageVolume).",
            discussion: "Example: godwit csi stage ID --staging-path /var/lib/stage/data")
        @OptionGroup var connection: Connection
        @OptionGroup var capability: CapabilityOptions
        @OptionGroup var contexts: ContextOptions
        @OptionGroup var secrets: SecretOptions
        @Argument(help: "The volume's id.") var id: String
        @Option(help: "Where it is mounted for the node.") var stagingPath: String

        func run() async throws {
            try await reporting {
                var request = Csi_V1_NodeStageVolumeRequest()
                request.volumeID = id
                request.stagingTargetPath = stagingPath
                request.volumeCapability = try capability.capability()
                request.publishContext = try CSICommand.pairs(contexts.publishContext)
                request.volumeContext = try CSICommand.pairs(contexts.volumeContext)
                request.secrets = try secrets.secrets()
                try await connection.call(
                    "Node/NodeStageVolume", request, as: Csi_V1_NodeStageVolumeResponse.self)
            }
        }
    }

    struct Unstage: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Undo 'stage' (NodeUnstageVolume).",
            discussion: "Example: godwit csi unstage ID --staging-path /var/lib/stage/data")
        @OptionGroup var connection: Connection
        @Argument(help: "The volume's id.") var id: String
        @Option(help: "Where it was mounted.") var stagingPath: String

        func run() async throws {
            try await reporting {
                var request = Csi_V1_NodeUnstageVolumeRequest()
                request.volumeID = id
                request.stagingTargetPath = stagingPath
                try await connection.call(
                    "Node/NodeUnstageVolume", request, as: Csi_V1_NodeUnstageVolumeResponse.self)
            }
        }
    }

    struct NodePublish: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show a staged volume to a pod (NodePublishVolume).",
            discussion:
                "Example: godwit csi node-publish ID --staging-path /var/lib/stage/data --target-path /mnt/data"
        )
        @OptionGroup var connection: Connection
        @OptionGroup var capability: CapabilityOptions
        @OptionGroup var contexts: ContextOptions
        @OptionGroup var secrets: SecretOptions
        @Argument(help: "The volume's id.") var id: String
        @Option(help: "Where it is staged; an ephemeral volume is not.") var stagingPath = ""
        @Option(help: "Where the pod sees it; its parent must exist.") var targetPath: String
        @Flag(help: "Show it read-only.") var readonly = false

        func run() async throws {
            try await reporting {
                var request = Csi_V1_NodePublishVolumeRequest()
                request.volumeID = id
                request.stagingTargetPath = stagingPath
                request.targetPath = targetPath
                request.volumeCapability = try capability.capability()
                request.readonly = readonly
                request.publishContext = try CSICommand.pairs(contexts.publishContext)
                request.volumeContext = try CSICommand.pairs(contexts.volumeContext)
                request.secrets = try secrets.secrets()
                try await connection.call(
                    "Node/NodePublishVolume", request, as: Csi_V1_NodePublishVolumeResponse.self)
            }
        }
    }

    struct NodeUnpublish: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Undo 'node-publish' (NodeUnpublishVolume).",
            discussion: "Example: godwit csi node-unpublish ID --target-path /mnt/data")
        @OptionGroup var connection: Connection
        @Argument(help: "The volume's id.") var id: String
        @Option(help: "Where the pod saw it.") var targetPath: String

        func run() async throws {
            try await reporting {
                var request = Csi_V1_NodeUnpublishVolumeRequest()
                request.volumeID = id
                request.targetPath = targetPath
                try await connection.call(
                    "Node/NodeUnpublishVolume", request, as: Csi_V1_NodeUnpublishVolumeResponse.self)
            }
        }
    }

    struct NodeStats: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "How full a mounted volume is (NodeGetVolumeStats).",
            discussion: "Example: godwit csi node-stats ID --volume-path /mnt/data")
        @OptionGroup var connection: Connection
        @Argument(help: "The volume's id.") var id: String
        @Option(help: "Where it is mounted.") var volumePath: String

        func run() async throws {
            try await reporting {
                var request = Csi_V1_NodeGetVolumeStatsRequest()
                request.volumeID = id
                request.volumePath = volumePath
                try await connection.call(
                    "Node/NodeGetVolumeStats", request, as: Csi_V1_NodeGetVolumeStatsResponse.self)
            }
        }
    }

    struct NodeInfo: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "The node's id and where it is (NodeGetInfo).",
            discussion: "Example: godwit csi node-info")
        @OptionGroup var connection: Connection

        func run() async throws {
            try await reporting {
                try await connection.call(
                    "Node/NodeGetInfo", Csi_V1_NodeGetInfoRequest(), as: Csi_V1_NodeGetInfoResponse.self)
            }
        }
    }

    struct Call: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Any call, with its request as JSON.",
            discussion: #"Example: godwit csi call Node/NodeGetInfo --json '{}'"#)
        @OptionGroup var connection: Connection
        @Argument(help: "Service and method: Identity/Probe, Controller/CreateVolume …") var method: String
        @Option(help: "The request; '-' reads it from standard input.") var json = "{}"

        func run() async throws {
            try await reporting {
                guard let call = Self.calls[method] else {
                    let known = Self.calls.keys.sorted().joined(separator: ", ")
                    throw ValidationError("'\(method)' is none of \(known)")
                }
                let text =
                    json == "-"
                    ? String(decoding: FileHandle.standardInput.readDataToEndOfFile(), as: UTF8.self) : json
                try await call(connection, method, text)
            }
        }

        private typealias Caller = @Sendable (Connection, String, String) async throws -> Void

        private static func caller<Request: Message, Response: Message>(
            _: Request.Type, _: Response.Type
        ) -> Caller {
            { connection, method, text in
                let request: Request
                do {
                    request = try Request(jsonString: text)
                } catch {
                    throw ValidationError("the JSON is no request of \(method): \(error)")
                }
                try await connection.call(method, request, as: Response.self)
            }
        }

        private static let calls: [String: Caller] = [
            "Identity/GetPluginInfo": caller(
                Csi_V1_GetPluginInfoRequest.self, Csi_V1_GetPluginInfoResponse.self),
            "Identity/GetPluginCapabilities": caller(
                Csi_V1_GetPluginCapabilitiesRequest.self, Csi_V1_GetPluginCapabilitiesResponse.self),
            "Identity/Probe": caller(
                Csi_V1_ProbeRequest.self, Csi_V1_ProbeResponse.self),
            "Controller/CreateVolume": caller(
                Csi_V1_CreateVolumeRequest.self, Csi_V1_CreateVolumeResponse.self),
            "Controller/DeleteVolume": caller(
                Csi_V1_DeleteVolumeRequest.self, Csi_V1_DeleteVolumeResponse.self),
            "Controller/ControllerPublishVolume": caller(
                Csi_V1_ControllerPublishVolumeRequest.self, Csi_V1_ControllerPublishVolumeResponse.self),
            "Controller/ControllerUnpublishVolume": caller(
                Csi_V1_ControllerUnpublishVolumeRequest.self, Csi_V1_ControllerUnpublishVolumeResponse.self),
            "Controller/ValidateVolumeCapabilities": caller(
                Csi_V1_ValidateVolumeCapabilitiesRequest.self, Csi_V1_ValidateVolumeCapabilitiesResponse.self),
            "Controller/ListVolumes": caller(
                Csi_V1_ListVolumesRequest.self, Csi_V1_ListVolumesResponse.self),
            "Controller/GetCapacity": caller(
                Csi_V1_GetCapacityRequest.self, Csi_V1_GetCapacityResponse.self),
            "Controller/ControllerGetCapabilities": caller(
                Csi_V1_ControllerGetCapabilitiesRequest.self, Csi_V1_ControllerGetCapabilitiesResponse.self),
            "Controller/ControllerExpandVolume": caller(
                Csi_V1_ControllerExpandVolumeRequest.self, Csi_V1_ControllerExpandVolumeResponse.self),
            "Controller/ControllerModifyVolume": caller(
                Csi_V1_ControllerModifyVolumeRequest.self, Csi_V1_ControllerModifyVolumeResponse.self),
            "Controller/ControllerGetVolume": caller(
                Csi_V1_ControllerGetVolumeRequest.self, Csi_V1_ControllerGetVolumeResponse.self),
            "Node/NodeStageVolume": caller(
                Csi_V1_NodeStageVolumeRequest.self, Csi_V1_NodeStageVolumeResponse.self),
            "Node/NodeUnstageVolume": caller(
                Csi_V1_NodeUnstageVolumeRequest.self, Csi_V1_NodeUnstageVolumeResponse.self),
            "Node/NodePublishVolume": caller(
                Csi_V1_NodePublishVolumeRequest.self, Csi_V1_NodePublishVolumeResponse.self),
            "Node/NodeUnpublishVolume": caller(
                Csi_V1_NodeUnpublishVolumeRequest.self, Csi_V1_NodeUnpublishVolumeResponse.self),
            "Node/NodeGetVolumeStats": caller(
                Csi_V1_NodeGetVolumeStatsRequest.self, Csi_V1_NodeGetVolumeStatsResponse.self),
            "Node/NodeGetCapabilities": caller(
                Csi_V1_NodeGetCapabilitiesRequest.self, Csi_V1_NodeGetCapabilitiesResponse.self),
            "Node/NodeGetInfo": caller(
                Csi_V1_NodeGetInfoRequest.self, Csi_V1_NodeGetInfoResponse.self),
        ]
    }
}
