internal import ArgumentParser
internal import ControlProtocol
internal import Foundation
internal import RPC
internal import Site

extension VolumeCommand {
    struct Check: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Verify what is stored of a volume, and repair what can be repaired.",
            discussion: """
                Works while the site runs (the volume stays in use) and while it does not. Only what can be put right \
                without losing anything is repaired, and but for damaged bytes only while the site does not run; \
                everything else is named.

                With --scrub all bytes are read from the disk. Those of files that nobody has written to since the last \
                scrub (a running site scrubs by itself, slowly) must be what they were: others are the disk's doing, \
                and the files are named. What a disk has damaged stays named, and cannot be read, until it is written \
                anew or --accept-damage says that it is good as it is (zeros, where a file's end is gone); or until it is \
                restored, byte by byte as it was, from another copy of the volume: at another site or node that may \
                know of it (only while this one runs), or in an older state here. A running site looks for one by \
                itself, --repair does so now.

                Where the registry is in a cluster, and the site does not run, every head that is here is looked at and \
                repaired all the same, and volumes are called by their identifiers; it cannot be told then whether heads \
                are missing, or left over.

                A 'weakness' is nothing wrong: a catalog that an earlier release has made has no sums, by which damage is \
                noticed. --repair gives it sums; that release does not read it any more then.

                Exit codes: 0 nothing is wrong, 1 everything found was repaired, 4 something is left.
                Example: godwit volume check data --scrub
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier. Default: all volumes of the site.")
        var volume: String?
        @Flag(help: "Repair what can be without losing anything. While the site runs: only damaged bytes.")
        var repair = false
        @Flag(help: "Read all bytes, and hold them against what they were.") var scrub = false
        @Flag(help: "Take the files that a scrub found damaged for good as they are now.")
        var acceptDamage = false
        @Flag(help: "Print JSON, an array.") var json = false

        func run() async throws {
            try await reporting {
                if let reply = try await askSite() {
                    try report(reply, repaired: reply.repaired, isServed: true)
                } else {
                    let outcome = try await VolumeCheck.run(
                        site.stateDirectory, called: volume, repairs: repair, scrubs: scrub,
                        accepts: acceptDamage)
                    if !outcome.isRegistryCompared {
                        let note =
                            "the registry was not compared: it is in a cluster, and not in this directory\n"
                        FileHandle.standardError.write(Data(note.utf8))
                    }
                    let rest = Set(outcome.left.findings)
                    var reply = outcome.found
                    reply.findings = outcome.left.findings
                    let repaired = outcome.found.findings.filter { !rest.contains($0) }
                    try report(reply, repaired: repaired, isServed: false)
                }
            }
        }

        /// The kind of a finding that nothing is wrong with.
        private static let weakness = "weakness"

        /// - Returns: nil when no site runs.
        private func askSite() async throws -> Godwit_Control_V1_CheckReply? {
            let client = try ControlClient(site)
            do {
                var names = volume.map { [$0] }
                if names == nil {
                    let all: Godwit_Control_V1_ListVolumesReply = try await client.call(
                        "ListVolumes", Godwit_Control_V1_ListVolumesRequest())
                    names = all.volumes.map(\.id)
                }
                var sum = Godwit_Control_V1_CheckReply()
                for name in names ?? [] {
                    var request = Godwit_Control_V1_CheckRequest()
                    request.volume = name
                    request.scrub = scrub
                    request.acceptDamage = acceptDamage
                    request.repair = repair
                    let reply: Godwit_Control_V1_CheckReply = try await client.call(
                        "CheckVolume", request, timeout: nil)
                    sum.findings += reply.findings
                    sum.repaired += reply.repaired
                    sum.verifiedByteCount += reply.verifiedByteCount
                    sum.hashedByteCount += reply.hashedByteCount
                    sum.busyFileCount += reply.busyFileCount
                }
                return sum
            } catch let error as RPCStatus where error.code == .unavailable {
                return nil
            }
        }

        private static func text(of reply: Godwit_Control_V1_CheckReply) -> String {
            let busy =
                reply.busyFileCount == 0
                ? "" : ", \(reply.busyFileCount) files were being written to: their bytes were not looked at"
            return "\(Text.size(reply.verifiedByteCount)) are as they were, "
                + "\(Text.size(reply.hashedByteCount)) are known from now on\(busy)"
        }

        private func report(
            _ reply: Godwit_Control_V1_CheckReply, repaired: [Godwit_Control_V1_Finding], isServed: Bool
        ) throws {
            let left = reply.findings
            let hint = "repairable with --repair" + (isServed ? " once 'godwit site' is stopped" : "")
            let lines =
                repaired.map { ($0, "repaired") }
                + left.map { ($0, $0.repairable ? hint : "") }
            if json {
                let objects = lines.map { finding, state -> String in
                    var object = JSONObject()
                    object.add("volume", finding.volume)
                    object.add("head", finding.head)
                    object.add("kind", finding.kind)
                    object.add("text", finding.text)
                    object.add("repairable", finding.repairable)
                    object.add("repaired", state == "repaired")
                    return object.text
                }
                print("[" + objects.joined(separator: ",\n ") + "]")
            } else if lines.isEmpty {
                print("nothing is wrong")
            }
            if !json {
                for (finding, state) in lines {
                    print(
                        "\(finding.volume): \(finding.kind): \(finding.text)"
                            + (state.isEmpty ? "" : " (\(state))"))
                }
            }
            if scrub, !json { print(Self.text(of: reply)) }
            if left.contains(where: { $0.kind != Self.weakness }) { throw ExitCode(4) }
            if !repaired.isEmpty { throw ExitCode(1) }
        }
    }
}
