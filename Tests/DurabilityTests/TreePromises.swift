import EngineTestSupport
import Glibc
import VolumeFileSystem
import VolumeModel

/// What a name may stand for.
enum Thing: Hashable, Sendable {
    case absent
    case directory
    case symbolicLink(String)
    case file(PossibleBytes)
    /// Whatever it is besides.
    case traits(Traits)
}

/// The bytes that a file may have. Writes that were not synced may be there, or not, or in part.
struct PossibleBytes: Hashable, Sendable {
    var sizes: [ClosedRange<Int>]
    /// Each byte is as it is in one of them.
    var contents: [[UInt8]]

    init(_ content: [UInt8]) { (sizes, contents) = ([content.count...content.count], [content]) }

    /// - Returns: what is wrong with these bytes; nil: nothing is.
    func fault(of found: [UInt8]) -> String? {
        guard sizes.contains(where: { $0.contains(found.count) }) else {
            return "it has \(found.count) bytes, and may have \(sizes)"
        }
        // As a rule a whole piece is of one of them.
        let piece = 4096
        for start in stride(from: 0, to: found.count, by: piece) {
            let part = found[start..<min(found.count, start + piece)]
            let isOne = contents.contains { content in
                content.count >= part.endIndex && content[part.indices].elementsEqualQuickly(part)
            }
            if isOne { continue }
            for index in part.indices
            where !contents.contains(where: { index < $0.count && $0[index] == found[index] }) {
                return "byte \(index) of \(found.count) is \(found[index]), and is none of what was written"
            }
        }
        return nil
    }
}

extension ArraySlice<UInt8> {
    /// Many times faster than a comparison of elements, when this is not optimised.
    fileprivate func elementsEqualQuickly(_ other: ArraySlice<UInt8>) -> Bool {
        withUnsafeBytes { one in
            other.withUnsafeBytes { other in
                guard let first = one.baseAddress, let second = other.baseAddress else {
                    return one.count == other.count
                }
                return one.count == other.count && memcmp(first, second, one.count) == 0
            }
        }
    }
}

/// What fsync(2) makes safe of an inode besides its bytes.
struct Traits: Hashable, Sendable, CustomStringConvertible {
    var permissions: UInt32
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    var modificationTime = FileTime.zero
    var attributes: [String: [UInt8]] = [:]

    /// Short.
    var description: String {
        let names = attributes.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value.count) bytes" }
        return "mode \(String(permissions, radix: 8)) of \(uid):\(gid), \(modificationTime), \(names)"
    }
}

/// All that several names may be together: one change of more than one is there or not, and never half.
typealias World = [String: Thing]

/// From a moment on, and until the next promise about the same names, one of these worlds is there.
struct TreePromise: Sendable {
    let moment: UInt64
    let worlds: [World]

    /// - Parameter promises: by whatever they are about.
    static func broken(
        _ promises: [String: [TreePromise]], at moment: UInt64, in volume: TestVolume
    ) async -> [String] {
        var faults: [String] = []
        for (subject, all) in promises {
            guard let promise = all.last(where: { $0.moment <= moment }) else { continue }
            var reasons: [String] = []
            for world in promise.worlds {
                guard let reason = await fault(of: world, in: volume) else {
                    reasons = []
                    break
                }
                reasons.append(reason)
            }
            if !reasons.isEmpty {
                faults.append("\(subject): \(reasons.joined(separator: "; or else: "))")
            }
        }
        return faults
    }

    private static func fault(of world: World, in volume: TestVolume) async -> String? {
        for (name, thing) in world {
            do {
                if let fault = try await fault(of: thing, at: name, in: volume) { return "\(name): \(fault)" }
            } catch {
                return "\(name) cannot be looked at: \(error)"
            }
        }
        return nil
    }

    private static func fault(
        of thing: Thing, at name: String, in volume: TestVolume
    ) async throws -> String? {
        guard let found = try await look(name, in: volume) else {
            return thing == .absent ? nil : "it is not there"
        }
        switch thing {
        case .absent: return "it is there"
        case .directory: return found.kind == .directory ? nil : "it is no directory"
        case .symbolicLink(let target):
            let present = try volume.fileSystem.readSymbolicLink(found.inode)
            return present == Array(target.utf8) ? nil : "it leads elsewhere"
        case .file(let bytes):
            guard found.kind == .regular else { return "it is no file" }
            return bytes.fault(of: try await volume.read(found.inode, 0..<Int(found.size)))
        case .traits(let traits):
            let present = try self.traits(of: found, in: volume)
            return present == traits ? nil : "it has \(present), and may have \(traits)"
        }
    }

    private static func traits(of found: FileAttributes, in volume: TestVolume) throws -> Traits {
        var traits = Traits(
            permissions: found.permissions, uid: found.uid, gid: found.gid,
            modificationTime: found.modificationTime)
        for name in try volume.fileSystem.extendedAttributeNames(of: found.inode) {
            traits.attributes[String(decoding: name, as: UTF8.self)] =
                try volume.fileSystem.extendedAttribute(name, of: found.inode)
        }
        return traits
    }

    /// Looks a path up; names that are still elsewhere are waited for.
    ///
    /// - Returns: nil when there is no such name.
    static func look(_ path: String, in volume: TestVolume) async throws(FileSystemError) -> FileAttributes? {
        var found: FileAttributes?
        for part in path.split(separator: "/") {
            let parent = found?.inode ?? .root
            do {
                found = try await volume.faulting { () throws(FileSystemError) in
                    try volume.fileSystem.lookup(Array(part.utf8), in: parent)
                }
            } catch .errno(.noSuchEntry) {
                return nil
            }
        }
        return found
    }
}

/// What a head must be able to do with every file that it shows, whatever was promised of it.
enum RecoveredFile {
    /// So far beyond its end a file is grown: over the end of a block.
    private static let growth = 6000
    private static let zeros = [UInt8](repeating: 0, count: growth)

    /// Grows each file that has bytes here: what a crash has left beyond its end must not come to light.
    static func faults(in volume: TestVolume) async -> [String] {
        var faults: [String] = []
        do {
            let records = try volume.storage.catalog.perform { try $0.inodes(withDataFrom: .init(1)) }
            for record in records where record.attributes.kind == .regular {
                let inode = record.attributes.inode
                let size = Int(record.attributes.size)
                try volume.truncate(inode, to: size + growth)
                let bytes = try await volume.read(inode, size..<size + growth)
                if !bytes[...].elementsEqualQuickly(zeros[...]) {
                    faults.append("inode \(inode): beyond its end there were other bytes than zeros")
                }
            }
        } catch {
            faults.append("files cannot be grown: \(error)")
        }
        return faults
    }
}
