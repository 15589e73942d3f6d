import CSIProtocol
import Foundation
import RPC
import SwiftProtobuf
import Testing
import VolumeModel

@testable import CSIService
@testable import HostMounts

/// Parameters that change, volumes of one pod, epochs, and what every call must hold.
extension CSIServiceTests {
    private static let handle = "csi-" + String(repeating: "0a", count: 32)

    // MARK: modification

    @Test func onlyTheMutableParametersThatAreNamedChange() async throws {
        var request = Csi_V1_ControllerModifyVolumeRequest()
        request.volumeID = try await create("data")
        request.mutableParameters = ["rateLimit": "10Mi", "pause": "true"]
        let id = try #require(VolumeID(request.volumeID))
        for _ in 0..<2 { #expect(try await code("Controller/ControllerModifyVolume", request) == .ok) }
        #expect(
            backend.state.withLock { $0.hydration[id] } == .init(isPaused: true, bytesPerSecond: 10 << 20))
        request.mutableParameters = ["rateLimit": "none"]
        #expect(try await code("Controller/ControllerModifyVolume", request) == .ok)
        #expect(backend.state.withLock { $0.hydration[id] } == .init(isPaused: true, bytesPerSecond: 0))
    }

    @Test(arguments: [
        ["rateLimit": "10Mi", "colour": "red"], ["rateLimit": "fast"], ["rateLimit": "0"], ["rateLimit": ""],
        ["pause": "yes"], ["RateLimit": "10Mi"], ["inodes": "5"],
        ["rateLimit": String(repeating: "1", count: 5000)],
    ])
    func mutableParametersThatCannotBeChangeNothing(_ parameters: [String: String]) async throws {
        var request = Csi_V1_ControllerModifyVolumeRequest()
        request.volumeID = try await create("data")
        request.mutableParameters = parameters
        var new = createRequest("new")
        new.mutableParameters = parameters
        let before = backend.callCount
        #expect(try await code("Controller/ControllerModifyVolume", request) == .invalidArgument)
        #expect(try await code("Controller/CreateVolume", new) == .invalidArgument)
        #expect(backend.callCount == before)
        var validation = Csi_V1_ValidateVolumeCapabilitiesRequest()
        validation.volumeID = request.volumeID
        validation.volumeCapabilities = [capability()]
        validation.mutableParameters = parameters
        let answer: Csi_V1_ValidateVolumeCapabilitiesResponse = try await call(
            "Controller/ValidateVolumeCapabilities", validation)
        #expect(!answer.hasConfirmed && !answer.message.isEmpty)
    }

    @Test func modifyingNeedsAVolumeAndParameters() async throws {
        var request = Csi_V1_ControllerModifyVolumeRequest()
        request.mutableParameters = ["pause": "true"]
        #expect(try await code("Controller/ControllerModifyVolume", request) == .invalidArgument)
        request.volumeID = "non-existing"
        #expect(try await code("Controller/ControllerModifyVolume", request) == .notFound)
        request.volumeID = "00000000-0000-4000-8000-00000000ffff"
        #expect(try await code("Controller/ControllerModifyVolume", request) == .notFound)
        request.volumeID = try await create("data")
        request.mutableParameters = [:]
        #expect(try await code("Controller/ControllerModifyVolume", request) == .invalidArgument)
    }

    @Test func aNewVolumeHasItsMutableParametersAndARepeatedRequestDoesNotSetThemBack() async throws {
        var request = createRequest("data")
        request.mutableParameters = ["rateLimit": "1Mi"]
        let made: Csi_V1_CreateVolumeResponse = try await call("Controller/CreateVolume", request)
        let id = try #require(VolumeID(made.volume.volumeID))
        var change = Csi_V1_ControllerModifyVolumeRequest()
        change.volumeID = made.volume.volumeID
        change.mutableParameters = ["rateLimit": "2Mi"]
        #expect(try await code("Controller/ControllerModifyVolume", change) == .ok)
        #expect(try await code("Controller/CreateVolume", request) == .ok)
        #expect(backend.state.withLock { $0.hydration[id]?.bytesPerSecond } == 2 << 20)
    }

    // MARK: volumes of one pod

    private func inlineRequest(_ attributes: [String: String]) -> Csi_V1_NodePublishVolumeRequest {
        var request = Csi_V1_NodePublishVolumeRequest()
        request.volumeID = Self.handle
        request.targetPath = "/tmp/godwit-never/target"
        request.volumeCapability = capability()
        request.volumeContext = attributes
        request.volumeContext["csi.storage.k8s.io/ephemeral"] = "true"
        request.volumeContext["csi.storage.k8s.io/pod.name"] = "web"
        return request
    }

    @Test(arguments: [
        "", "csi-", "data", "csi-" + String(repeating: "0A", count: 32),
        "csi-" + String(repeating: "a", count: 63), "csi-../" + String(repeating: "a", count: 61),
        "12345678-9abc-4def-8012-3456789abcde",
    ])
    func anEphemeralVolumeHasKubeletsHandleOrIsRefused(_ id: String) async throws {
        var request = inlineRequest([:])
        request.volumeID = id
        #expect(try await code("Node/NodePublishVolume", request) == .invalidArgument)
        #expect(backend.callCount == 0)
    }

    @Test func attributesOfAnEphemeralVolumeAreCheckedAsAClassesAre() async throws {
        for bad in [
            ["colour": "red"], ["size": "big"], ["size": "0"], ["size": "-1Gi"], ["inodes": "many"],
            ["inodes": "0"],
            ["rateLimit": "10Mi"],
        ] {
            #expect(
                try await code("Node/NodePublishVolume", inlineRequest(bad)) == .invalidArgument, "\(bad)")
        }
        #expect(try await code("Node/NodePublishVolume", inlineRequest(["size": "2048Ti"])) == .outOfRange)
        var request = inlineRequest([:])
        request.volumeCapability = capability(block: true)
        #expect(try await code("Node/NodePublishVolume", request) == .invalidArgument)
        request = inlineRequest([:])
        request.targetPath = "relative"
        #expect(try await code("Node/NodePublishVolume", request) == .invalidArgument)
        #expect(backend.callCount == 0)
    }

    @Test func anEphemeralVolumeThatIsNotThereIsUnpublishedAlready() async throws {
        var request = Csi_V1_NodeUnpublishVolumeRequest()
        request.volumeID = Self.handle
        request.targetPath = "/tmp/godwit-never/target"
        #expect(try await code("Node/NodeUnpublishVolume", request) == .ok)
        var stats = Csi_V1_NodeGetVolumeStatsRequest()
        stats.volumeID = Self.handle
        stats.volumePath = "/tmp"
        #expect(try await code("Node/NodeGetVolumeStats", stats) == .notFound)
    }

    /// A name is no proof: only what was made for a pod is deleted with it.
    @Test func somebodysVolumeWithAnEphemeralNameIsNeverDeleted() async throws {
        let id = try await create("ephemeral-" + Self.handle)
        var request = Csi_V1_NodeUnpublishVolumeRequest()
        request.volumeID = Self.handle
        request.targetPath = "/tmp/godwit-never/target"
        #expect(try await code("Node/NodeUnpublishVolume", request) == .ok)
        #expect(backend.state.withLock { $0.volumes.keys.map(\.description) } == [id])
    }

    // MARK: epochs

    @Test func attachingTellsTheEpochAndTheNodeWantsThatOne() async throws {
        var attach = Csi_V1_ControllerPublishVolumeRequest()
        attach.volumeID = try await create("data")
        attach.nodeID = "node-1"
        attach.volumeCapability = capability()
        let attached: Csi_V1_ControllerPublishVolumeResponse = try await call(
            "Controller/ControllerPublishVolume", attach)
        #expect(attached.publishContext == ["epoch": "3"])
        var publish = Csi_V1_NodePublishVolumeRequest()
        publish.volumeID = attach.volumeID
        publish.targetPath = "/tmp/godwit-never-target"
        publish.stagingTargetPath = "/tmp"
        publish.volumeCapability = capability()
        var stage = Csi_V1_NodeStageVolumeRequest()
        stage.volumeID = attach.volumeID
        stage.stagingTargetPath = "/tmp/godwit-never"
        stage.volumeCapability = capability()
        for (epoch, expected) in [
            ("2", RPCCode.failedPrecondition), ("4", .failedPrecondition), ("", .invalidArgument),
            ("0", .invalidArgument), ("-3", .invalidArgument), ("three", .invalidArgument),
            ("99999999999999999999", .invalidArgument),
        ] {
            publish.publishContext = ["epoch": epoch]
            #expect(try await code("Node/NodePublishVolume", publish) == expected, "\(epoch)")
            guard expected == .invalidArgument else { continue }
            stage.publishContext = ["epoch": epoch]
            #expect(try await code("Node/NodeStageVolume", stage) == expected, "\(epoch)")
        }
    }

    // MARK: publications

    @Test func whatIsShownWhereIsKnownAfterARestartAsFarAsItIsStillMounted() throws {
        let path = NSTemporaryDirectory() + "godwit-publications-" + UUID().uuidString
        defer { try? FileManager.default.removeItem(atPath: path) }
        let id = try #require(VolumeID("12345678-9abc-4def-8012-3456789abcde"))
        func mount(_ path: String) -> MountEntry {
            MountEntry(path: path, type: "fuse.godwit", source: "x", isReadOnly: false, device: "0:1")
        }
        let publication = Publications.Publication(id, capability(), isReadOnly: false)
        let first = Publications(path: path)
        try first.set(publication, at: "/a", mounts: [])
        try first.set(publication, at: "/b", mounts: [mount("/a")])
        let second = Publications(path: path)
        #expect(second["/a"] == publication)
        #expect(second.others(of: id, besides: "/b", in: [mount("/a"), mount("/b")]) == ["/a"])
        #expect(second.others(of: id, besides: "/b", in: [mount("/b")]) == [])
        // One that is not mounted any more is forgotten at the next occasion.
        try second.set(nil, at: "/b", mounts: [mount("/b")])
        #expect(Publications(path: path)["/a"] == nil && Publications(path: path)["/b"] == nil)
        // A file that is none of ours is as if there were none; where it cannot be written nothing changes.
        try Data("rubbish".utf8).write(to: URL(fileURLWithPath: path))
        #expect(Publications(path: path)["/a"] == nil)
        let nowhere = Publications(path: "/proc/godwit-never/publications.json")
        #expect(throws: (any Error).self) { try nowhere.set(publication, at: "/a", mounts: []) }
        #expect(nowhere["/a"] == nil)
    }

    // MARK: every call

    @Test(arguments: [
        "Controller/CreateVolume", "Controller/DeleteVolume", "Controller/ControllerPublishVolume",
        "Controller/ControllerUnpublishVolume", "Controller/ValidateVolumeCapabilities",
        "Controller/ControllerGetVolume", "Controller/ControllerExpandVolume",
        "Controller/ControllerModifyVolume", "Node/NodeStageVolume", "Node/NodeUnstageVolume",
        "Node/NodePublishVolume", "Node/NodeUnpublishVolume", "Node/NodeGetVolumeStats",
    ])
    func aRequestWithoutItsFieldsIsInvalid(_ method: String) async throws {
        // Empty is every message's encoding with nothing in it.
        #expect(try await code(method, Csi_V1_ProbeRequest()) == .invalidArgument)
        #expect(backend.callCount == 0)
    }

    @Test func mapsOverTheSpecificationsLimitAreRefused() async throws {
        let large = ["key": String(repeating: "x", count: 4096)]
        var make = createRequest("a")
        make.secrets = large
        #expect(try await code("Controller/CreateVolume", make) == .invalidArgument)
        make = createRequest("a")
        make.parameters = large
        #expect(try await code("Controller/CreateVolume", make) == .invalidArgument)
        var stage = Csi_V1_NodeStageVolumeRequest()
        stage.volumeID = try await create("data")
        stage.stagingTargetPath = "/tmp/godwit-never"
        stage.volumeCapability = capability()
        let before = backend.callCount
        for path: WritableKeyPath<Csi_V1_NodeStageVolumeRequest, [String: String]> in [
            \.publishContext, \.volumeContext, \.secrets,
        ] {
            var request = stage
            request[keyPath: path] = large
            #expect(try await code("Node/NodeStageVolume", request) == .invalidArgument)
        }
        #expect(backend.callCount == before)
    }

    @Test func aVolumeIsMadeWhereThePodIsAndMayBeUsedEverywhere() async throws {
        func place(_ node: String) -> Csi_V1_Topology {
            var topology = Csi_V1_Topology()
            topology.segments = [CSIService.topologyKey: "london", CSIService.nodeTopologyKey: node]
            return topology
        }
        var request = createRequest("data")
        request.accessibilityRequirements.requisite = [place("node-1"), place("node-2")]
        request.accessibilityRequirements.preferred = [place("node-2"), place("node-1")]
        let made: Csi_V1_CreateVolumeResponse = try await call("Controller/CreateVolume", request)
        #expect(backend.state.withLock { $0.nodes } == ["node-2", "node-1"])
        #expect(made.volume.accessibleTopology.map(\.segments) == [[CSIService.topologyKey: "london"]])
    }

    @Test func theLargestVolumeIsNeverMoreThanThereIsRoomFor() async throws {
        var request = Csi_V1_GetCapacityRequest()
        var answer: Csi_V1_GetCapacityResponse = try await call("Controller/GetCapacity", request)
        // In all, and at the node that has most.
        #expect(answer.availableCapacity == 3 << 40 && answer.maximumVolumeSize.value == 2 << 40)
        request.accessibleTopology.segments = [
            CSIService.topologyKey: "london", CSIService.nodeTopologyKey: "node-1",
        ]
        answer = try await call("Controller/GetCapacity", request)
        #expect(answer.availableCapacity == 1 << 40 && answer.maximumVolumeSize.value == 1 << 40)
        request.clearAccessibleTopology()
        request.volumeCapabilities = [capability(.multiNodeMultiWriter)]
        answer = try await call("Controller/GetCapacity", request)
        #expect(answer.availableCapacity == 0 && answer.maximumVolumeSize.value == 0)
        request.volumeCapabilities = [capability()]
        request.accessibleTopology.segments = [CSIService.topologyKey: "paris"]
        answer = try await call("Controller/GetCapacity", request)
        #expect(answer.availableCapacity == 0)
        request = Csi_V1_GetCapacityRequest()
        request.parameters = ["colour": "red"]
        #expect(try await code("Controller/GetCapacity", request) == .invalidArgument)
    }
}
