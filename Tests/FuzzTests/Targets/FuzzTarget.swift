import SwiftProtobuf

/// A parser of what comes from outside, as a function of bytes: for damages at random (`FuzzTargetTests`) and for libFuzzer,
/// which looks for bytes that reach new code (`Tests/fuzz/run`).
///
/// Whatever the bytes are, it refuses them or takes them, and what it took is what it says. A trap ends the process: that
/// shows by itself.
struct FuzzTarget: Sendable, CustomStringConvertible {
    enum Outcome: Hashable, Sendable {
        case refused
        case taken
        /// What is promised of any input does not hold.
        case wrong(String)
    }

    /// A part of a file's name and a word of a command line.
    let name: String
    let about: String
    /// Longer inputs are not tried.
    let byteLimit: Int
    /// Of how many damages a test tries it: fewer of one that takes long.
    let rounds: Int
    /// What is worth inserting.
    let words: [String]
    private let kinds: [Kind]

    /// One of the parsers that a target has several of.
    struct Kind: Sendable {
        let seeds: @Sendable () throws -> [[UInt8]]
        /// - Returns: false, or an error: it was refused.
        let body: @Sendable (_ input: [UInt8]) throws -> Bool
    }

    init(
        _ name: String, _ about: String, byteLimit: Int = 1024, rounds: Int = 4000, words: [String] = [],
        kinds: [Kind]
    ) {
        self.name = name
        self.about = about
        self.byteLimit = byteLimit
        self.rounds = rounds
        self.words = words
        self.kinds = kinds
    }

    /// - Parameters:
    ///   - seeds: sound inputs, to begin with.
    ///   - body: see `Kind`.
    init(
        _ name: String, _ about: String, byteLimit: Int = 1024, rounds: Int = 4000, words: [String] = [],
        seeds: @escaping @Sendable () throws -> [[UInt8]], body: @escaping @Sendable ([UInt8]) throws -> Bool
    ) {
        self.init(
            name, about, byteLimit: byteLimit, rounds: rounds, words: words,
            kinds: [Kind(seeds: seeds, body: body)])
    }

    var description: String { name }

    /// Sound inputs: each is taken. Where there are several parsers, the first byte says which one it is for.
    func seeds() throws -> [[UInt8]] {
        guard kinds.count > 1 else { return try kinds[0].seeds() }
        return try kinds.enumerated().flatMap { index, kind in
            try kind.seeds().map { [UInt8(truncatingIfNeeded: index)] + $0 }
        }
    }

    func run(_ input: [UInt8]) -> Outcome {
        do {
            guard kinds.count > 1 else { return try kinds[0].body(input) ? .taken : .refused }
            guard let first = input.first else { return .refused }
            return try kinds[Int(first) % kinds.count].body(Array(input.dropFirst())) ? .taken : .refused
        } catch let finding as FuzzFinding {
            return .wrong(finding.description)
        } catch {
            return .refused
        }
    }

    static let all: [FuzzTarget] =
        FuseTargets.all + PeerTargets.all + StateTargets.all + TextTargets.all + KubernetesTargets.all
        + SocketTargets.all

    static func named(_ name: String) -> FuzzTarget? { all.first { $0.name == name } }
}

/// What is promised of any input does not hold.
struct FuzzFinding: Error, CustomStringConvertible {
    let description: String
}

/// - Throws: a finding, unless it holds.
func demand(_ holds: Bool, _ what: @autoclosure () -> String) throws {
    if !holds { throw FuzzFinding(description: what()) }
}

extension FuzzTarget.Kind {
    /// A message of protobuf.
    static func message<M: Message>(
        _ samples: [M], _ body: @escaping @Sendable (M) throws -> Bool
    ) -> Self {
        Self(
            seeds: { try samples.map { try $0.serializedBytes() } },
            body: { try body(try M(serializedBytes: $0)) })
    }

    /// A text; bytes that are none become marks that stand for them, as they do for who reads a file.
    static func text(_ samples: [String], _ body: @escaping @Sendable (String) throws -> Bool) -> Self {
        Self(
            seeds: { samples.map { Array($0.utf8) } },
            body: { try body(String(decoding: $0, as: UTF8.self)) })
    }
}

/// Takes an input apart. At its end there are zeros, and nothing.
struct FuzzInput {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    var isAtEnd: Bool { rest.isEmpty }

    mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }

    /// The lowest byte first.
    mutating func number(byteCount: Int) -> UInt64 {
        (0..<byteCount).reduce(0) { $0 | UInt64(byte()) << UInt64(8 * $1) }
    }

    mutating func bytes(_ count: Int) -> [UInt8] {
        defer { rest = rest.dropFirst(count) }
        return Array(rest.prefix(count))
    }

    /// Two bytes that say how many follow, and these, as far as they are there.
    mutating func piece() -> [UInt8] { bytes(Int(number(byteCount: 2))) }

    mutating func all() -> [UInt8] { bytes(rest.count) }

    /// Pieces, one after the other, such as `piece` takes.
    static func joined(_ pieces: [[UInt8]]) -> [UInt8] {
        pieces.flatMap { piece -> [UInt8] in
            let piece = piece.prefix(0xffff)
            return [UInt8(piece.count & 0xff), UInt8(piece.count >> 8)] + piece
        }
    }
}
