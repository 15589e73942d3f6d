// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]

/// What has parsers of what comes from outside.
let parsers: [Target.Dependency] = [
    "BlockHashes", "ByteStore", "CFuse", "CSIProtocol", "CSIService", "Catalog", "Cluster",
    "ClusterResources",
    "Compression", "ControlProtocol", "EngineTestSupport", "FuseMount", "Gateway", "Handoff", "HostMounts",
    "Hydration", "KubernetesAPI", "Monitoring", "MountHolder", "PeerProtocol", "PeerService", "RPC", "SQLite",
    "Site", "SiteIdentity", "VolumeFileSystem", "VolumeModel",
    .product(name: "Logging", package: "swift-log"),
    .product(name: "NIOCore", package: "swift-nio"),
    .product(name: "NIOEmbedded", package: "swift-nio"),
    .product(name: "NIOHTTP1", package: "swift-nio"),
    .product(name: "NIOTLS", package: "swift-nio"),
    .product(name: "SwiftProtobuf", package: "swift-protobuf"),
    .product(name: "X509", package: "swift-certificates"),
]

let package = Package(
    name: "godwit",
    dependencies: [
        // Commands, options and help pages as users of Swift tools know them.
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        // The messages of CSI and of our own services; gRPC itself moves only bytes.
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
        // SHA-256 at the speed of the processor's own instructions.
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        // Certificates of sites, so that nobody has to call openssl.
        .package(url: "https://github.com/apple/swift-certificates", from: "1.21.1"),
        // The certificates' own notation, for what swift-certificates leaves to its user.
        .package(url: "https://github.com/apple/swift-asn1", from: "1.7.4"),
        // HTTP/1.1 and 2 with connection pools, timeouts and verified TLS, by the makers of SwiftNIO; what else would
        // serve, URLSession on Linux, streams no watch and takes no client certificate.
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        // kubeconfig files are YAML.
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        // One interface for log lines, with levels and metadata.
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        .target(name: "VolumeModel", swiftSettings: strict),
        .target(name: "Locks", swiftSettings: strict),
        .systemLibrary(name: "CSQLite"),
        .systemLibrary(name: "CZstd"),
        .target(name: "CLinux"),
        .systemLibrary(name: "CHeap"),
        .target(name: "SQLite", dependencies: ["CSQLite"], swiftSettings: strict),
        .target(name: "Compression", dependencies: ["CZstd"], swiftSettings: strict),
        .target(
            name: "Catalog", dependencies: ["CLinux", "Locks", "SQLite", "VolumeModel"], swiftSettings: strict
        ),
        .target(name: "ByteStore", dependencies: ["CLinux", "Locks", "VolumeModel"], swiftSettings: strict),
        .target(
            name: "BlockHashes",
            dependencies: [
                "ByteStore", "SQLite", "VolumeModel", .product(name: "Crypto", package: "swift-crypto"),
            ], swiftSettings: strict),
        .target(
            name: "Hydration", dependencies: ["BlockHashes", "ByteStore", "Catalog", "Locks", "VolumeModel"],
            swiftSettings: strict),
        .target(
            name: "VolumeFileSystem",
            dependencies: ["ByteStore", "Catalog", "Hydration", "Locks", "VolumeModel"],
            exclude: ["Semantics.md"], swiftSettings: strict),
        .systemLibrary(name: "CFuse"),
        .target(
            name: "FuseMount",
            dependencies: ["CFuse", "Catalog", "HostMounts", "Locks", "VolumeFileSystem", "VolumeModel"],
            swiftSettings: strict),
        .target(
            name: "CGRPC",
            linkerSettings: [
                // grpcpp's headers inline Abseil's Mutex; the certificate check uses OpenSSL itself.
                .linkedLibrary("grpc++"), .linkedLibrary("grpc"), .linkedLibrary("gpr"),
                .linkedLibrary("absl_synchronization"), .linkedLibrary("ssl"), .linkedLibrary("crypto"),
            ]),
        .target(name: "RPC", dependencies: ["CGRPC"], swiftSettings: strict),
        .target(name: "Handoff", dependencies: ["VolumeModel"], swiftSettings: strict),
        .target(
            name: "SiteIdentity",
            dependencies: [
                "VolumeModel", .product(name: "X509", package: "swift-certificates"),
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "SwiftASN1", package: "swift-asn1"),
            ], swiftSettings: strict),
        .target(
            name: "PeerProtocol", dependencies: [.product(name: "SwiftProtobuf", package: "swift-protobuf")]),
        .target(
            name: "ControlProtocol",
            dependencies: [.product(name: "SwiftProtobuf", package: "swift-protobuf")]),
        .target(
            name: "PeerService",
            dependencies: [
                "ByteStore", "Catalog", "Compression", "Hydration", "PeerProtocol", "RPC", "VolumeModel",
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ], swiftSettings: strict),
        .target(
            name: "CSIProtocol", dependencies: [.product(name: "SwiftProtobuf", package: "swift-protobuf")]),
        // HTTP for probes and scrapes, by the makers of the HTTP client.
        .target(
            name: "Monitoring",
            dependencies: [
                "VolumeModel",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ], exclude: ["Metrics.md"], swiftSettings: strict),
        // One address for all nodes of a site: reads the name in a TLS ClientHello (NIOTLS) and passes bytes on.
        .target(
            name: "Gateway",
            dependencies: [
                "SiteIdentity", "VolumeModel",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOTLS", package: "swift-nio"),
            ], swiftSettings: strict),
        .target(name: "HostMounts", dependencies: ["CLinux"], swiftSettings: strict),
        .target(name: "MountHolder", dependencies: ["CLinux"], swiftSettings: strict),
        .target(
            name: "CSIService",
            dependencies: [
                "CSIProtocol", "HostMounts", "RPC", "VolumeModel",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ], exclude: ["CSI.md"], swiftSettings: strict),
        .target(
            name: "Site",
            dependencies: [
                "CSIProtocol", "CSIService", "Catalog", "ControlProtocol", "FuseMount", "Handoff",
                "HostMounts", "Hydration", "Monitoring", "MountHolder", "PeerProtocol",
                "PeerService", "RPC", "SQLite", "SiteIdentity", "VolumeFileSystem", "VolumeModel",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ], exclude: ["HowItWorks.md", "Promises.md"], swiftSettings: strict),
        .target(
            name: "KubernetesAPI",
            dependencies: [
                .product(name: "AsyncHTTPClient", package: "async-http-client"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"), "Yams",
            ], swiftSettings: strict),
        .target(
            name: "ClusterResources", dependencies: ["KubernetesAPI", "VolumeModel"], swiftSettings: strict),
        .target(
            name: "Cluster",
            dependencies: [
                "ClusterResources",
                "ControlProtocol", "Handoff", "Hydration", "KubernetesAPI", "RPC", "Site", "VolumeModel",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ], exclude: ["Claims.md"], swiftSettings: strict),
        .executableTarget(
            name: "godwit",
            dependencies: [
                "CHeap", "CSIProtocol", "CSIService", "Catalog", "Cluster", "ClusterResources",
                "ControlProtocol",
                "Gateway", "Hydration",
                "KubernetesAPI",
                "Monitoring", "MountHolder", "RPC",
                "Site", "SiteIdentity",
                "VolumeModel",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ], swiftSettings: strict),
        // For whoever uses a cluster: needs nothing of what a site needs.
        .executableTarget(
            name: "kubectl-godwit",
            dependencies: [
                "ClusterResources", "KubernetesAPI", "SiteIdentity", "VolumeModel",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], exclude: ["Commands.md"], swiftSettings: strict),
        // The project's own test tools: an emulated WAN link, databases, sites as processes.
        .target(name: "CTestBed", path: "Tests/CTestBed"),
        .target(
            name: "TestBed", dependencies: ["CTestBed", .product(name: "Crypto", package: "swift-crypto")],
            path: "Tests/TestBed", swiftSettings: strict),
        .executableTarget(
            name: "godwit-lab",
            dependencies: [
                "TestBed", "ClusterResources", "KubernetesAPI",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Tests/Lab", exclude: ["Figures.md"], swiftSettings: strict),
        .testTarget(
            name: "TestBedTests", dependencies: ["TestBed", "godwit-lab"], path: "Tests/TestBedTests",
            swiftSettings: strict),
        .testTarget(
            name: "SiteIdentityTests",
            dependencies: [
                "SiteIdentity", "VolumeModel", .product(name: "X509", package: "swift-certificates"),
                .product(name: "Crypto", package: "swift-crypto"),
                .product(name: "SwiftASN1", package: "swift-asn1"),
            ], swiftSettings: strict),
        .testTarget(
            name: "MonitoringTests",
            dependencies: ["Monitoring", "VolumeModel", .product(name: "Logging", package: "swift-log")],
            swiftSettings: strict),
        .testTarget(
            name: "GatewayTests",
            dependencies: [
                "Gateway", "RPC", "SiteIdentity", "VolumeModel",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: strict),
        .testTarget(name: "SourceTests", swiftSettings: strict),
        .testTarget(
            name: "CSIServiceTests",
            dependencies: [
                "CSIProtocol", "CSIService", "HostMounts", "Monitoring", "RPC", "VolumeModel",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ], swiftSettings: strict),
        .target(
            name: "EngineTestSupport",
            dependencies: ["Catalog", "Hydration", "VolumeFileSystem", "VolumeModel"],
            path: "Tests/EngineTestSupport", swiftSettings: strict),
        .testTarget(
            name: "CatalogTests", dependencies: ["Catalog", "EngineTestSupport", "SQLite", "VolumeModel"],
            swiftSettings: strict),
        .testTarget(
            name: "ByteStoreTests", dependencies: ["ByteStore", "EngineTestSupport", "VolumeModel"],
            swiftSettings: strict),
        .testTarget(
            name: "HydrationTests",
            dependencies: [
                "BlockHashes", "ByteStore", "Catalog", "EngineTestSupport", "Hydration", "PeerService", "RPC",
                "SQLite", "VolumeFileSystem", "VolumeModel",
            ],
            swiftSettings: strict),
        .testTarget(
            name: "VolumeFileSystemTests",
            dependencies: ["Catalog", "EngineTestSupport", "Hydration", "VolumeFileSystem", "VolumeModel"],
            swiftSettings: strict),
        .testTarget(name: "VolumeModelTests", dependencies: ["Locks", "VolumeModel"], swiftSettings: strict),
        .testTarget(
            name: "HandoffTests", dependencies: ["Handoff", "TestBed", "VolumeModel"],
            // For spin, which a test runs.
            exclude: ["Handoff.pml", "Reading.pml"], swiftSettings: strict),
        .target(
            name: "SiteTestSupport", dependencies: ["Site", "VolumeModel"], path: "Tests/SiteTestSupport",
            swiftSettings: strict),
        .testTarget(
            name: "SiteTests",
            dependencies: [
                "ByteStore", "CSIProtocol", "MountHolder", "PeerProtocol", "PeerService", "RPC", "Site",
                "SiteIdentity", "SiteTestSupport", "TestBed", "VolumeModel", "godwit",
                .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ],
            path: "Tests/SiteTests",
            // Compiled by the tests that use it.
            exclude: ["clock.c", "restless.c"], swiftSettings: strict),
        .testTarget(
            name: "ClusterTests",
            dependencies: [
                "Cluster", "ClusterResources", "Handoff", "Hydration", "KubernetesAPI", "Site",
                "SiteIdentity", "SiteTestSupport", "TestBed", "VolumeModel", "godwit", "kubectl-godwit",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
            ],
            // Run by the tests that use it.
            exclude: ["node"], swiftSettings: strict),
        .testTarget(
            name: "DurabilityTests",
            dependencies: [
                "BlockHashes", "ByteStore", "CTestBed", "Catalog", "EngineTestSupport", "FuseMount",
                "Handoff",
                "Hydration", "PeerService", "SQLite", "Site", "TestBed", "VolumeFileSystem", "VolumeModel",
                "godwit",
            ],
            // Compiled by the tests that use it.
            exclude: ["faults.c", "recorder.c"], swiftSettings: strict),
        .testTarget(
            name: "MountHolderTests", dependencies: ["MountHolder", "TestBed", "godwit"],
            swiftSettings: strict),
        .testTarget(name: "RPCTests", dependencies: ["RPC"], swiftSettings: strict),
        .testTarget(
            name: "FuzzTests", dependencies: parsers,
            // For libFuzzer: see below.
            exclude: ["Driver"], swiftSettings: strict),
        .testTarget(
            name: "FuseMountTests",
            dependencies: [
                "BlockHashes", "CTestBed", "Catalog", "EngineTestSupport", "FuseMount", "Hydration",
                "TestBed",
                "VolumeFileSystem", "VolumeModel",
            ],
            // Compiled by the tests that use it.
            exclude: ["probe.c", "replay.c"], swiftSettings: strict),
    ],
    swiftLanguageModes: [.v6],
    cxxLanguageStandard: .cxx17
)

// For Tests/fuzz/run: in place of the tests a program of their targets, and modules that tell libFuzzer where they have been. Not
// all: it looks at all of them after each input.
if Context.environment["GODWIT_FUZZ_TARGETS"] != nil {
    let watched = [
        "BlockHashes", "CSIProtocol", "CSIService", "Catalog", "ClusterResources", "Compression",
        "ControlProtocol", "FuseMount", "Gateway", "Handoff", "HostMounts", "Hydration", "KubernetesAPI",
        "Monitoring", "MountHolder", "PeerProtocol", "PeerService", "RPC", "SiteIdentity", "VolumeFileSystem",
        "VolumeModel",
    ]
    package.targets.removeAll { $0.type == .test }
    for target in package.targets where watched.contains(target.name) {
        target.swiftSettings = (target.swiftSettings ?? []) + [.unsafeFlags(["-sanitize=fuzzer"])]
    }
    package.targets.append(
        .executableTarget(
            name: "godwit-fuzz", dependencies: parsers, path: "Tests/FuzzTests",
            sources: ["Driver", "Targets", "FuseRequestMaker.swift", "FuseWire.swift", "Mutator.swift"],
            swiftSettings: strict))
}
