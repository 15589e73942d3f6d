internal import ArgumentParser
internal import CSIProtocol
internal import Foundation
internal import RPC
internal import SwiftProtobuf

/// `godwit csi …`: a CSI client for people and scripts.
struct CSICommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "csi", abstract: "Drive a CSI socket by hand, as Kubernetes would.",
        discussion: """
            Works with any CSI driver. Answers are printed as JSON in the protocol's own names. A refusal is \
            printed with its gRPC code, and the exit code is 10 + that code.

            Example:
              export CSI_ENDPOINT=unix:///csi/csi.sock
              godwit csi create-volume data --required-bytes 10Gi
            """,
        subcommands: [
            Info.self, Capabilities.self, Probe.self, CreateVolume.self, DeleteVolume.self, Publish.self,
            Unpublish.self, Validate.self, ListVolumes.self, GetVolume.self, ExpandVolume.self,
            ModifyVolume.self, GetCapacity.self, Stage.self, Unstage.self, NodePublish.self,
            NodeUnpublish.self, NodeStats.self,
            NodeInfo.self, Call.self,
        ])

    struct Connection: ParsableArguments {
        @Option(help: "The driver's socket; $CSI_ENDPOINT if not given.") var endpoint: String?
        @Option(help: ArgumentHelp("Give up after this long.", valueName: "seconds")) var timeout: Double = 60

        /// Calls a method and prints the answer.
        func call<Request: Message, Response: Message>(
            _ method: String, _ request: Request, as: Response.Type
        ) async throws {
            let response: Response = try await send(method, request)
            print(try Self.json(response))
        }

        func send<Request: Message, Response: Message>(
            _ method: String, _ request: Request
        ) async throws -> Response {
            guard let text = endpoint ?? ProcessInfo.processInfo.environment["CSI_ENDPOINT"],
                let target = RPCEndpoint(text)
            else { throw ValidationError("give --endpoint or set CSI_ENDPOINT, as unix:///path/csi.sock") }
            guard timeout > 0, timeout <= 86_400 else {
                throw ValidationError("--timeout is 0 to 86400 seconds")
            }
            let channel = try RPCChannel(to: target, security: .plaintext, options: RPCChannelOptions())
            let bytes: [UInt8] = try request.serializedBytes()
            let reply = try await channel.unary(
                "/csi.v1." + method, bytes, metadata: RPCMetadata(),
                timeout: .milliseconds(Int64(timeout * 1000)), waitForReady: false)
            return try Response(serializedBytes: reply)
        }

        static func json(_ message: some Message) throws -> String {
            var options = JSONEncodingOptions()
            options.preserveProtoFieldNames = true
            return try message.jsonString(options: options)
        }
    }

    /// What a volume is wanted for.
    struct CapabilityOptions: ParsableArguments {
        @Option(help: "single-node-writer, single-node-reader-only, multi-node-reader-only …")
        var accessMode = "single-node-writer"
        @Option(help: "A mount flag; may be repeated.") var mountFlag: [String] = []
        @Option(help: "The file system type, for drivers that offer several.") var fsType = ""
        @Option(help: "The group that is to use the volume.") var mountGroup = ""
        @Flag(help: "Ask for a block device.") var block = false

        func capability() throws -> Csi_V1_VolumeCapability {
            var capability = Csi_V1_VolumeCapability()
            if block {
                capability.block = Csi_V1_VolumeCapability.BlockVolume()
            } else {
                capability.mount.fsType = fsType
                capability.mount.mountFlags = mountFlag
                capability.mount.volumeMountGroup = mountGroup
            }
            let name = accessMode.uppercased().replacingOccurrences(of: "-", with: "_")
            guard
                let mode = Csi_V1_VolumeCapability.AccessMode.Mode.allCases.first(where: { $0.name == name })
            else { throw ValidationError("'\(accessMode)' is no access mode") }
            capability.accessMode.mode = mode
            return capability
        }
    }

    /// Secrets by file, so that they never stand in a process list.
    struct SecretOptions: ParsableArguments {
        @Option(help: ArgumentHelp("A secret, read from a file; may be repeated.", valueName: "key=file"))
        var secretFile: [String] = []

        func secrets() throws -> [String: String] {
            try pairs(secretFile).mapValues { try String(contentsOfFile: $0, encoding: .utf8) }
        }
    }

    /// What ControllerPublishVolume and CreateVolume answered, and what Kubernetes adds.
    struct ContextOptions: ParsableArguments {
        @Option(
            help: ArgumentHelp("Of what 'publish' answered; may be repeated.", valueName: "key=value"))
        var publishContext: [String] = []
        @Option(
            help: ArgumentHelp("An attribute of the volume; may be repeated.", valueName: "key=value"))
        var volumeContext: [String] = []
    }

    /// `key=value` words as a map.
    static func pairs(_ words: [String]) throws -> [String: String] {
        var map: [String: String] = [:]
        for word in words {
            guard let cut = word.firstIndex(of: "=") else {
                throw ValidationError("'\(word)' is not key=value")
            }
            map[String(word[..<cut])] = String(word[word.index(after: cut)...])
        }
        return map
    }
}

private func pairs(_ words: [String]) throws -> [String: String] { try CSICommand.pairs(words) }

extension Csi_V1_VolumeCapability.AccessMode.Mode {
    /// The specification's name.
    fileprivate var name: String {
        switch self {
        case .unknown: "UNKNOWN"
        case .singleNodeWriter: "SINGLE_NODE_WRITER"
        case .singleNodeReaderOnly: "SINGLE_NODE_READER_ONLY"
        case .multiNodeReaderOnly: "MULTI_NODE_READER_ONLY"
        case .multiNodeSingleWriter: "MULTI_NODE_SINGLE_WRITER"
        case .multiNodeMultiWriter: "MULTI_NODE_MULTI_WRITER"
        case .singleNodeSingleWriter: "SINGLE_NODE_SINGLE_WRITER"
        case .singleNodeMultiWriter: "SINGLE_NODE_MULTI_WRITER"
        case .UNRECOGNIZED(let number): "UNRECOGNIZED_\(number)"
        }
    }
}
