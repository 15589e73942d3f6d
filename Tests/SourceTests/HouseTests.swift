import Foundation
import Testing

/// The rules of the house that a compiler does not know, read off the source text.
@Suite struct HouseTests {
    private static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// The imports of each file below Sources, by target.
    private static func imports() throws -> [(target: String, file: String, module: String)] {
        let sources = root.appendingPathComponent("Sources")
        var found: [(target: String, file: String, module: String)] = []
        for case let path as String in FileManager.default.enumerator(atPath: sources.path) ?? .init()
        where path.hasSuffix(".swift") {
            let text = try String(contentsOf: sources.appendingPathComponent(path), encoding: .utf8)
            let target = String(path.split(separator: "/")[0])
            for line in text.split(separator: "\n") {
                let words = line.split(separator: " ")
                guard let index = words.firstIndex(of: "import"), index <= 1, index + 1 < words.count else {
                    continue
                }
                found.append((target, path, String(words[index + 1])))
            }
        }
        return found
    }

    @Test func eachCLibraryHasOneDoor() throws {
        let doors = [
            "CSQLite": ["SQLite"], "CZstd": ["Compression"], "CFuse": ["FuseMount"], "CGRPC": ["RPC"],
            // System calls that Glibc's module lacks: storage, the mounts of the host, and the passing of descriptors.
            "CLinux": ["ByteStore", "Catalog", "HostMounts", "MountHolder"],
            "CHeap": ["godwit"],
        ]
        let imports = try Self.imports()
        #expect(imports.count > 100)
        for (module, targets) in doors {
            let importers = Set(imports.filter { $0.module == module }.map(\.target))
            #expect(importers == Set(targets), "\(module) is imported by \(importers.sorted())")
        }
    }

    @Test func onlyTheKubernetesClientTheMonitorAndTheGatewayKnowSwiftNIOAndYAML() throws {
        let doors = [
            "AsyncHTTPClient": ["KubernetesAPI"], "NIOSSL": ["KubernetesAPI"], "Yams": ["KubernetesAPI"],
            "NIOCore": ["Gateway", "KubernetesAPI", "Monitoring"], "NIOHTTP1": ["Monitoring"],
            "NIOPosix": ["Gateway", "Monitoring"], "NIOTLS": ["Gateway"],
        ]
        for (module, targets) in doors {
            let importers = Set(try Self.imports().filter { $0.module == module }.map(\.target))
            #expect(importers == Set(targets), "\(module) is imported by \(importers.sorted())")
        }
    }

    @Test func theModelAndTheHandoffArePure() throws {
        for target in ["VolumeModel", "Handoff"] {
            let modules = Set(try Self.imports().filter { $0.target == target }.map(\.module))
            #expect(modules.subtracting(["VolumeModel"]).isEmpty, "\(target) imports \(modules)")
        }
    }

    @Test func dependenciesPointDown() throws {
        // From the bottom up; a target imports only what stands before it.
        let floors = [
            ["Locks", "VolumeModel"], ["CHeap", "CLinux", "CSQLite", "CZstd", "CFuse", "CGRPC"],
            ["SQLite", "Compression", "RPC", "HostMounts", "Monitoring", "MountHolder"],
            ["Catalog", "ByteStore", "Handoff"], ["BlockHashes"],
            ["Hydration"],
            ["VolumeFileSystem"], ["FuseMount", "SiteIdentity"],
            ["CSIProtocol", "Gateway", "PeerProtocol", "ControlProtocol"], ["CSIService", "PeerService"],
            ["KubernetesAPI"], ["ClusterResources", "Site"], ["Cluster"], ["godwit", "kubectl-godwit"],
        ]
        var floor: [String: Int] = [:]
        for (index, targets) in floors.enumerated() {
            for target in targets { floor[target] = index }
        }
        for (target, file, module) in try Self.imports() {
            guard let from = floor[target], let to = floor[module] else { continue }
            #expect(to < from, "\(file) imports \(module), which stands beside or above it")
        }
    }

    @Test func theTopLevelHoldsWhatItShould() throws {
        let names = try FileManager.default.contentsOfDirectory(atPath: Self.root.path)
            .filter { !$0.hasPrefix(".") && $0 != "Package.resolved" }
        #expect(Set(names) == ["Package.swift", "Sources", "Tests", "Protos", "Manifests", "README.md"])
    }
}
