import CSIProtocol
import Foundation
import Logging
import Monitoring
import RPC
import SwiftProtobuf
import Synchronization
import Testing

@testable import CSIService

/// What a call leaves in the log.
@Suite struct CSILogTests {
    private final class Lines: Sendable {
        private let lines = Mutex<[String]>([])
        func add(_ line: String) { lines.withLock { $0.append(line) } }
        var all: [String] { lines.withLock { $0 } }
    }

    private let lines = Lines()
    private let backend = FakeBackend()

    private func service(_ level: Logger.Level) -> CSIService {
        let lines = self.lines
        var logger = Logger(label: "test") { _ in
            JSONLogHandler(
                metadataProvider: .init { CSIService.currentRequest.map { ["request": "\($0)"] } ?? [:] }
            ) { lines.add($0) }
        }
        logger.logLevel = level
        return CSIService(backend: backend, logger: logger)
    }

    /// The lines that a call leaves.
    private func lines(
        _ service: CSIService, _ method: String, _ request: some Message
    ) async throws -> [[String: String]] {
        let before = lines.all.count
        let bytes: [UInt8] = try request.serializedBytes()
        _ = try? await service.handle(method: "/csi.v1." + method, request: bytes)
        return try lines.all.dropFirst(before).map {
            try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: String], "\($0)")
        }
    }

    private func creation(_ name: String) -> Csi_V1_CreateVolumeRequest {
        var request = Csi_V1_CreateVolumeRequest()
        request.name = name
        var capability = Csi_V1_VolumeCapability()
        capability.mount.fsType = ""
        capability.accessMode.mode = .singleNodeWriter
        request.volumeCapabilities = [capability]
        return request
    }

    @Test func aCallIsLoggedWithItsNumberItsVolumeAndItsOutcome() async throws {
        let service = service(.debug)
        let made = try await lines(service, "Controller/CreateVolume", creation("pvc-1"))
        try #require(made.count == 1)
        #expect(made[0]["message"] == "CreateVolume" && made[0]["level"] == "debug")
        #expect(made[0]["volume"] == "pvc-1" && made[0]["code"] == "OK")
        #expect(made[0]["milliseconds"].flatMap { Int($0) } != nil)

        let id = try #require(backend.state.withLock { $0.names["pvc-1"] }).description
        var deletion = Csi_V1_DeleteVolumeRequest()
        deletion.volumeID = id
        let deleted = try await lines(service, "Controller/DeleteVolume", deletion)
        try #require(deleted.count == 1)
        #expect(deleted[0]["volume-id"] == id && deleted[0]["volume"] == nil)
        let numbers = [made[0]["request"], deleted[0]["request"]]
        #expect(numbers[0] != nil && numbers[1] != nil && numbers[0] != numbers[1])
        #expect(CSIService.currentRequest == nil)
        // What names no volume.
        let probed = try await lines(service, "Identity/Probe", Csi_V1_ProbeRequest())
        #expect(probed.count == 1 && probed[0]["volume-id"] == nil && probed[0]["message"] == "Probe")
    }

    @Test func ofThoseThatSucceedNothingIsSaidUnlessSomebodyAsks() async throws {
        let service = service(.info)
        #expect(try await lines(service, "Controller/CreateVolume", creation("pvc-1")).isEmpty)
        var request = Csi_V1_ControllerGetVolumeRequest()
        request.volumeID = "no\nid"
        let failed = try await lines(service, "Controller/ControllerGetVolume", request)
        try #require(failed.count == 1)
        #expect(failed[0]["level"] == "info" && failed[0]["code"] == "NotFound")
        #expect(failed[0]["volume-id"] == "no id")
        #expect(failed[0]["message"]?.hasPrefix("ControllerGetVolume: ") == true)
        let unknown = try await lines(service, "Node/Made\nUp", request)
        #expect(unknown.first?["message"]?.hasPrefix("Made Up: ") == true)
        #expect(unknown.first?["volume-id"] == nil)
    }

    /// CSI.md: "like contexts neither logged nor kept".
    @Test func secretsAndContextsAreNotLogged() async throws {
        let service = service(.trace)
        _ = try await lines(service, "Controller/CreateVolume", creation("pvc-1"))
        let id = try #require(backend.state.withLock { $0.names["pvc-1"] }).description
        var stage = Csi_V1_NodeStageVolumeRequest()
        stage.volumeID = id
        stage.stagingTargetPath = "/nowhere/at/all/"
        stage.volumeCapability = creation("pvc-1").volumeCapabilities[0]
        stage.secrets = ["password": "hunter2"]
        stage.publishContext = ["epoch": "hunter3"]
        stage.volumeContext = ["attribute": "hunter4"]
        // Refused for its path, for its context, and for what is secret in it.
        #expect(try await lines(service, "Node/NodeStageVolume", stage).count == 1)
        stage.stagingTargetPath = "/nowhere/at/all"
        #expect(try await lines(service, "Node/NodeStageVolume", stage).count == 1)
        stage.publishContext = [:]
        stage.secrets["long"] = String(repeating: "hunter5", count: 1000)
        #expect(try await lines(service, "Node/NodeStageVolume", stage).count == 1)
        var create = creation("pvc-2")
        create.secrets = ["password": "hunter6"]
        create.parameters = ["unknown": "hunter7"]
        #expect(try await lines(service, "Controller/CreateVolume", create).count == 1)
        for line in lines.all { #expect(!line.contains("hunter"), "\(line)") }
    }
}
