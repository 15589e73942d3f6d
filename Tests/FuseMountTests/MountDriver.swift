import CTestBed
import Catalog
import EngineTestSupport
import Foundation
import FuseMount
import Glibc
import VolumeFileSystem
import VolumeModel

/// Makes system calls on a mount of the volume, as any program does. What each call is: `MountDriver+Calls.swift`.
///
/// Through the kernel some things cannot be compared: access times of regular files, for it reads ahead; and what it
/// refuses by itself, see `refusal`. It tells us of a last close a moment later, hence the patience.
final class MountDriver: ModelDriver {
    private(set) var volume: TestVolume
    let caller: Caller
    let patience = Duration.seconds(20)
    let keepsDirectories = true
    let readsAhead = true
    let mountPoint: String
    private var mount: FuseMount
    private var left: LeftSession?
    var descriptors: [Int: Int32] = [:]
    var generator: Generator
    /// How often one looks may depend on the time: what is done does not depend on that.
    var looks: Generator

    init(_ volume: TestVolume, at mountPoint: String, seed: UInt64) throws {
        self.volume = volume
        self.mountPoint = mountPoint
        generator = Generator(seed: seed &+ 1)
        looks = Generator(seed: seed &+ 2)
        caller = Caller(uid: geteuid(), gid: getegid(), umask: try Self.umask())
        mount = try FuseMount(fileSystem: volume.fileSystem, at: mountPoint, options: Self.options)
    }

    private static let options = {
        var options = FuseMountOptions()
        options.fsName = "godwit:model"
        return options
    }()

    /// This process's, which umask(2) tells only by setting it.
    private static func umask() throws -> UInt32 {
        let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = status.split(separator: "\n").first { $0.hasPrefix("Umask:") }
        return line.flatMap { UInt32($0.dropFirst(6).drop { $0.isWhitespace }, radix: 8) } ?? 0
    }

    // MARK: what the kernel does by itself

    /// What the kernel refuses before it asks us, where the file system would do it or say something else.
    func refusal(of operation: ModelOperation) -> Errno? {
        switch operation {
        case .link(let target, let place):
            // Only what O_TMPFILE made may get a first name, and only once.
            place.node == nil && target.node.links == 0 && !target.node.wasNeverNamed ? .noSuchEntry : nil
        case .rename(let old, let new, let rule):
            old.node == nil ? nil : Self.refusal(ofRenaming: old, to: new, rule)
        case .changeMode(let target, _): target.node.kind == .symbolicLink ? .notSupported : nil
        default: nil
        }
    }

    /// Both names are looked up, and what that tells is told, before anything is said of what stands above what.
    private static func refusal(
        ofRenaming old: ModelPlace, to new: ModelPlace, _ rule: RenameRule
    ) -> Errno? {
        switch (rule, new.node) {
        case (.refuseToReplace, .some): return .exists
        case (.exchange, nil): return .noSuchEntry
        // A directory is not replaced by anything in it, nor is it asked whether that is a directory, too.
        case (.replace, let target?) where target.kind == .directory && old.directory.isInside(target):
            return .notEmpty
        default: return nil
        }
    }

    func reach(_ node: Model.Node, in model: Model) {}
    func letGo(of node: Model.Node) {}

    // MARK: restarts

    /// The same volume mounted anew: whatever is asked for is asked for again.
    func forgetAll() async throws {
        try await unmount()
        mount = try FuseMount(fileSystem: volume.fileSystem, at: mountPoint, options: Self.options)
    }

    func end(isHandedOver: Bool) async throws -> OpenFiles? {
        guard isHandedOver else {
            try await unmount()
            try await volume.close()
            return nil
        }
        guard let left = await mount.leave() else {
            throw ModelRun.Difference(description: "the mount was over before it was left")
        }
        // The next one knows what it is told.
        self.left = LeftSession(descriptor: left.descriptor, session: try Self.coded(left.session))
        return try Self.coded(try await volume.leave())
    }

    private static func coded<Value: Codable>(_ value: Value) throws -> Value {
        try JSONDecoder().decode(Value.self, from: JSONEncoder().encode(value))
    }

    func begin(_ volume: TestVolume) throws {
        self.volume = volume
        if let left {
            self.left = nil
            mount = try FuseMount(
                resuming: left, fileSystem: volume.fileSystem, at: mountPoint, options: Self.options)
        } else {
            mount = try FuseMount(fileSystem: volume.fileSystem, at: mountPoint, options: Self.options)
        }
    }

    private func unmount() async throws {
        let deadline = ContinuousClock.now + patience
        while true {
            do {
                return try await mount.unmount()
            } catch FuseMountError.busy where ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(2))
            }
        }
    }

    /// After a failure, or at the end of a run whose handles are closed.
    func finish() async {
        for descriptor in descriptors.values { close(descriptor) }
        descriptors = [:]
        if let left { close(left.descriptor) }
        umount2(mountPoint, Int32(MNT_DETACH))
        await mount.waitUntilUnmounted()
        try? await volume.close()
    }
}
