import Catalog
import EngineTestSupport
import Synchronization
import VolumeFileSystem
import VolumeModel

@testable import FuseMount

/// What the kernel asks: whether it is a request, what libfuse makes of it, and what is done for it.
enum FuseTargets {
    static let all = [requests, initialization, volume]

    /// An input is requests, one after the other: the opcode, what its header says of its length (0: the truth), and a piece,
    /// from the node id on.
    private static func messages(of input: [UInt8]) -> [FuseMessage] {
        var input = FuzzInput(input)
        var messages: [FuseMessage] = []
        while !input.isAtEnd, messages.count < 24 {
            let (opcode, length) = (input.byte(), input.byte())
            var message = FuseMessage(opcode: Self.opcode(opcode), rest: input.piece())
            if length != 0 { message.statedByteCount = UInt32(length) * 17 }
            messages.append(message)
        }
        return messages
    }

    /// The last ones are of character devices in user space, and of nothing.
    private static func opcode(_ byte: UInt8) -> UInt32 {
        byte < 240 ? UInt32(byte) : [4096, 1 << 31, .max, 0x1000_0001][Int(byte) % 4]
    }

    private static func input(_ messages: [FuseMessage]) -> [UInt8] {
        messages.flatMap { message in
            [UInt8(truncatingIfNeeded: message.opcode), 0] + FuzzInput.joined([message.rest])
        }
    }

    /// Each kind of request, and some of a few.
    private static func seeds() -> [[UInt8]] {
        var maker = FuseRequestMaker(seed: 3, .tame)
        maker.learn([8, 9, 10])
        var wild = FuseRequestMaker(seed: 4, .wild)
        wild.learn([8, 9, 10])
        var single: [UInt32: [UInt8]] = [:]
        for _ in 0..<2000 {
            let message = maker.request(interrupting: nil)
            // Writes of many bytes teach nothing.
            if message.rest.count < 400, single[message.opcode] == nil {
                single[message.opcode] = input([message])
            }
        }
        let several = (0..<20).map { _ in
            input((0..<5).map { _ in wild.request(interrupting: nil) }.filter { $0.rest.count < 400 })
        }
        return single.sorted { $0.key < $1.key }.map(\.value) + several.filter { !$0.isEmpty }
    }

    /// Whether one of them was answered with success. After DESTROY there is nothing more.
    private static func ask(_ harness: FuseHarness, _ messages: [FuseMessage]) throws -> Bool {
        var isServed = false
        for message in messages {
            if try harness.ask(message) { isServed = true }
            if message.opcode == FuseOpcode.destroy.rawValue {
                try harness.beginAnew()
                break
            }
        }
        try harness.settle()
        return isServed || !messages.isEmpty
    }

    /// A harness that serves one input after the other, on one thread at a time.
    ///
    /// Unchecked Sendable: used under the lock of the `Mutex` that it is in.
    private final class Served: @unchecked Sendable {
        let harness: FuseHarness
        let volume: TestVolume?
        private let directory: TemporaryDirectory?
        var inputCount = 0

        init() throws {
            harness = try FuseHarness(BareFileSystem())
            (volume, directory) = (nil, nil)
        }

        /// Of a volume.
        init(in directory: TemporaryDirectory) throws {
            // Neither allocating nor names fill the machine's memory.
            try Catalog.create(
                in: directory.path, limits: VolumeLimits(byteCount: 16 << 20, inodeCount: 500), epoch: .first,
                now: VolumeFileSystem.now(), withRoot: true)
            let volume = try TestVolume(opening: directory.path)
            harness = try FuseHarness(volume.fileSystem)
            (self.volume, self.directory) = (volume, directory)
        }

        /// - Throws: a finding: what the requests have left does not make sense.
        func end() throws {
            guard let volume else { return }
            try volume.fileSystem.finish()
            let faults = try CatalogImage(volume.storage.catalog).faults()
            try volume.storage.close()
            try demand(faults.isEmpty, "the volume is not sound: \(faults)")
        }
    }

    private static let bare = Mutex<Served?>(nil)
    private static let requests = FuzzTarget(
        "fuse", "requests of the kernel, up to the file system's operations", byteLimit: 2048, rounds: 3000,
        seeds: { seeds() },
        body: { input in
            try bare.withLock { served in
                let current = try served ?? Served()
                served = current
                return try ask(current.harness, messages(of: input))
            }
        })

    private static let initialization = FuzzTarget(
        "fuse-init", "the kernel's first request", byteLimit: 256, rounds: 300,
        seeds: { [Array(FuseMessage.initialize().rest)] },
        body: { input in
            let first = FuseMessage(opcode: FuseOpcode.initialize.rawValue, rest: input)
            // A kernel that is too old is refused.
            let harness = try FuseHarness(BareFileSystem(), initialization: first)
            _ = try harness.ask(FuseMessage(.access, [UInt8](words: [0])))
            return true
        })

    /// A volume is left after so many inputs: its names and sizes pile up.
    private static let inputsOfOneVolume = 2000
    private static let served = Mutex<Served?>(nil)
    private static let volume = FuzzTarget(
        "fuse-volume", "requests of the kernel on a volume, which stays for some thousand of them",
        byteLimit: 2048, rounds: 1000, seeds: { seeds() },
        body: { input in
            try served.withLock { served in
                let current = try served ?? Served(in: TemporaryDirectory())
                served = current
                current.inputCount += 1
                let nodes = current.harness.nodes
                let isServed = try ask(
                    current.harness, messages(of: input).map { $0.withNodes(nodes) })
                if current.inputCount == inputsOfOneVolume {
                    served = nil
                    try current.end()
                }
                return isServed
            }
        })
}

extension FuseMessage {
    /// A low node id stands for one of those that there are, also of the other directory where there are two.
    fileprivate func withNodes(_ nodes: [UInt64]) -> FuseMessage {
        var message = self
        message.replaceNode(at: 0, nodes)
        let others: [FuseOpcode] = [.link, .rename, .rename2]
        if others.contains(where: { $0.rawValue == opcode }) { message.replaceNode(at: 24, nodes) }
        return message
    }

    private mutating func replaceNode(at offset: Int, _ nodes: [UInt64]) {
        guard rest.count >= offset + 8, (2..<64).contains(rest.word(at: offset)), !nodes.isEmpty else {
            return
        }
        let node = nodes[Int(rest.word(at: offset)) % nodes.count]
        rest.replaceSubrange(offset..<offset + 8, with: [UInt8](words: [node]))
    }
}
