import EngineTestSupport
import Foundation

/// Makes damaged inputs out of sound ones: the same from the same seed, on every machine.
struct Mutator {
    /// Multiplies the rounds of every test here: `GODWIT_FUZZ=100 Tests/run --filter FuzzTests`.
    static let factor = max(1, ProcessInfo.processInfo.environment["GODWIT_FUZZ"].flatMap { Int($0) } ?? 1)

    /// Where all of them begin: `GODWIT_FUZZ_SEED` repeats a run.
    static let seed: UInt64 = {
        let given = ProcessInfo.processInfo.environment["GODWIT_FUZZ_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0..<1 << 32)
        print("fuzzing: GODWIT_FUZZ_SEED=\(seed)")
        // Also of a run that ends in a trap.
        fflush(nil)
        return seed
    }()

    var generator: Generator

    init(seed: UInt64) { generator = Generator(seed: seed) }

    /// One of this run's.
    ///
    /// - Parameter number: another one for each test, so that none has to come after another.
    init(_ number: UInt64) { self.init(seed: Self.seed &+ number << 32) }

    /// One to four kinds of damage to one of the inputs, or, rarely, bytes that never were one.
    mutating func damaged(_ inputs: [[UInt8]]) -> [UInt8] {
        guard var bytes = generator.element(of: inputs), generator.next(below: 20) > 0 else {
            return generator.bytes(generator.next(below: 80))
        }
        for _ in 0...generator.next(below: 4) { damage(&bytes, inputs) }
        return bytes
    }

    private mutating func damage(_ bytes: inout [UInt8], _ inputs: [[UInt8]]) {
        let position = generator.next(below: bytes.count + 1)
        let end = min(bytes.count, position + 1 + generator.next(below: 8))
        switch generator.next(below: 8) {
        case 0 where position < bytes.count: bytes[position] ^= 1 << UInt8(generator.next(below: 8))
        case 1 where position < bytes.count: bytes[position] = generator.element(of: Self.edges) ?? 0
        case 2: bytes.removeSubrange(position...)
        case 3: bytes.removeSubrange(position..<end)
        case 4: bytes.insert(contentsOf: generator.bytes(1 + generator.next(below: 8)), at: position)
        // Huge lengths and numbers, in the form of protobuf and of the catalog's rows.
        case 5: bytes.replaceSubrange(position..<end, with: generator.element(of: Self.hugeNumbers) ?? [])
        case 6:
            // The beginning of one and the end of another.
            let other = generator.element(of: inputs) ?? []
            bytes.replaceSubrange(position..., with: other.suffix(generator.next(below: other.count + 1)))
        default: bytes.insert(contentsOf: bytes[position..<end], at: position)
        }
    }

    private static let edges: [UInt8] = [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff]
    private static let hugeNumbers: [[UInt8]] = [
        [0xff, 0xff, 0xff, 0xff, 0x0f], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
    ]
}
