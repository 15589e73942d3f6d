internal import CFuse
internal import Glibc

/// What was agreed with the kernel when a mount was made, and what it waits for: all that a new server needs, beside
/// the mount's descriptor, to go on where another one stopped.
package struct FuseSession: Codable, Hashable, Sendable {
    /// What no negotiation tells: node ids and handles are inode numbers, generations are 0, the kernel was told that
    /// flush and opendir need not be asked for, and how long it may keep what it was told. Another number, where a
    /// release means something else by what an older one has said.
    static let presentMeaning = 1

    var meaning = Self.presentMeaning
    /// INIT as the kernel sent it, with its header.
    var request: [UInt8]
    /// The answer to it, with its header.
    var answer: [UInt8]
    /// Requests that were read and not answered, because of which nothing was changed.
    var waiting: [[UInt8]] = []

    /// Whether every request is one, and the first is INIT.
    var isWellFormed: Bool {
        ([request] + waiting).allSatisfy(Self.isRequest) && request[4..<8].elementsEqual(Self.initOpcode)
    }

    private static let initOpcode = withUnsafeBytes(of: GW_FUSE_INIT.rawValue) { Array($0) }

    /// Whether bytes are a whole request, which libfuse can be given.
    static func isRequest(_ bytes: [UInt8]) -> Bool {
        bytes.count <= Int(GW_FUSE_BUFFER_SIZE)
            && bytes.withUnsafeBytes { buffer in
                gw_fuse_is_sound(buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count) != 0
            }
    }
}

/// A mount that its server has left: what use is made of it waits in the kernel for the next server.
package struct LeftSession: Sendable {
    /// The kernel's end, the receiver's to close. With its last copy the mount dies.
    package let descriptor: Int32
    package let session: FuseSession

    package init(descriptor: Int32, session: FuseSession) {
        self.descriptor = descriptor
        self.session = session
    }

    /// Whether the kernel has ended it meanwhile: it was unmounted.
    package static func isAlive(_ descriptor: Int32) -> Bool { gw_fuse_is_connected(descriptor) != 0 }
}

/// The memory that a loop's threads share.
///
/// Unchecked Sendable: what others than the loop's threads touch is made for that (`gw_fuse_loop_stop`, and
/// `gw_fuse_current_request` on the threads themselves); `free` is called once, after all of them.
struct FuseLoop: @unchecked Sendable {
    private let loop: UnsafeMutablePointer<gw_fuse_loop>
    private let replay: UnsafeMutableRawBufferPointer

    /// Where each thread of any loop finds its worker: a thread is of one loop.
    private static let workerKey: pthread_key_t? = {
        var key = pthread_key_t()
        return pthread_key_create(&key, nil) == 0 ? key : nil
    }()

    /// - Parameter requests: whole ones, to be done first.
    /// - Returns: nil for want of memory or thread keys.
    init?(_ session: OpaquePointer, descriptor: Int32, replaying requests: [[UInt8]]) {
        let bytes = requests.flatMap { $0 }
        replay = .allocate(byteCount: max(1, bytes.count), alignment: 8)
        replay.copyBytes(from: bytes)
        loop = .allocate(capacity: 1)
        loop.initialize(to: gw_fuse_loop())
        loop.pointee.session = session
        loop.pointee.descriptor = descriptor
        loop.pointee.replay = UnsafePointer(replay.baseAddress?.assumingMemoryBound(to: CChar.self))
        loop.pointee.replay_size = bytes.count
        loop.pointee.tallies = RequestTimes.tallies
        guard let key = Self.workerKey, gw_fuse_loop_prepare(loop, key) == 0 else {
            loop.deallocate()
            replay.deallocate()
            return nil
        }
    }

    /// To be called before an answer is written: the time of its request ends then.
    static func countAnswer(_ vectors: UnsafePointer<iovec>) {
        if let key = workerKey { gw_fuse_count_answer(key, vectors) }
    }

    /// Serves until the session is over or stopped.
    func run(threadCount: UInt32) -> Bool { gw_fuse_loop_run(loop, threadCount) == 0 }

    func stop() { gw_fuse_loop_stop(loop) }

    /// Whether the kernel has ended the session. To be asked when the loop has ended.
    var isOver: Bool { loop.pointee.is_over != 0 }

    /// Requests of an earlier server that were not reached. To be asked when the loop has ended.
    var notReplayed: [[UInt8]] {
        var requests: [[UInt8]] = []
        var rest = UnsafeRawBufferPointer(replay)[loop.pointee.replayed..<loop.pointee.replay_size]
        while rest.count >= 4 {
            let size = Int(UnsafeRawBufferPointer(rebasing: rest).loadUnaligned(as: UInt32.self))
            requests.append(Array(rest.prefix(size)))
            rest = rest.dropFirst(size)
        }
        return requests
    }

    /// The request that the calling thread is at, if it is one of the loop's.
    var currentRequest: [UInt8]? {
        var size = 0
        guard let bytes = gw_fuse_current_request(loop, &size) else { return nil }
        return Array(UnsafeRawBufferPointer(start: bytes, count: size))
    }

    func free() {
        gw_fuse_loop_destroy(loop)
        loop.deallocate()
        replay.deallocate()
    }
}
