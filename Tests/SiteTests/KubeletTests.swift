import CSIProtocol
import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// A site that makes itself known to kubelet and answers probes, without any sidecar.
    @Suite struct KubeletTests {
        static let name = "csi.godwit.dev-reg.sock"

        /// A site alone, with a kubelet of its own, and the port of its probes.
        private struct Scene: Sendable {
            let kubelet: FakeKubelet
            let site: SiteProcess

            func get(_ path: String) async throws -> (status: String, body: String) {
                let text = try String(contentsOfFile: site.logPath, encoding: .utf8)
                let line = text.components(separatedBy: "probes are answered at port ").last ?? ""
                let port = line.prefix { $0.isNumber }
                let outcome = try await ChildProcess.run(
                    Program(
                        "/usr/bin/curl",
                        ["-s", "-m", "30", "-w", "\n%{http_code}", "http://127.0.0.1:\(port)\(path)"]))
                let lines = outcome.output.split(separator: "\n")
                return (String(lines.last ?? ""), lines.dropLast().joined(separator: "\n"))
            }

            func wait(_ path: String, for status: String) async throws {
                let deadline = ContinuousClock.now + .seconds(60)
                while try await get(path).status != status {
                    guard ContinuousClock.now < deadline else {
                        throw LabError.tooSlow("\(status) at \(path)", limit: .seconds(60))
                    }
                    try await Task.sleep(for: .milliseconds(50))
                }
            }
        }

        private func withScene(_ body: @escaping @Sendable (Scene) async throws -> Void) async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                let kubelet = try FakeKubelet(directory: directory + "/kubelet")
                let site = SiteProcess(
                    name: "london", binary: godwitBinary, stateDirectory: directory + "/state",
                    address: "127.0.0.1:\(try freePort())",
                    options: ["--monitor-listen", "127.0.0.1:0"], kubeletDirectory: kubelet.directory)
                try await site.initialise()
                try cleanup.add("site london", limit: .seconds(40)) { await site.stop() }
                try await site.start()
                do {
                    try await body(Scene(kubelet: kubelet, site: site))
                } catch {
                    let log = (try? String(contentsOfFile: site.logPath, encoding: .utf8)) ?? ""
                    Issue.record("log: \(log.suffix(3000))")
                    throw error
                }
            }
        }

        @Test func kubeletFindsTheDriverRegistersItAndForgetsItAtTheEnd() async throws {
            try await withScene { scene in
                let kubelet = scene.kubelet
                #expect(try await kubelet.next() == .appeared(Self.name))
                #expect(try await scene.get("/healthz").status == "200")
                let early = try await scene.get("/readyz")
                #expect(early.status == "503" && early.body.contains("kubelet has not asked"), "\(early)")
                let info = try await kubelet.info(Self.name)
                #expect(info.type == "CSIPlugin" && info.name == "csi.godwit.dev")
                #expect(info.supportedVersions == ["1.0.0"])
                #expect(info.endpoint == kubelet.directory + "/plugins/csi.godwit.dev/csi.sock")
                #expect(try await kubelet.nodeInfo(info.endpoint).nodeID == "london-node")
                try await kubelet.tell(Self.name, error: nil)
                try await scene.wait("/readyz", for: "200")
                #expect(try await scene.get("/nothing").status == "404")

                // Killed and started again, the socket is made anew.
                await scene.site.kill()
                try await scene.site.start()
                #expect(try await kubelet.next() == .appeared(Self.name))
                #expect(try await kubelet.info(Self.name).endpoint == info.endpoint)
                try await kubelet.tell(Self.name, error: nil)
                try await scene.wait("/readyz", for: "200")
                await scene.site.stop()
                #expect(try await kubelet.next() == .disappeared(Self.name))
                let left = try FileManager.default.contentsOfDirectory(atPath: kubelet.registry)
                #expect(left.isEmpty, "\(left)")
            }
        }

        @Test func whatKubeletRefusesOrSomebodyRemovesIsOfferedAgain() async throws {
            try await withScene { scene in
                let kubelet = scene.kubelet
                #expect(try await kubelet.next() == .appeared(Self.name))
                try await kubelet.tell(Self.name, error: "the node is not known yet")
                try await scene.wait("/readyz", for: "503")
                #expect(try await kubelet.next() == .disappeared(Self.name))
                #expect(try await kubelet.next() == .appeared(Self.name))
                try await kubelet.tell(Self.name, error: nil)
                try await scene.wait("/readyz", for: "200")
                let log = try String(contentsOfFile: scene.site.logPath, encoding: .utf8)
                #expect(log.contains("the node is not known yet"), "\(log)")

                try FileManager.default.removeItem(atPath: kubelet.registry + "/" + Self.name)
                #expect(try await kubelet.next() == .disappeared(Self.name))
                #expect(try await kubelet.next() == .appeared(Self.name))
                #expect(try await kubelet.info(Self.name).name == "csi.godwit.dev")
            }
        }

        /// Go's gRPC, as kubelet uses it, names the socket's path as the authority, which other servers refuse.
        @Test func aCallWhoseAuthorityIsThePathIsAnswered() async throws {
            try await withScene { scene in
                #expect(try await scene.kubelet.next() == .appeared(Self.name))
                let socket = scene.kubelet.registry + "/" + Self.name
                var program = Program(
                    "/bin/bash",
                    [
                        "-ec",
                        #"""
                        printf '\0\0\0\0\0' | curl -sv -m 30 --http2-prior-knowledge --unix-socket "$1" -H "Host: $1" \
                            -H 'Content-Type: application/grpc' -H 'TE: trailers' -X POST --data-binary @- \
                            http://localhost/pluginregistration.Registration/GetInfo | tr -c '[:print:]' '\n'
                        """#, "bash", socket,
                    ])
                program.input = []
                let outcome = try await ChildProcess.run(program, limit: .seconds(60))
                #expect(outcome.output.contains("CSIPlugin"), "\(outcome.exit): \(outcome.output)")
                #expect(outcome.output.contains(":authority: \(socket)"), "\(outcome.output)")
            }
        }
    }
}
