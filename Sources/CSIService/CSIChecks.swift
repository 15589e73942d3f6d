internal import CSIProtocol
internal import HostMounts
internal import RPC
internal import VolumeModel

/// What requests must hold, by the specification's words: checked before anything is touched.
enum CSIChecks {
    /// The specification's limit for strings.
    static let stringLimit = 128
    static let pathLimit = 4096
    static let mapLimit = 4096

    /// What is missing is told before what is not found.
    static func required(_ text: String, _ what: String = "a volume id") throws(RPCStatus) {
        guard !text.isEmpty else { throw RPCStatus(.invalidArgument, "\(what) is missing") }
    }

    /// - Throws: INVALID_ARGUMENT when it is missing; NOT_FOUND when it can be no volume of ours.
    static func volume(_ text: String) throws(RPCStatus) -> VolumeID {
        try required(text)
        guard let id = VolumeID(text) else {
            throw RPCStatus(.notFound, "no volume has an id that is not a UUID in lower case")
        }
        return id
    }

    static func path(_ text: String, _ what: String) throws(RPCStatus) -> String {
        guard !text.isEmpty else { throw RPCStatus(.invalidArgument, "\(what) is missing") }
        // As the kernel does: to a String a slash with a mark behind it is another character.
        let parts = text.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        guard parts.count > 1, parts[0].isEmpty, text.utf8.count <= pathLimit, !text.utf8.contains(0),
            parts.dropFirst().allSatisfy({
                !$0.isEmpty && !$0.elementsEqual(".".utf8) && !$0.elementsEqual("..".utf8) && $0.count <= 255
            })
        else {
            throw RPCStatus(
                .invalidArgument,
                "\(what) must be an absolute path of at most 4096 bytes without '.' and '..'")
        }
        return text
    }

    static func map(_ map: [String: String], _ what: String) throws(RPCStatus) {
        let size = map.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count }
        guard size <= mapLimit else {
            throw RPCStatus(.invalidArgument, "\(what) has more than \(mapLimit) bytes")
        }
    }

    /// What a capability asks for, in our words.
    struct Access {
        /// As the specification names it.
        var mode: String
        var isReadOnly: Bool
        var group: UInt32?
        var flags: BindMount.Flags
        /// Whether pods of one node may use it at the same time, each at its own path.
        var allowsManyTargets = false
    }

    static func capability(
        _ capability: Csi_V1_VolumeCapability?
    ) throws(RPCStatus) -> Access {
        guard let capability, capability.accessType != nil, capability.hasAccessMode else {
            throw RPCStatus(.invalidArgument, "a volume capability with access type and mode is missing")
        }
        guard case .mount(let mount) = capability.accessType else {
            throw RPCStatus(.invalidArgument, "block volumes are not offered: ask for a mounted one")
        }
        var access = Access(mode: "SINGLE_NODE_WRITER", isReadOnly: false, group: nil, flags: [])
        switch capability.accessMode.mode {
        case .singleNodeWriter: break
        case .singleNodeSingleWriter: access.mode = "SINGLE_NODE_SINGLE_WRITER"
        case .singleNodeMultiWriter:
            access.mode = "SINGLE_NODE_MULTI_WRITER"
            access.allowsManyTargets = true
        case .singleNodeReaderOnly:
            access.mode = "SINGLE_NODE_READER_ONLY"
            access.isReadOnly = true
        case .multiNodeReaderOnly:
            access.mode = CSIService.manyReaders
            access.isReadOnly = true
            access.allowsManyTargets = true
        case .multiNodeSingleWriter, .multiNodeMultiWriter:
            throw RPCStatus(
                .invalidArgument,
                "a volume that is written to is used on one node at a time: this mode is not offered")
        case .unknown, .UNRECOGNIZED: throw RPCStatus(.invalidArgument, "an access mode is missing")
        }
        guard mount.fsType.isEmpty || mount.fsType == "godwit" else {
            throw RPCStatus(
                .invalidArgument, "file system type '\(mount.fsType)' is not offered: leave it out")
        }
        for flag in mount.mountFlags { try add(flag, to: &access) }
        if !mount.volumeMountGroup.isEmpty {
            guard let group = UInt32(mount.volumeMountGroup) else {
                throw RPCStatus(.invalidArgument, "a volume mount group is a number")
            }
            access.group = group
        }
        return access
    }

    private static func add(_ flag: String, to access: inout Access) throws(RPCStatus) {
        switch flag {
        case "rw", "relatime": break
        case "ro": access.isReadOnly = true
        case "nosuid": access.flags.insert(.noSetID)
        case "nodev": access.flags.insert(.noDevices)
        case "noexec": access.flags.insert(.noExecution)
        case "noatime": access.flags.insert(.noAccessTimes)
        default: throw RPCStatus(.invalidArgument, "mount flag '\(flag)' is not known")
        }
    }
}
