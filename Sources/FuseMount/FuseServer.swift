internal import CFuse
internal import Catalog
internal import Dispatch
internal import Glibc
internal import Locks
internal import Synchronization
internal import VolumeFileSystem
internal import VolumeModel

/// Answers the kernel's requests with a file system's operations.
///
/// An operation is answered on the thread that brought it. If it faults, a task fetches what is missing; then the task
/// tries a read again, and a thread that may wait for a disk anything else. If it waits for a disk's sync, a thread of
/// its own does. Either way it is answered once: whoever ends the request's entry in `waiting` answers.
final class FuseServer: Sendable {
    let fileSystem: any MountableFileSystem
    let options: FuseMountOptions
    /// Buffers for reads, kept for the next one.
    private let buffers: BufferPool
    private let waiting = Lock(Waiting())
    private let syncs = DispatchQueue(label: "godwit.fuse.sync", attributes: .concurrent)
    /// Syncs at the disk at a time: more only queue there.
    private let syncLimit = DispatchSemaphore(value: 16)
    /// Syncs on threads that take requests.
    private let directSyncCount = Atomic<UInt32>(0)
    let negotiation: FuseNegotiation
    /// Whose threads bring the requests.
    let loop = Mutex<FuseLoop?>(nil)
    /// Whether another server has served this session before.
    private let isResumed: Bool
    /// Inodes of whose bytes the kernel may have cached some.
    private let cached = Lock<Set<InodeNumber>>([])
    /// Address of the session that notifications of the kernel go through. It outlives every request.
    let session = Atomic<UInt>(0)

    /// A request that waits. Addresses of requests come again, identities do not.
    private struct Waiter {
        let identity: UInt64
        let task: Task<Void, Never>
        /// The request as the kernel sent it, for another server.
        let bytes: [UInt8]
    }

    /// How what waits is ended.
    private enum Ending { case draining, leaving }

    private struct Waiting {
        var tasks: [UInt: Waiter] = [:]
        var nextIdentity: UInt64 = 0
        var ending: Ending?
        /// Requests that another server will answer.
        var left: [[UInt8]] = []
        /// Of those, tasks that have not noticed yet. Nobody waits for them.
        var abandoned: Set<UInt64> = []
        /// Those whose task is about to be started; a signal takes one out.
        var starting: Set<UInt> = []
        /// Tasks and syncs that have not ended yet.
        var running = Underway()
        /// Direct writes of which the kernel has not been told yet: it waits for reads of the same pages.
        var directWrites = Underway()
        var leavesDirectWrites = false
    }

    /// What is under way, and who waits for its end.
    private struct Underway {
        var count = 0
        var waiting: [CheckedContinuation<Void, Never>] = []

        /// - Returns: who has waited for this.
        mutating func end() -> [CheckedContinuation<Void, Never>] {
            count -= 1
            guard count == 0 else { return [] }
            defer { waiting = [] }
            return waiting
        }
    }

    init(fileSystem: any MountableFileSystem, options: FuseMountOptions, negotiatesAnew: Bool) {
        self.fileSystem = fileSystem
        self.options = options
        buffers = BufferPool(bufferByteCount: options.transferByteCount)
        isResumed = !negotiatesAnew
        negotiation = FuseNegotiation(isSent: negotiatesAnew)
    }

    // MARK: answering

    /// Runs an operation and answers with what it returns.
    func serve<Result>(
        _ request: FuseRequest, _ operation: @escaping @Sendable () throws(FileSystemError) -> Result,
        reply: @escaping @Sendable (FuseRequest, Result) -> Void
    ) {
        do {
            reply(request, try operation())
        } catch {
            switch error {
            case .errno(let errno): request.fail(errno)
            case .fault(let fault): serveLater(request, fault, mayWait: true, operation, reply)
            }
        }
    }

    /// - Parameter mayWait: whether the operation may wait for a disk, or for a commit that does: tasks are few, and others
    ///   need them.
    private func serveLater<Result>(
        _ request: FuseRequest, _ fault: Fault, mayWait: Bool,
        _ operation: @escaping @Sendable () throws(FileSystemError) -> Result,
        _ reply: @escaping @Sendable (FuseRequest, Result) -> Void
    ) {
        watchForSignal(request)
        let isStarted = start(request) { identity in
            var missing = fault
            while true {
                var failure: FileSystemError?
                do throws(FileSystemError) { try await self.fileSystem.resolve(missing) } catch {
                    failure = error
                }
                // From here on a signal comes too late: what was answered with EINTR must not be done afterwards.
                guard let claim = self.claim(request, identity) else { return }
                let answer = { @Sendable [failure] () -> Fault? in
                    do throws(FileSystemError) {
                        if let failure { throw failure }
                        reply(request, try operation())
                        return nil
                    } catch {
                        switch error {
                        case .errno(let errno):
                            request.fail(errno)
                            return nil
                        case .fault(let next): return next
                        }
                    }
                }
                guard let next = mayWait ? await BlockingThreads.value(of: answer) : answer(),
                    self.giveBack(claim, request)
                else { return }
                missing = next
            }
        }
        if !isStarted { request.fail(.interrupted) }
    }

    /// Asks to be told when the process that waits is sent a signal. Done before the task is started: from
    /// then on the request may be answered, and so be gone, at any moment.
    private func watchForSignal(_ request: FuseRequest) {
        waiting.withLock { _ = $0.starting.insert(UInt(bitPattern: request.pointer)) }
        fuse_req_interrupt_func(
            request.pointer,
            { pointer, context in
                guard let pointer, let context else { return }
                let server = Unmanaged<FuseServer>.fromOpaque(context).takeUnretainedValue()
                server.interrupt(FuseRequest(pointer: pointer))
            }, Unmanaged.passUnretained(self).toOpaque())
    }

    /// - Returns: false when the signal came first: then nothing was started, and the caller answers.
    private func start(
        _ request: FuseRequest, _ body: @escaping @Sendable (_ identity: UInt64) async -> Void
    ) -> Bool {
        let bytes = loop.withLock { $0 }?.currentRequest ?? []
        return waiting.withLock { waiting in
            let key = UInt(bitPattern: request.pointer)
            guard waiting.starting.remove(key) != nil else { return false }
            waiting.running.count += 1
            waiting.nextIdentity += 1
            let identity = waiting.nextIdentity
            // An application waits for it.
            let task = Task(priority: .high) {
                await body(identity)
                self.ended(identity)
            }
            waiting.tasks[key] = Waiter(identity: identity, task: task, bytes: bytes)
            return true
        }
    }

    /// Takes a request out of those that a signal may end.
    ///
    /// - Returns: nil when it was answered already, and may have made room for another one at the same address.
    private func claim(_ request: FuseRequest, _ identity: UInt64) -> Waiter? {
        waiting.withLock { waiting in
            let key = UInt(bitPattern: request.pointer)
            guard waiting.tasks[key]?.identity == identity else { return nil }
            return waiting.tasks.removeValue(forKey: key)
        }
    }

    /// Lets a signal end it again.
    ///
    /// - Returns: false when one has come meanwhile, or the mount is being ended: the request is ended then.
    private func giveBack(_ waiter: Waiter, _ request: FuseRequest) -> Bool {
        let ending = waiting.withLock { waiting -> Ending? in
            // First: the kernel tells of a signal once, and another server would not hear of it.
            guard fuse_req_interrupted(request.pointer) == 0 else { return .draining }
            if waiting.ending == .leaving, !waiter.bytes.isEmpty {
                waiting.left.append(waiter.bytes)
                return .leaving
            }
            guard waiting.ending == nil else { return .draining }
            waiting.tasks[UInt(bitPattern: request.pointer)] = waiter
            return nil
        }
        switch ending {
        case nil: return true
        case .draining: request.fail(.interrupted)
        case .leaving: request.forgotten()
        }
        return false
    }

    /// The process that waits was sent a signal: it gets EINTR now, what was on its way arrives anyway.
    private func interrupt(_ request: FuseRequest) {
        let task = waiting.withLock { waiting in
            let key = UInt(bitPattern: request.pointer)
            waiting.starting.remove(key)
            let task = waiting.tasks.removeValue(forKey: key)?.task
            // For the answer below, which nobody may overtake who ends the session.
            if task != nil { waiting.running.count += 1 }
            return task
        }
        guard let task else { return }
        task.cancel()
        // Not here: libfuse holds the request's lock while it tells us.
        Task {
            request.fail(.interrupted)
            self.ended(nil)
        }
    }

    /// - Parameter identity: of the waiter; nil: a sync.
    private func ended(_ identity: UInt64?) {
        let idle = waiting.withLock { waiting -> [CheckedContinuation<Void, Never>] in
            if let identity, waiting.abandoned.remove(identity) != nil { return [] }
            return waiting.running.end()
        }
        for continuation in idle { continuation.resume() }
    }

    /// Answers everything that waits with EINTR and waits until nothing runs any more.
    func drain() async {
        let waitingTasks = waiting.withLock { waiting in
            defer { waiting.tasks = [:] }
            waiting.ending = .draining
            return waiting.tasks
        }
        for (pointer, waiter) in waitingTasks {
            waiter.task.cancel()
            if let pointer = fuse_req_t(bitPattern: pointer) {
                FuseRequest(pointer: pointer).fail(.interrupted)
            }
        }
        await waitUntilIdle()
    }

    /// Answers what can be answered with what is here, and takes back what waits for something that is elsewhere:
    /// nothing was changed for that, and the kernel does not know that it was begun.
    ///
    /// - Returns: those requests, for another server.
    func leave() async -> [[UInt8]] {
        let taken = waiting.withLock { waiting in
            waiting.ending = .leaving
            let taken = waiting.tasks.filter { !$0.value.bytes.isEmpty }
            for (pointer, waiter) in taken {
                waiting.tasks[pointer] = nil
                waiting.left.append(waiter.bytes)
                // What they fetch may take long, and is of no use here any more.
                waiting.abandoned.insert(waiter.identity)
                waiting.running.count -= 1
            }
            return taken
        }
        for (pointer, waiter) in taken {
            waiter.task.cancel()
            if let pointer = fuse_req_t(bitPattern: pointer) { FuseRequest(pointer: pointer).forgotten() }
        }
        await waitUntilIdle()
        return waiting.withLock { $0.left }
    }

    private func waitUntilIdle() async {
        await wait(for: \.running)
        await wait(for: \.directWrites)
    }

    private func wait(for underway: WritableKeyPath<Waiting, Underway> & Sendable) async {
        await withCheckedContinuation { continuation in
            let isOver = waiting.withLock { waiting in
                if waiting[keyPath: underway].count > 0 {
                    waiting[keyPath: underway].waiting.append(continuation)
                }
                return waiting[keyPath: underway].count == 0
            }
            if isOver { continuation.resume() }
        }
    }

    /// Runs something that waits for the disk. While at least half of the threads that take requests do not, it is done
    /// on the one that brought it: to wake another one takes as long as many a disk.
    func serveBlocking(
        _ request: FuseRequest, _ operation: @escaping @Sendable () throws(FileSystemError) -> Void
    ) {
        defer { directSyncCount.wrappingSubtract(1, ordering: .relaxed) }
        if directSyncCount.wrappingAdd(1, ordering: .relaxed).newValue <= options.threadCount / 2 {
            serve(request, operation) { request, _ in request.succeed() }
            return
        }
        waiting.withLock { $0.running.count += 1 }
        syncs.async {
            self.syncLimit.wait()
            self.serve(request, operation) { request, _ in request.succeed() }
            self.syncLimit.signal()
            self.ended(nil)
        }
    }

    // MARK: writing

    /// To be called before a write with O_DIRECT is done; after it comes `answerDirectWrite` or `endDirectWrite`.
    ///
    /// - Returns: false when the next server is to do it: nothing is to be done here any more.
    func beginDirectWrite(_ request: FuseRequest) -> Bool {
        let isBegun = waiting.withLock { waiting in
            if !waiting.leavesDirectWrites { waiting.directWrites.count += 1 }
            return !waiting.leavesDirectWrites
        }
        if isBegun { return true }
        guard let bytes = loop.withLock({ $0 })?.currentRequest else {
            request.fail(.inputOutput)
            return false
        }
        waiting.withLock { $0.left.append(bytes) }
        request.forgotten()
        return false
    }

    /// Answers a write with O_DIRECT.
    ///
    /// After an asynchronous one the kernel does not drop what it has cached of the range, as it does after a
    /// synchronous one: somebody who read there while it was on its way would go on seeing the old bytes. So it is told,
    /// before the writer is. Not by this thread: it waits for reads that are to be answered. And not while reads may
    /// wait for bytes that are elsewhere: it would wait with them, where no signal ends it.
    func answerDirectWrite(_ request: FuseRequest, _ inode: InodeNumber, offset: off_t, count: Int) {
        guard isCached(inode), !fileSystem.mayFault else {
            request.reply(count: count)
            endDirectWrite()
            return
        }
        let address = session.load(ordering: .acquiring)
        syncs.async {
            if let session = OpaquePointer(bitPattern: address) {
                _ = fuse_lowlevel_notify_inval_inode(session, inode.number, offset, off_t(count))
            }
            request.reply(count: count)
            self.endDirectWrite()
        }
    }

    /// Makes the kernel forget what it has cached of a file's bytes, in mappings as well: whoever reads them asks anew.
    ///
    /// As after a direct write: on a thread of its own, and not while reads of the file may wait for bytes that are
    /// elsewhere: whoever asks for it does so again when they have come.
    func invalidate(_ inode: InodeNumber, _ range: ByteRange) {
        guard !fileSystem.mayFault(reading: inode) else { return }
        notify { session in
            _ = fuse_lowlevel_notify_inval_inode(
                session, inode.number, off_t(clamping: range.start), off_t(clamping: range.byteCount))
        }
    }

    /// The same of all files of which bytes may be cached, but for those that wait for bytes that are elsewhere.
    func invalidateAll() {
        let inodes = cached.withLock { $0 }
        guard !inodes.isEmpty else { return }
        notify { session in
            for inode in inodes where !self.fileSystem.mayFault(reading: inode) {
                // Whoever ends the mount need not wait for all of them.
                guard self.waiting.withLock({ $0.ending == nil && !$0.leavesDirectWrites }) else { return }
                _ = fuse_lowlevel_notify_inval_inode(session, inode.number, 0, 0)
            }
        }
    }

    /// Tells the kernel something, on a thread of its own, unless the mount is being ended: that waits for it.
    private func notify(_ tell: @escaping @Sendable (OpaquePointer) -> Void) {
        let isServing = waiting.withLock { waiting in
            guard waiting.ending == nil, !waiting.leavesDirectWrites else { return false }
            waiting.directWrites.count += 1
            return true
        }
        guard isServing else { return }
        syncs.async {
            if let session = OpaquePointer(bitPattern: self.session.load(ordering: .acquiring)) {
                tell(session)
            }
            self.endDirectWrite()
        }
    }

    func endDirectWrite() {
        for continuation in waiting.withLock({ $0.directWrites.end() }) { continuation.resume() }
    }

    /// Leaves direct writes that come from now on to the next server, and waits for the others. To be called while
    /// requests are served: that is what the kernel waits for when it is told of them.
    func endDirectWrites() async {
        waiting.withLock { $0.leavesDirectWrites = true }
        await wait(for: \.directWrites)
    }

    /// The kernel may cache some of an inode's bytes. (What is read through a mapping of a descriptor with O_DIRECT looks
    /// like a direct read, and is not noted.)
    func noteCaching(of inode: InodeNumber) { cached.withLock { _ = $0.insert(inode) } }

    /// What the kernel cached of another server's answers is not known.
    private func isCached(_ inode: InodeNumber) -> Bool {
        isResumed || cached.withLock { $0.contains(inode) }
    }

    /// Of how many inodes something is remembered until the kernel forgets them.
    var rememberedInodeCount: Int { cached.withLock { $0.count } }

    func forget(_ inode: InodeNumber, count: UInt64) {
        cached.withLock { _ = $0.remove(inode) }
        fileSystem.forget(inode, count: count)
    }

    // MARK: reading

    func read(
        _ request: FuseRequest, _ inode: InodeNumber, size: Int, offset: UInt64, handle: FileHandle,
        openFlags: Int32
    ) {
        if openFlags & Int32(GW_O_DIRECT) == 0 { noteCaching(of: inode) }
        let keepsAccessTime = openFlags & Int32(GW_O_NOATIME) != 0
        // More is asked for only by who takes less as well (read(2) with O_DIRECT of the kernel itself).
        let size = min(size, options.transferByteCount)
        let buffer = buffers.take()
        let target = UnsafeMutableRawBufferPointer(rebasing: buffer.memory[0..<size])
        do {
            let count = try fileSystem.read(
                inode, handle: handle, offset: offset, keepsAccessTime: keepsAccessTime, into: target)
            request.reply(bytes: UnsafeRawBufferPointer(rebasing: target[0..<count]))
            buffers.give(buffer)
        } catch {
            buffers.give(buffer)
            switch error {
            case .errno(let errno): request.fail(errno)
            case .fault(let fault):
                let fileSystem = self.fileSystem
                // It waits for no commit, and reads what has nearly always just been written.
                serveLater(
                    request, fault, mayWait: false,
                    { () throws(FileSystemError) -> [UInt8] in
                        try Self.readBytes(
                            fileSystem, inode, handle, offset, size, keepsAccessTime: keepsAccessTime)
                    },
                    { $0.reply(bytes: $1) })
            }
        }
    }

    private static func readBytes(
        _ fileSystem: any MountableFileSystem, _ inode: InodeNumber, _ handle: FileHandle, _ offset: UInt64,
        _ size: Int, keepsAccessTime: Bool
    ) throws(FileSystemError) -> [UInt8] {
        var failure: FileSystemError?
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            do throws(FileSystemError) {
                count = try fileSystem.read(
                    inode, handle: handle, offset: offset, keepsAccessTime: keepsAccessTime,
                    into: UnsafeMutableRawBufferPointer(buffer))
            } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    // MARK: listing

    /// Fills the kernel's buffer with entries. `.` and `..` have the offsets 1 and 2, the file system's own
    /// are moved behind them.
    func readDirectory(
        _ request: FuseRequest, _ inode: InodeNumber, size: Int, offset: Int64, openFlags: Int32, isPlus: Bool
    ) {
        let fileSystem = self.fileSystem
        let keepsAccessTime = openFlags & Int32(GW_O_NOATIME) != 0
        let cacheSeconds = options.cacheSeconds
        let size = min(size, options.transferByteCount)
        serve(request) { () throws(FileSystemError) -> [UInt8] in
            var listing = DirectoryBuffer(
                request: request, size: size, isPlus: isPlus, cacheSeconds: cacheSeconds)
            if offset < 1, !listing.add(dots: ".", inode, nextOffset: 1) { return listing.bytes }
            if offset < 2, !listing.add(dots: "..", try fileSystem.parent(ofDirectory: inode), nextOffset: 2)
            {
                return listing.bytes
            }
            let limit = max(4, size / (isPlus ? 168 : 40))
            let entries = try fileSystem.readDirectory(
                inode, offset: max(2, offset) - 2, limit: limit, keepsAccessTime: keepsAccessTime)
            for entry in entries {
                guard listing.add(entry, nextOffset: entry.nextOffset + 2) else { break }
                if isPlus { fileSystem.retain(entry.attributes.inode, count: 1) }
            }
            return listing.bytes
        } reply: {
            $0.reply(bytes: $1)
        }
    }
}
