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
                Works while the site runs (nothing is changed then, and the volume stays in use) and while it does \
                not. Only what can be put right without losing anything is repaired, and only while the site does \
                not run; everything else is named.

                Exit codes: 0 nothing found, 1 everything found was repaired, 4 something is left.
                Example: godwit volume check data
                """)

        @OptionGroup var site: SiteOptions
        @Argument(help: "The volume's name or identifier. Default: all volumes of the site.")
        var volume: String?
        @Flag(help: "Repair what can be repaired without losing anything. The site must not run.")
        var repair = false
        @Flag(help: "Print JSON, an array.") var json = false

        func run() async throws {
            try await reporting {
                if let findings = try await askSite() {
                    if repair {
                        throw RPCStatus(
                            .failedPrecondition, "stop 'godwit site' first: a volume in use is not repaired")
                    }
                    try report(findings, repaired: [])
                } else {
                    let (found, left) = try await VolumeCheck.run(
                        site.stateDirectory, called: volume, repairs: repair)
                    let rest = Set(left.findings)
                    try report(left.findings, repaired: found.findings.filter { !rest.contains($0) })
                }
            }
        }

        /// - Returns: nil when no site runs.
        private func askSite() async throws -> [Godwit_Control_V1_Finding]? {
            let client = try ControlClient(site)
            do {
                var names = volume.map { [$0] }
                if names == nil {
                    let all: Godwit_Control_V1_ListVolumesReply = try await client.call(
                        "ListVolumes", Godwit_Control_V1_ListVolumesRequest())
                    names = all.volumes.map(\.id)
                }
                var findings: [Godwit_Control_V1_Finding] = []
                for name in names ?? [] {
                    var request = Godwit_Control_V1_VolumeRequest()
                    request.volume = name
                    let reply: Godwit_Control_V1_CheckReply = try await client.call(
                        "CheckVolume", request, timeout: nil)
                    findings += reply.findings
                }
                return findings
            } catch let error as RPCStatus where error.code == .unavailable {
                return nil
            }
        }

        private func report(
            _ left: [Godwit_Control_V1_Finding], repaired: [Godwit_Control_V1_Finding]
        ) throws {
            let lines =
                repaired.map { ($0, "repaired") }
                + left.map { ($0, $0.repairable ? "repairable with --repair" : "") }
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
            } else {
                for (finding, state) in lines {
                    print(
                        "\(finding.volume): \(finding.kind): \(finding.text)"
                            + (state.isEmpty ? "" : " (\(state))"))
                }
            }
            if !left.isEmpty { throw ExitCode(4) }
            if !repaired.isEmpty { throw ExitCode(1) }
        }
    }
}
