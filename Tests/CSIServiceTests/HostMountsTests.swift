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

    /// To a String some of these are other characters, or none of their own; to the kernel they are slashes and line ends.
    @Test func pathsAndTablesAreReadByteByByte() throws {
        let next = "\n2 1 8:1 / /a ro - ext4 /dev/vda rw\n"
        for end in ["\r", " \u{301}", "\u{200d}"] {
            let table = MountTable.parse("1 1 0:5 / /x rw shared:1 - tmpfs a\(end)" + next)
            #expect(table.map(\.path) == ["/x", "/a"], "\(end.debugDescription)")
        }
        #expect(MountTable.parse("1 1 0:5 / /\\+12\\040 rw - tmpfs a rw").map(\.path) == ["/\\+12 "])
        try withDirectory { directory in
            let path = directory + "/\u{301}b"
            try BindMount.makeDirectory(path)
            #expect(try FileManager.default.contentsOfDirectory(atPath: directory) == ["\u{301}b"])
            // The directory is what is resolved, not the one above.
            symlink(directory, directory + "/link")
            #expect(HostPaths(root: nil).real(directory + "/link/\u{301}b").utf8.elementsEqual(path.utf8))
        }
    }

    @Test(.enabled(if: geteuid() == 0, "mounting needs root"))
    func aBindMountIsMadeAndTakenAway() throws {
        try withDirectory { directory in
            let source = directory + "/source"
            let target = directory + "/target"
            try FileManager.default.createDirectory(atPath: source, withIntermediateDirectories: true)
            try Data("x".utf8).write(to: URL(fileURLWithPath: source + "/f"))
            let device = try Place(source).device()
            try BindMount.make(
                from: source, at: target, flags: [.readOnly, .noExecution, .noAccessTimes], device: device)
            #expect(try MountTable.entry(at: target)?.isReadOnly == true)
            let table = try String(contentsOfFile: "/proc/self/mountinfo", encoding: .utf8)
            let line = try #require(table.split(separator: "\n").first { $0.contains(" \(target) ") })
            #expect(
                line.contains("noexec") && line.contains("noatime") && !line.contains("nosuid"), "\(line)")
            #expect(throws: (any Error).self) { try Data().write(to: URL(fileURLWithPath: target + "/g")) }
            for _ in 0..<2 { try BindMount.remove(target) }
            #expect(!FileManager.default.fileExists(atPath: target))
            #expect(FileManager.default.fileExists(atPath: source + "/f"))
        }
    }

    @Test(.enabled(if: geteuid() == 0, "mounting needs root"))
    func whatIsNotTheExpectedDeviceIsShownNowhere() throws {
        try withDirectory { directory in
            let source = directory + "/source"
            let target = directory + "/target"
            try FileManager.default.createDirectory(atPath: source, withIntermediateDirectories: true)
            let error = try #require(throws: HostMountError.self) {
                try BindMount.make(from: source, at: target, flags: [], device: "0:99999")
            }
            #expect(error.number == ESTALE)
            #expect(try MountTable.entry(at: target) == nil)
        }
    }

    /// Where nothing is mounted nobody writes who is not root.
    @Test func aDirectoryToMountOnHasNoRights() throws {
        try withDirectory { directory in
            let target = directory + "/target"
            func mode() throws -> Int? {
                try FileManager.default.attributesOfItem(atPath: target)[.posixPermissions] as? Int
            }
            for _ in 0..<2 {
                try BindMount.makeDirectory(target)
                #expect(try mode() == 0)
            }
            // Made by whoever asks; and one that somebody uses, which is left as it is.
            try FileManager.default.setAttributes([.posixPermissions: 0o750], ofItemAtPath: target)
            try BindMount.makeDirectory(target)
            #expect(try mode() == 0)
            try FileManager.default.setAttributes([.posixPermissions: 0o750], ofItemAtPath: target)
            try Data().write(to: URL(fileURLWithPath: target + "/f"))
            try BindMount.makeDirectory(target)
            #expect(try mode() == 0o750)
            try FileManager.default.removeItem(atPath: target + "/f")
        }
    }

    @Test(arguments: ["target", "parent/target", "parent/below/target"])
    func aSymbolicLinkOnTheWayToATargetIsRefused(target: String) throws {
        try withDirectory { directory in
            let elsewhere = directory + "/elsewhere"
            try FileManager.default.createDirectory(
                atPath: elsewhere + "/below", withIntermediateDirectories: true)
            try FileManager.default.createSymbolicLink(
                atPath: directory + "/" + (target.split(separator: "/").first ?? ""),
                withDestinationPath: elsewhere)
            let device = try Place(directory).device()
            for call in [
                {
                    try BindMount.make(
                        from: directory, at: directory + "/" + target, flags: [], device: device)
                },
                { try BindMount.makeDirectory(directory + "/" + target) },
                { try BindMount.remove(directory + "/" + target) },
            ] { #expect(throws: HostMountError.self) { try call() } }
            #expect(try !MountTable.entries().contains { $0.path.hasPrefix(directory) })
            let left = try FileManager.default.subpathsOfDirectory(atPath: elsewhere)
            #expect(left == ["below"], "\(left)")
        }
    }

    @Test func linksLeadToKubeletsDirectoryAndNotBelowIt() throws {
        try withDirectory { directory in
            let files = FileManager.default
            try files.createDirectory(
                atPath: directory + "/disk/kubelet/pods", withIntermediateDirectories: true)
            try files.createSymbolicLink(
                atPath: directory + "/kubelet", withDestinationPath: directory + "/disk/kubelet")
            try files.createSymbolicLink(
                atPath: directory + "/disk/kubelet/link", withDestinationPath: directory + "/disk")
            let real = directory + "/disk/kubelet"
            let paths = HostPaths(root: directory + "/kubelet/")
            #expect(paths.real(directory + "/kubelet/pods/x/mount") == real + "/pods/x/mount")
            #expect(paths.real(directory + "/kubelet/link/x") == real + "/link/x")
            #expect(paths.real(real + "/link/x") == real + "/link/x")
            // Not of kubelet: a person's.
            #expect(HostPaths(root: nil).real(directory + "/kubelet/x") == real + "/x")
            #expect(HostPaths(root: nil).real(directory + "/nothing/x") == directory + "/nothing/x")
            #expect(HostPaths(root: "/nothing").real("/x") == "/x")
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
        let directory = HostPaths.resolved(NSTemporaryDirectory()) + "/godwit-mounts-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer {
            try? BindMount.remove(directory + "/target")
            try? FileManager.default.removeItem(atPath: directory)
        }
        try body(directory)
    }
}
