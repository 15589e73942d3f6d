package import Hydration
internal import VolumeFileSystem
internal import VolumeModel

/// Does random operations on a volume and on the model, and compares after each. What is compared: `ModelRun+Checks.swift`.
package final class ModelRun {
    static let names = ["a", "b", "c", "d", "e"]
    static let largestFile = 150_000
    /// Open at a time, at the most.
    static let handleLimit = 12

    package let driver: any ModelDriver
    package let model: Model
    let source: FakeSource?
    let configuration: Hydrator.Configuration
    let temporary: TemporaryDirectory
    let seed: UInt64
    var generator: Generator
    var trace: [String] = []
    var copyCount = 0
    private var nextHandle = 1
    private var reopeningCount = 0

    package init(
        _ driver: any ModelDriver, _ model: Model, source: FakeSource?, configuration: Hydrator.Configuration,
        temporary: TemporaryDirectory, seed: UInt64
    ) {
        self.driver = driver
        self.model = model
        self.source = source
        self.configuration = configuration
        self.temporary = temporary
        self.seed = seed
        generator = Generator(seed: seed)
        model.caller = driver.caller
    }

    package var volume: TestVolume { driver.volume }

    package struct Difference: Error, CustomStringConvertible {
        package let description: String

        package init(description: String) { self.description = description }
    }

    func fail(_ what: String) -> Difference {
        Difference(
            description: "seed \(seed): " + what + "\nlast steps:\n"
                + trace.suffix(25).joined(separator: "\n"))
    }

    /// - Parameter crashes: one step in so many is followed by a look at what a crash would leave; nil: none is.
    package func run(steps: Int, crashes: Int?) async throws {
        do {
            try await runUnguarded(steps: steps, crashes: crashes)
        } catch let error as Difference where error.description.hasPrefix("seed ") {
            throw error
        } catch {
            throw fail("\(error); log: \(volume.log)")
        }
    }

    private func runUnguarded(steps: Int, crashes: Int?) async throws {
        for step in 0..<steps {
            try await self.step()
            // Other tests wait for a thread.
            await Task.yield()
            if step % 25 == 24, !volume.storage.catalog.isArriving { try await checkAll() }
            if step == steps / 2 { try await arrive() }
            if step % 120 == 60 { try await forgetAll() }
            if step % 120 == 119 { try await reopen() }
            if let crashes, generator.next(below: crashes) == 0 { try await checkCrash() }
        }
        try await checkAll()
        try await checkAllContents()
    }

    /// Lets the names come that nobody has asked for yet.
    private func arrive() async throws {
        source?.set { $0.holdsListings = false }
        try await volume.bringAllNames()
        try await checkAll()
    }

    // MARK: one step

    private func perform(_ operation: ModelOperation) async throws {
        let refusal = driver.refusal(of: operation)
        trace.append("\(operation)")
        let begin = VolumeFileSystem.now()
        var failure: FileSystemError?
        var made: InodeNumber?
        do throws(FileSystemError) {
            made = try await driver.perform(operation, in: model)
        } catch {
            failure = error
        }
        let window = begin...max(begin, VolumeFileSystem.now())
        let expected = refusal ?? model.apply(operation, made: made, during: window)
        trace[trace.count - 1] += " → \(expected?.description ?? made.map { "\($0)" } ?? "ok")"
        if failure != expected.map({ .errno($0) }) {
            throw fail(
                "\(operation): \(failure.map { "\($0)" } ?? "success"), expected "
                    + "\(expected?.description ?? "success"); log: \(volume.log)")
        }
        for node in model.takeGone() { try await driver.letGo(of: node) }
        try await checkAttributes(after: operation)
    }

    private func step() async throws {
        let weights: [(Int, () async throws -> Void)] = [
            (10, create), (5, makeDirectory), (2, makeLink), (4, addHardLink), (6, unlink),
            (3, removeDirectory), (11, rename), (18, write), (7, truncate), (5, allocate), (3, copy),
            (4, setXattr), (2, removeXattr), (14, read), (2, seek), (5, synchronize), (5, openOne),
            (4, closeOne), (2, settle), (2, makeUnnamed), (2, changeMode), (1, changeOwner), (2, setTimes),
            (1, forgetBytes), (2, repeatListing),
        ]
        var draw = generator.next(below: weights.reduce(0) { $0 + $1.0 })
        for (weight, action) in weights {
            draw -= weight
            if draw < 0 { return try await action() }
        }
    }

    private func place() async throws -> ModelPlace {
        // Few and not too deep, so that names meet.
        let directories = model.directories.prefix(8)
        let directory = directories[generator.next(below: directories.count)]
        try await driver.reach(directory, in: model)
        return ModelPlace(directory: directory, name: Self.names[generator.next(below: Self.names.count)])
    }

    /// - Returns: nil: there are none.
    private func pick(_ nodes: [Model.Node]) async throws -> ModelTarget? {
        guard let node = generator.element(of: nodes) else { return nil }
        let handles = model.handles.filter { $0.node === node }
        if node.links == 0 || generator.next(below: 2) == 0, let handle = generator.element(of: handles) {
            return ModelTarget(node: node, handle: handle)
        }
        try await driver.reach(node, in: model)
        return ModelTarget(node: node, handle: nil)
    }

    private func anyFile() async throws -> ModelTarget? { try await pick(model.files) }

    /// An answer of the origin that comes once more, however old it is.
    private func repeatListing() throws {
        // How many there are is a matter of time: the same number is drawn however many.
        let draw = generator.next(below: 1 << 20)
        guard let listings = source?.listings, !listings.isEmpty else { return }
        let listing = listings[draw % listings.count]
        trace.append("a listing of \(listing.parts.map(\.directory)) once more")
        try volume.storage.catalog.take(listing)
    }

    // MARK: names

    private func create() async throws { try await perform(.create(try await place())) }

    private func makeDirectory() async throws { try await perform(.makeDirectory(try await place())) }

    private func makeLink() async throws {
        let place = try await place()
        let target = Array("to/\(generator.next(below: 1000))".utf8)
        try await perform(.makeSymbolicLink(place, target: target))
    }

    private func makeUnnamed() async throws {
        guard model.handles.count < Self.handleLimit else { return }
        let directory = try await place().directory
        try await perform(.makeUnnamed(in: directory, handle: newHandle()))
    }

    private func newHandle() -> Int {
        nextHandle += 1
        return nextHandle
    }

    private func addHardLink() async throws {
        guard let target = try await pick(model.all.filter { $0.kind != .directory }) else { return }
        try await perform(.link(target, try await place()))
    }

    private func unlink() async throws { try await perform(.unlink(try await place())) }

    private func removeDirectory() async throws { try await perform(.removeDirectory(try await place())) }

    private func rename() async throws {
        let old = try await place()
        let new = try await place()
        let rule: RenameRule =
            [.replace, .replace, .replace, .refuseToReplace, .exchange][generator.next(below: 5)]
        try await perform(.rename(old, to: new, rule))
    }

    // MARK: handles and bytes

    private func openOne() async throws {
        guard model.handles.count < Self.handleLimit, let target = try await anyFile() else { return }
        // What has no name is not opened once more.
        guard target.node.links > 0 else { return }
        let opening = generator.element(of: Model.Opening.allCases) ?? .plain
        let named = ModelTarget(node: target.node, handle: nil)
        try await driver.reach(target.node, in: model)
        try await perform(.open(named, handle: newHandle(), opening))
    }

    private func closeOne() async throws {
        guard let handle = generator.element(of: model.handles) else { return }
        try await perform(.close(handle))
    }

    package func closeAll() async throws {
        while let handle = model.handles.last { try await perform(.close(handle)) }
    }

    private func write() async throws {
        guard let target = try await anyFile() else { return }
        let size = target.node.content.count
        let offset =
            target.handle?.opening == .appending
            ? size : generator.next(below: generator.next(below: 3) == 0 ? Self.largestFile : size + 1)
        let bytes = generator.bytes(1 + generator.next(below: generator.next(below: 2) == 0 ? 100 : 20_000))
        try await perform(.write(target, offset: offset, bytes))
    }

    private func truncate() async throws {
        guard let target = try await anyFile() else { return }
        let size =
            generator.next(below: 4) == 0
            ? 0 : generator.next(below: min(target.node.content.count, Self.largestFile) * 3 / 2 + 100)
        try await perform(.truncate(target, size))
    }

    private func allocate() async throws {
        guard let target = try await anyFile() else { return }
        let offset = generator.next(below: target.node.content.count + 1000)
        let count = 1 + generator.next(below: 30_000)
        let mode: AllocationMode =
            [.punchHole, .zeroRange, .zeroRangeKeepingSize, .allocate, .allocateKeepingSize][
                generator.next(below: 5)]
        try await perform(.allocate(target, mode, offset: offset, count: count))
    }

    private func copy() async throws {
        guard let source = try await anyFile(), let target = try await anyFile(),
            // copy_file_range(2) refuses ranges that overlap, and O_APPEND.
            source.node !== target.node, target.handle?.opening != .appending
        else { return }
        let offset = generator.next(below: source.node.content.count + 10)
        let place = generator.next(below: target.node.content.count + 10)
        let count = 1 + generator.next(below: 30_000)
        try await perform(.copy(source, from: offset, to: target, at: place, count: count))
    }

    private func read() async throws {
        guard let target = try await anyFile() else { return }
        let offset = generator.next(below: target.node.content.count + 10)
        let count = 1 + generator.next(below: generator.next(below: 2) == 0 ? 4096 : 40_000)
        trace.append("read \(target) \(offset)+\(count)")
        try await compare(target, offset..<offset + count)
    }

    private func synchronize() async throws {
        guard let target = try await pick(model.all) else { return }
        try await perform(.synchronize(target, dataOnly: generator.next(below: 2) == 0))
    }

    private func forgetBytes() async throws {
        guard let target = try await anyFile() else { return }
        try await perform(.forgetBytes(target))
    }

    private func settle() throws {
        trace.append("settle")
        try volume.storage.settle()
    }

    // MARK: attributes

    /// The kernel lets nobody set or read attributes of this namespace of anything but files and directories.
    private func anyWithXattrs() async throws -> ModelTarget? {
        try await pick(model.all.filter { $0.kind != .symbolicLink })
    }

    private func setXattr() async throws {
        guard let target = try await anyWithXattrs() else { return }
        let name = "user." + Self.names[generator.next(below: 3)]
        let value = generator.bytes(generator.next(below: 50))
        let rule: ModelOperation.AttributeRule =
            [.either, .either, .mustCreate, .mustReplace][generator.next(below: 4)]
        try await perform(.setAttribute(target, name, value, rule))
    }

    private func removeXattr() async throws {
        guard let target = try await anyWithXattrs() else { return }
        try await perform(.removeAttribute(target, "user." + Self.names[generator.next(below: 3)]))
    }

    private func changeMode() async throws {
        guard let target = try await pick(model.all) else { return }
        try await perform(.changeMode(target, UInt32(generator.next(below: 0o1000))))
    }

    private func changeOwner() async throws {
        guard let target = try await pick(model.all) else { return }
        let (uid, gid) = (UInt32(generator.next(below: 3)), UInt32(generator.next(below: 3)))
        try await perform(.changeOwner(target, uid: uid, gid: gid))
    }

    private func setTimes() async throws {
        guard let target = try await pick(model.all) else { return }
        let times = (0..<2).map { _ in
            FileTime(
                seconds: Int64(generator.next(below: 9_000_000_000)) - 1_000_000_000,
                nanoseconds: UInt32(generator.next(below: 1_000_000_000)))
        }
        try await perform(.setTimes(target, access: times[0], modification: times[1]))
    }

    // MARK: larger steps

    private func forgetAll() async throws {
        try await closeAll()
        trace.append("forget all that is cached")
        try await driver.forgetAll()
    }

    /// Every other time to another process, as it were, which goes on with what is open.
    private func reopen() async throws {
        reopeningCount += 1
        let isHandedOver = reopeningCount % 2 == 0
        if !isHandedOver { try await closeAll() }
        trace.append(isHandedOver ? "hand over" : "close and open")
        let opens = try await driver.end(isHandedOver: isHandedOver)
        let next = try TestVolume(
            opening: volume.directory, source: source, configuration: configuration, openFileLimit: 16,
            resuming: opens)
        try await driver.begin(next)
        next.startHydration()
        model.noteSynchronized()
        if !volume.storage.catalog.isArriving { try await checkAll() }
    }
}
