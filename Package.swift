// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]

let package = Package(
    name: "godwit",
    targets: [
        .target(name: "VolumeModel", swiftSettings: strict),
        .systemLibrary(name: "CSQLite"),
        .target(name: "CLinux"),
        .target(name: "SQLite", dependencies: ["CSQLite"], swiftSettings: strict),
        .target(name: "Catalog", dependencies: ["CLinux", "SQLite", "VolumeModel"], swiftSettings: strict),
        .target(name: "ByteStore", dependencies: ["CLinux", "VolumeModel"], swiftSettings: strict),
        .target(
            name: "Hydration", dependencies: ["ByteStore", "Catalog", "VolumeModel"], swiftSettings: strict),
        .target(
            name: "VolumeFileSystem", dependencies: ["ByteStore", "Catalog", "Hydration", "VolumeModel"],
            swiftSettings: strict),
    ],
    swiftLanguageModes: [.v6]
)
