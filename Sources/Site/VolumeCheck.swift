internal import Catalog
package import ControlProtocol
internal import Hydration
internal import VolumeModel

/// `godwit volume check`: every head of a volume, while its site runs or does not.
package enum VolumeCheck {
    package struct Outcome: Sendable {
        package var found = Godwit_Control_V1_CheckReply()
        /// What is left of it after the repair.
        package var left = Godwit_Control_V1_CheckReply()
        /// false: it is in a cluster's API. Every head that is here was looked at; whether there should be more of them, or
        /// fewer, is not known.
        package var isRegistryCompared = true
    }

    /// What is looked at of a volume.
    private struct Candidate {
        var name: String
        var id: VolumeID
        var heads: [UInt64]
        var record: VolumeRecord?
    }

    /// Checks volumes whose site does not run.
    ///
    /// - Parameters:
    ///   - stateDirectory: the site's; must exist. Nothing is made in it.
    ///   - called: a volume's name or identifier; nil: all of them. Without the registry names are not known.
    ///   - repairs: whether to put right what can be without losing anything: a head for itself, so the registry is not
    ///     needed for it.
    ///   - scrubs: whether to read all bytes as well.
    ///   - accepts: whether files that are damaged are to be taken for good as they are.
    /// - Throws: when there is no such volume, or when it is to be repaired and another process has a head open.
    package static func run(
        _ stateDirectory: String, called: String?, repairs: Bool, scrubs: Bool = false, accepts: Bool = false
    ) async throws -> Outcome {
        let state = try StateDirectory(existing: stateDirectory)
        var outcome = Outcome()
        let all: [Candidate]
        if state.hasRegistry {
            all = try await SQLiteRegistry(path: state.registry).volumes().map(\.value).map {
                Candidate(name: $0.name, id: $0.id, heads: $0.storedHeadNumbers, record: $0)
            }
        } else {
            outcome.isRegistryCompared = false
            all = state.volumes().map { Candidate(name: "\($0)", id: $0, heads: state.heads(of: $0)) }
        }
        let candidates = all.filter { called == nil || called == $0.name || called == $0.id.description }
        if let called, candidates.isEmpty {
            guard outcome.isRegistryCompared else {
                throw SiteError.invalid(
                    "nothing of a volume with the identifier '\(called)' is here; names are in the cluster's registry "
                        + "alone ('kubectl get volumes.godwit.dev')")
            }
            throw SiteError.unknownVolume(called)
        }
        for volume in candidates {
            for number in volume.heads {
                let directory = state.head(number, of: volume.id)
                if accepts { try HeadDamage.accept(directory) }
                var failure: [HeadFinding] = []
                if scrubs {
                    do {
                        outcome.found.add(try HeadScrub.run(closed: directory, terms: ScrubTerms()))
                    } catch {
                        failure = [HeadFinding(.damage, "it cannot be read through: \(error)")]
                    }
                }
                let findings =
                    failure + Self.findings(directory) { try HeadCheck.run($0, isInUse: false) }
                outcome.found.add(findings, volume.name, directory)
                let isRepairable = findings.contains(where: \.isRepairable)
                var isRestored = false
                if repairs, !findings.isEmpty {
                    let others = volume.heads.filter { $0 != number }.map { state.head($0, of: volume.id) }
                    do {
                        isRestored = try !HeadDamage.restore(closed: directory, from: others).isEmpty
                    } catch {
                        failure.append(HeadFinding(.damage, "it cannot be restored: \(error)"))
                    }
                }
                let rest = Self.findings(directory) {
                    if repairs, isRepairable { return failure + (try HeadCheck.repair($0)) }
                    return isRestored ? failure + (try HeadCheck.run($0, isInUse: false)) : findings
                }
                outcome.left.add(rest, volume.name, directory)
            }
            let unknown = volume.record.map { unknownHeads(of: $0, in: state) } ?? []
            outcome.found.add(unknown, volume.name, state.volume(volume.id))
            outcome.left.add(unknown, volume.name, state.volume(volume.id))
        }
        let known = Set(all.map(\.id))
        for id in state.volumes() where called == nil && !known.contains(id) {
            let directory = state.volume(id)
            outcome.found.add([unknownVolume(directory)], "\(id)", directory)
            outcome.left.add([unknownVolume(directory)], "\(id)", directory)
        }
        return outcome
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
        keptNumbers.union([headNumber, reading?.number ?? 0]).filter { $0 != 0 }.sorted()
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
        findings += Self.messages(of: new, volume, directory)
    }

    mutating func addRepaired(_ new: [HeadFinding], _ volume: String, _ directory: String) {
        repaired += Self.messages(of: new, volume, directory)
    }

    private static func messages(
        of findings: [HeadFinding], _ volume: String, _ directory: String
    ) -> [Godwit_Control_V1_Finding] {
        findings.map { finding in
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
