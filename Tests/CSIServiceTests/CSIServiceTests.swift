import CSIProtocol
import RPC
import SwiftProtobuf
import Testing
import VolumeModel

@testable import CSIService

/// The codes that the specification wants, and that nothing is touched for what cannot be right.
@Suite struct CSIServiceTests {
    let backend: FakeBackend
    let service: CSIService

    init() {
        backend = FakeBackend()
        service = CSIService(backend: backend)
    }

    // MARK: calls

    func call<Response: Message>(
        _ method: String, _ request: some Message, as: Response.Type = Response.self
    ) async throws -> Response {
        try Response(
            serializedBytes: try await service.handle(
                method: "/csi.v1." + method, request: try request.serializedBytes()))
    }

    func code(_ method: String, _ request: some Message) async throws -> RPCCode {
        let bytes: [UInt8] = try request.serializedBytes()
        do throws(RPCStatus) {
            _ = try await service.handle(method: "/csi.v1." + method, request: bytes)
            return .ok
        } catch {
            return error.code
        }
    }

    func capability(
        _ mode: Csi_V1_VolumeCapability.AccessMode.Mode = .singleNodeWriter, flags: [String] = [],
        block: Bool = false
    ) -> Csi_V1_VolumeCapability {
        var capability = Csi_V1_VolumeCapability()
        if block {
            capability.block = .init()
        } else {
            capability.mount.mountFlags = flags
        }
        capability.accessMode.mode = mode
        return capability
    }

    func createRequest(_ name: String, bytes: Int64 = 1 << 30) -> Csi_V1_CreateVolumeRequest {
        var request = Csi_V1_CreateVolumeRequest()
        request.name = name
        request.capacityRange.requiredBytes = bytes
        request.volumeCapabilities = [capability()]
        return request
    }

    func create(_ name: String) async throws -> String {
        let response: Csi_V1_CreateVolumeResponse = try await call(
            "Controller/CreateVolume", createRequest(name))
        return response.volume.volumeID
    }

    // MARK: create and delete

    @Test func creatingTwiceGivesTheSameVolumeAndAnotherSizeIsRefused() async throws {
        let id = try await create("data")
        #expect(try await create("data") == id)
        #expect(
            try await code("Controller/CreateVolume", createRequest("data", bytes: 2 << 30)) == .alreadyExists
        )
    }

    @Test func whatCannotBeCreatedIsRefusedWithItsCode() async throws {
        var request = createRequest("")
        #expect(try await code("Controller/CreateVolume", request) == .invalidArgument)
        request = createRequest(String(repeating: "x", count: 129))
        #expect(try await code("Controller/CreateVolume", request) == .invalidArgument)
        request = createRequest("a")
        request.volumeCapabilities = []
        #expect(try await code("Controller/CreateVolume", request) == .invalidArgument)
        for bad in [
            capability(block: true), capability(.multiNodeMultiWriter), capability(.unknown),
            capability(flags: ["suid,dev"]), Csi_V1_VolumeCapability(),
        ] {
            request.volumeCapabilities = [bad]
            #expect(try await code("Controller/CreateVolume", request) == .invalidArgument)
        }
        request = createRequest("a")
        request.parameters = ["colour": "red"]
        #expect(try await code("Controller/CreateVolume", request) == .invalidArgument)
        request = createRequest("a")
        request.volumeContentSource.volume.volumeID = "x"
        #expect(try await code("Controller/CreateVolume", request) == .invalidArgument)
        request = createRequest("a")
        request.capacityRange.limitBytes = 5
        #expect(try await code("Controller/CreateVolume", request) == .outOfRange)
        request = createRequest("a", bytes: .max)
        #expect(try await code("Controller/CreateVolume", request) == .outOfRange)
        request = createRequest("a", bytes: -1)
        #expect(try await code("Controller/CreateVolume", request) == .invalidArgument)
        request = createRequest("a")
        request.accessibilityRequirements.requisite = [
            .with { $0.segments = [CSIService.topologyKey: "paris"] }
        ]
        #expect(try await code("Controller/CreateVolume", request) == .resourceExhausted)
        #expect(backend.callCount == 0)
        // What Kubernetes adds of its own is none of our parameters.
        request = createRequest("a")
        request.parameters = ["csi.storage.k8s.io/pvc/name": "a"]
        #expect(try await code("Controller/CreateVolume", request) == .ok)
    }

    @Test func deletingTwiceIsASuccess() async throws {
        var request = Csi_V1_DeleteVolumeRequest()
        #expect(try await code("Controller/DeleteVolume", request) == .invalidArgument)
        request.volumeID = try await create("data")
        for _ in 0..<2 { #expect(try await code("Controller/DeleteVolume", request) == .ok) }
    }

    // MARK: hostile input

    private static let hostileIDs = [
        "../../etc", "/etc/passwd", "%2e%2e", ".", "..", "a\0b", "a\nb", String(repeating: "a", count: 4096),
        "00000000-0000-0000-0000-00000000000G", "12345678-9ABC-4DEF-8012-3456789ABCDE",
    ]

    @Test(arguments: hostileIDs)
    func hostileVolumeIdsReachNothing(_ id: String) async throws {
        let before = backend.callCount
        var publish = Csi_V1_ControllerPublishVolumeRequest()
        publish.volumeID = id
        publish.nodeID = "node-1"
        publish.volumeCapability = capability()
        #expect(try await code("Controller/ControllerPublishVolume", publish) == .notFound)
        var stage = Csi_V1_NodeStageVolumeRequest()
        stage.volumeID = id
        stage.stagingTargetPath = "/tmp/godwit-never"
        stage.volumeCapability = capability()
        #expect(try await code("Node/NodeStageVolume", stage) == .notFound)
        var get = Csi_V1_ControllerGetVolumeRequest()
        get.volumeID = id
        #expect(try await code("Controller/ControllerGetVolume", get) == .notFound)
        var unpublish = Csi_V1_NodeUnpublishVolumeRequest()
        unpublish.volumeID = id
        unpublish.targetPath = "/tmp/godwit-never"
        #expect(try await code("Node/NodeUnpublishVolume", unpublish) == .notFound)
        #expect(backend.callCount == before)
    }

    @Test(arguments: [
        "", "relative", "/", "/a/../b", "/a/./b", "/a//b", "/a/", "/a\0b", "/a/../\u{301}b", "/\u{301}/..",
        "/" + String(repeating: "x", count: 256),
        String(repeating: "/abc", count: 1100),
    ])
    func hostilePathsReachNothing(_ path: String) async throws {
        let id = try await create("data")
        let before = backend.callCount
        var stage = Csi_V1_NodeStageVolumeRequest()
        stage.volumeID = id
        stage.stagingTargetPath = path
        stage.volumeCapability = capability()
        #expect(try await code("Node/NodeStageVolume", stage) == .invalidArgument)
        var publish = Csi_V1_NodePublishVolumeRequest()
        publish.volumeID = id
        publish.stagingTargetPath = "/tmp/godwit-never"
        publish.targetPath = path
        publish.volumeCapability = capability()
        #expect(try await code("Node/NodePublishVolume", publish) == .invalidArgument)
        #expect(backend.callCount == before)
    }

    @Test func rubbishIsAnsweredAndNeverTraps() async throws {
        let methods = [
            "Identity/GetPluginInfo", "Identity/Probe", "Controller/CreateVolume", "Controller/DeleteVolume",
            "Controller/ControllerPublishVolume", "Controller/ControllerUnpublishVolume",
            "Controller/ValidateVolumeCapabilities", "Controller/ListVolumes", "Controller/GetCapacity",
            "Controller/ControllerGetVolume", "Node/NodeStageVolume", "Node/NodeUnstageVolume",
            "Node/NodePublishVolume", "Node/NodeUnpublishVolume", "Node/NodeGetVolumeStats",
            "Node/NodeGetInfo",
        ]
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<3000 {
            let method = methods[Int.random(in: 0..<methods.count, using: &generator)]
            let bytes = (0..<Int.random(in: 0..<40, using: &generator)).map { _ in
                UInt8.random(in: 0...60, using: &generator)
            }
            do throws(RPCStatus) {
                _ = try await service.handle(method: "/csi.v1." + method, request: bytes)
            } catch {
                #expect(
                    error.code != .internalError && error.code != .unknown, "\(method) \(bytes): \(error)")
            }
        }
        #expect(try await code("Controller/CreateSnapshot", Csi_V1_ProbeRequest()) == .unimplemented)
    }

    // MARK: publish, list, stats

    @Test func publishingChecksVolumeNodeAndCapability() async throws {
        var request = Csi_V1_ControllerPublishVolumeRequest()
        request.volumeID = try await create("data")
        #expect(try await code("Controller/ControllerPublishVolume", request) == .invalidArgument)
        request.nodeID = "node-3"
        #expect(try await code("Controller/ControllerPublishVolume", request) == .invalidArgument)
        request.volumeCapability = capability()
        #expect(try await code("Controller/ControllerPublishVolume", request) == .notFound)
        for node in ["node-1", "node-2"] {
            request.nodeID = node
            for _ in 0..<2 { #expect(try await code("Controller/ControllerPublishVolume", request) == .ok) }
        }
        request.volumeCapability = capability(.singleNodeMultiWriter)
        #expect(try await code("Controller/ControllerPublishVolume", request) == .alreadyExists)
        request.readonly = true
        #expect(try await code("Controller/ControllerPublishVolume", request) == .invalidArgument)
    }

    @Test func aVolumeForManyReadersIsMadePublishedAndConfirmed() async throws {
        var creation = createRequest("shared")
        creation.volumeCapabilities = [capability(), capability(.multiNodeReaderOnly)]
        let made: Csi_V1_CreateVolumeResponse = try await call("Controller/CreateVolume", creation)
        var validation = Csi_V1_ValidateVolumeCapabilitiesRequest()
        validation.volumeID = made.volume.volumeID
        validation.volumeCapabilities = [capability(.multiNodeReaderOnly)]
        let confirmed: Csi_V1_ValidateVolumeCapabilitiesResponse = try await call(
            "Controller/ValidateVolumeCapabilities", validation)
        #expect(confirmed.confirmed.volumeCapabilities == validation.volumeCapabilities)
        var request = Csi_V1_ControllerPublishVolumeRequest()
        request.volumeID = made.volume.volumeID
        request.volumeCapability = capability(.multiNodeReaderOnly)
        for node in ["node-1", "node-2"] {
            request.nodeID = node
            #expect(try await code("Controller/ControllerPublishVolume", request) == .ok)
        }
        let modes = backend.state.withLock { Set($0.modes.values) }
        #expect(modes == ["MULTI_NODE_READER_ONLY"])
        // Without an attachment nobody would know who reads.
        var staging = Csi_V1_NodeStageVolumeRequest()
        staging.volumeID = made.volume.volumeID
        staging.stagingTargetPath = "/tmp/godwit-never-staged"
        staging.volumeCapability = capability(.multiNodeReaderOnly)
        let before = backend.callCount
        #expect(try await code("Node/NodeStageVolume", staging) == .failedPrecondition)
        #expect(backend.callCount == before)
    }

    @Test func aSecondOperationOnAVolumeIsAborted() async throws {
        var request = Csi_V1_ControllerPublishVolumeRequest()
        request.volumeID = try await create("data")
        request.nodeID = "node-1"
        request.volumeCapability = capability()
        let service = self.service
        let bytes: [UInt8] = try request.serializedBytes()
        backend.state.withLock { $0.isHeld = true }
        let before = backend.callCount
        let first = Task {
            try await service.handle(method: "/csi.v1.Controller/ControllerPublishVolume", request: bytes)
        }
        while backend.callCount == before { try await Task.sleep(for: .milliseconds(1)) }
        #expect(try await code("Controller/ControllerPublishVolume", request) == .aborted)
        backend.state.withLock { $0.isHeld = false }
        _ = try await first.value
    }

    @Test func aVolumeThatIsNotStagedIsNotPublished() async throws {
        var request = Csi_V1_NodePublishVolumeRequest()
        request.volumeID = try await create("data")
        request.targetPath = "/tmp/godwit-never-target"
        request.volumeCapability = capability()
        #expect(try await code("Node/NodePublishVolume", request) == .failedPrecondition)
        // A directory that is no mount of ours would put the pod's data on the node's own disk.
        request.stagingTargetPath = "/tmp"
        #expect(try await code("Node/NodePublishVolume", request) == .failedPrecondition)
    }

    @Test func listsComeInPagesWithoutGapsOrRepetition() async throws {
        var ids: Set<String> = []
        for number in 0..<7 { ids.insert(try await create("v\(number)")) }
        var seen: [String] = []
        var request = Csi_V1_ListVolumesRequest()
        request.maxEntries = 3
        repeat {
            let page: Csi_V1_ListVolumesResponse = try await call("Controller/ListVolumes", request)
            #expect(page.entries.count <= 3)
            seen += page.entries.map(\.volume.volumeID)
            request.startingToken = page.nextToken
        } while !request.startingToken.isEmpty
        #expect(Set(seen) == ids && seen.count == 7)
        request.startingToken = "rubbish"
        #expect(try await code("Controller/ListVolumes", request) == .aborted)
        request.startingToken = ""
        request.maxEntries = -1
        #expect(try await code("Controller/ListVolumes", request) == .invalidArgument)
    }

    @Test func aCapabilityThatIsNotOfferedIsNotConfirmed() async throws {
        var request = Csi_V1_ValidateVolumeCapabilitiesRequest()
        request.volumeID = try await create("data")
        request.volumeCapabilities = [capability(.multiNodeMultiWriter)]
        var response: Csi_V1_ValidateVolumeCapabilitiesResponse = try await call(
            "Controller/ValidateVolumeCapabilities", request)
        #expect(!response.hasConfirmed && !response.message.isEmpty)
        request.volumeCapabilities = [capability()]
        response = try await call("Controller/ValidateVolumeCapabilities", request)
        #expect(response.confirmed.volumeCapabilities == request.volumeCapabilities)
    }

    @Test func statsNeedAMountOfThatVolume() async throws {
        var request = Csi_V1_NodeGetVolumeStatsRequest()
        request.volumeID = try await create("data")
        request.volumePath = "/tmp"
        #expect(try await code("Node/NodeGetVolumeStats", request) == .notFound)
    }
}
