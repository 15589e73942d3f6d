internal import Catalog
package import ControlProtocol
internal import Hydration
internal import VolumeModel

/// `godwit volume check`: every head of a volume, while its site runs or does not.
package enum VolumeCheck {
    /// Checks volumes whose site does not run.
    ///
    /// - Parameters:
    ///   - stateDirectory: the site's; must exist.
    ///   - called: a volume's name or identifier; nil: all of them.
    ///   - repairs: whether to put right what can be without losing anything.
    ///   - scrubs: whether to read all bytes as well.
    ///   - accepts: whether files that are damaged are to be taken for good as they are.
    /// - Returns: what was found, and what is left of it after the repair.
    /// - Throws: when there is no such volume, or when it is to be repaired and another process has a head open.
    package static func run(
        _ stateDirectory: String, called: String?, repairs: Bool, scrubs: Bool = false, accepts: Bool = false
    ) async throws -> (found: Godwit_Control_V1_CheckReply, left: Godwit_Control_V1_CheckReply) {
        let state = try StateDirectory(existing: stateDirectory)
        let registry = try SQLiteRegistry(path: state.registry)
        let all = try await registry.volumes().map(\.value)
        let records = all.filter { record in
            called.map { $0 == record.name || $0 == record.id.description } ?? true
        }
        if let called, records.isEmpty { throw SiteError.unknownVolume(called) }
        var found = Godwit_Control_V1_CheckReply()
        var left = Godwit_Control_V1_CheckReply()
        for record in records {
            for number in record.storedHeadNumbers {
                let directory = state.head(number, of: record.id)
                if accepts { try HeadDamage.accept(directory) }
                var failure: [HeadFinding] = []
                if scrubs {
                    do {
                        found.add(try HeadScrub.run(closed: directory, terms: ScrubTerms()))
                    } catch {
                        failure = [HeadFinding(.damage, "it cannot be read through: \(error)")]
                    }
                }
                let findings =
                    failure + Self.findings(directory) { try HeadCheck.run($0, isInUse: false) }
                found.add(findings, record.name, directory)
                let isRepairable = findings.contains(where: \.isRepairable)
                let rest = Self.findings(directory) {
                    repairs && isRepairable ? failure + (try HeadCheck.repair($0)) : findings
                }
                left.add(rest, record.name, directory)
            }
            let unknown = unknownHeads(of: record, in: state)
            found.add(unknown, record.name, state.volume(record.id))
            left.add(unknown, record.name, state.volume(record.id))
        }
        let known = Set(all.map(\.id))
        for id in state.volumes() where called == nil && !known.contains(id) {
            let directory = state.volume(id)
            found.add([unknownVolume(directory)], "\(id)", directory)
            left.add([unknownVolume(directory)], "\(id)", directory)
        }
        return (found, left)
    }

    /// A head that cannot even be looked at is a finding, not the end of the look.
    static func findings(_ directory: String, _ look: (String) throws -> [HeadFinding]) -> [HeadFinding] {
        do {
            return try look(directory)
        } catch {
            return [HeadFinding(.damage, "\(error)")]
        }
    }

    private static func unknownVolume(_ directory: String) -> HeadFinding {
        HeadFinding(
            .leftover,
            "\(directory) holds a volume that the registry does not name: a crash left it amid a creation, or the "
                + "registry is from a backup. Look before you delete it")
    }

    private static func unknownHeads(of record: VolumeRecord, in state: StateDirectory) -> [HeadFinding] {
        let known = Set(record.storedHeadNumbers)
        return state.heads(of: record.id).filter { !known.contains($0) }.map { number in
            HeadFinding(
                .leftover,
                "\(state.head(number, of: record.id)) is a head that the registry does not name: a crash left it, "
                    + "or the registry is from a backup. Look before you delete it")
        }
    }
}

extension VolumeRecord {
    /// The numbers of all heads that are needed here.
    var headNumbers: [UInt64] {
        keptNumbers.union([headNumber]).filter { $0 != 0 }.sorted()
    }

    /// The same, and those that are only kept in case the volume returns.
    var storedHeadNumbers: [UInt64] { Set(headNumbers).union(copies.values.map(\.number)).sorted() }
}

extension Godwit_Control_V1_CheckReply {
    mutating func add(_ progress: ScrubProgress) {
        verifiedByteCount += progress.verifiedByteCount
        hashedByteCount += progress.hashedByteCount
        busyFileCount += UInt64(progress.busyFileCount)
    }

    mutating func add(_ new: [HeadFinding], _ volume: String, _ directory: String) {
        findings += new.map { finding in
            var message = Godwit_Control_V1_Finding()
            message.volume = volume
            message.head = directory
            message.kind = finding.kind.rawValue
            message.text = finding.text
            message.repairable = finding.isRepairable
            return message
        }
    }
}
