import Foundation
import Testing

@testable import HostMounts

@Suite struct HostMountsTests {
    @Test func theMountTableIsReadWithItsEscapes() {
        let entries = MountTable.parse(
            """
            36 35 98:0 / /mnt/with\\040space\\134 rw,noatime master:1 - fuse.godwit godwit:london/x rw,errors=continue
            37 35 0:5 / /ro ro - tmpfs none rw
            rubbish
            """)
        #expect(
            entries == [
                MountEntry(
                    path: "/mnt/with space\\", type: "fuse.godwit", source: "godwit:london/x",
                    isReadOnly: false, device: "98:0"),
                MountEntry(path: "/ro", type: "tmpfs", source: "none", isReadOnly: true, device: "0:5"),
            ])
    }

    @Test(.enabled(if: geteuid() == 0, "mounting needs root"))
    func aBindMountIsMadeAndTakenAway() throws {
        try withDirectory { directory in
            let source = directory + "/source"
            let target = directory + "/target"
            try FileManager.default.createDirectory(atPath: source, withIntermediateDirectories: true)
            try Data("x".utf8).write(to: URL(fileURLWithPath: source + "/f"))
            try BindMount.make(from: source, at: target, flags: [.readOnly])
            #expect(try MountTable.entry(at: target)?.isReadOnly == true)
            #expect(throws: (any Error).self) { try Data().write(to: URL(fileURLWithPath: target + "/g")) }
            for _ in 0..<2 { try BindMount.remove(target) }
            #expect(!FileManager.default.fileExists(atPath: target))
            #expect(FileManager.default.fileExists(atPath: source + "/f"))
        }
    }

    @Test func aSymbolicLinkInPlaceOfATargetIsRefused() throws {
        try withDirectory { directory in
            let elsewhere = directory + "/elsewhere"
            try FileManager.default.createDirectory(atPath: elsewhere, withIntermediateDirectories: true)
            try FileManager.default.createSymbolicLink(
                atPath: directory + "/target", withDestinationPath: elsewhere)
            #expect(throws: HostMountError.self) {
                try BindMount.make(from: directory, at: directory + "/target", flags: [])
            }
            #expect(try MountTable.entry(at: elsewhere) == nil)
        }
    }

    @Test func whatIsNotEmptyIsNeverDeleted() throws {
        try withDirectory { directory in
            try FileManager.default.createDirectory(
                atPath: directory + "/target", withIntermediateDirectories: true)
            try Data("x".utf8).write(to: URL(fileURLWithPath: directory + "/target/precious"))
            #expect(throws: HostMountError.self) { try BindMount.remove(directory + "/target") }
            #expect(FileManager.default.fileExists(atPath: directory + "/target/precious"))
        }
    }

    private func withDirectory(_ body: (String) throws -> Void) throws {
        let directory = NSTemporaryDirectory() + "godwit-mounts-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer {
            try? BindMount.remove(directory + "/target")
            try? FileManager.default.removeItem(atPath: directory)
        }
        try body(directory)
    }
}
