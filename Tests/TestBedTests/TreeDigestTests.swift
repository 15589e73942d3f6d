import Glibc
import Testing

@testable import TestBed

extension TestBedTests {
    @Suite struct TreeDigestTests {
        private func shell(_ script: String, in directory: String) async throws {
            var program = Program("sh", ["-ec", script])
            program.directory = directory
            try await ChildProcess.check(program)
        }

        private let sample = """
            mkdir -p tree/sub/empty && head -c 3000000 /dev/urandom > tree/large && printf abc > tree/sub/small
            : > tree/nothing && ln -s sub/small tree/link && mkfifo tree/fifo
            printf 'x' > "$(printf 'tree/\\377 name')"
            """

        @Test func aCopyHasTheSameDigestAndNoDifferences() async throws {
            try await withTemporaryDirectory { directory in
                try await shell(sample + "\ncp -a tree copy", in: directory)
                let tree = try await TreeDigest.of("\(directory)/tree")
                let copy = try await TreeDigest.of("\(directory)/copy", parallelism: 1)
                #expect(tree.value == copy.value)
                #expect(tree.differences(to: copy).isEmpty)
                #expect(tree.fileCount == 4)
                #expect(tree.byteCount == 3_000_004)
                #expect(tree.value.count == 64)
            }
        }

        @Test(arguments: [
            ("printf x | dd of=copy/large bs=1 seek=2999999 conv=notrunc 2>&1", "large: another content"),
            (
                "printf d >> copy/sub/small; touch -r tree/sub/small copy/sub/small",
                "sub/small: another size, content"
            ),
            ("chmod 4755 copy/nothing", "nothing: another mode"),
            ("rm copy/nothing", "nothing: missing"),
            ("mkdir copy/more", "more: added"),
            ("rm copy/link; ln -s sub/other copy/link", "link: another target"),
            ("rm copy/fifo; mkdir -m 644 copy/fifo", "fifo: another kind"),
            ("chmod 700 copy", ".: another mode"),
        ])
        func oneChangeIsOneDifference(_ change: String, _ expected: String) async throws {
            try await withTemporaryDirectory { directory in
                try await shell(
                    "umask 022\n" + sample
                        // A known last byte, so that the first change is one.
                        + "\nprintf y | dd of=tree/large bs=1 seek=2999999 conv=notrunc 2>&1; cp -a tree copy\n"
                        + change, in: directory)
                let tree = try await TreeDigest.of("\(directory)/tree")
                let copy = try await TreeDigest.of("\(directory)/copy")
                #expect(tree.value != copy.value)
                #expect(tree.differences(to: copy).map(\.description) == [expected])
            }
        }

        @Test(.enabled(if: isRoot)) func ownersAndDevicesCount() async throws {
            try await withTemporaryDirectory { directory in
                try await shell(
                    "mkdir one two; for d in one two; do : > $d/f; : > $d/g; done; chown 7 two/f; chgrp 8 two/g; "
                        + "mknod one/null c 1 3; mknod two/null c 1 5", in: directory)
                let one = try await TreeDigest.of("\(directory)/one")
                let two = try await TreeDigest.of("\(directory)/two")
                #expect(
                    one.differences(to: two).map(\.description)
                        == ["f: another user", "g: another group", "null: another device"])
            }
        }

        @Test func timesCountOnlyWhenAskedFor() async throws {
            try await withTemporaryDirectory { directory in
                try await shell(
                    "mkdir one; : > one/f; cp -a one two; touch -d 2001-01-01 two/f", in: directory)
                let plain = (
                    try await TreeDigest.of("\(directory)/one"), try await TreeDigest.of("\(directory)/two")
                )
                #expect(plain.0.value == plain.1.value)
                let timed = (
                    try await TreeDigest.of("\(directory)/one", withTimes: true),
                    try await TreeDigest.of("\(directory)/two", withTimes: true)
                )
                #expect(timed.0.differences(to: timed.1).map(\.description) == ["f: another time"])
            }
        }

        @Test func partsCanBeLeftOut() async throws {
            try await withTemporaryDirectory { directory in
                try await shell(
                    "mkdir -p one/skip/deep one/skipped two; : > one/skip/deep/f; mkdir two/skipped",
                    in: directory)
                let one = try await TreeDigest.of("\(directory)/one", leavingOut: ["skip"])
                let two = try await TreeDigest.of("\(directory)/two")
                #expect(one.value == two.value)
            }
        }

        @Test func whatCannotBeReadIsAnError() async throws {
            await #expect(throws: LabError.systemCall("open", detail: "/no/such/tree", errno: ENOENT)) {
                try await TreeDigest.of("/no/such/tree")
            }
        }
    }

    @Suite(.enabled(if: isRoot, "network namespaces need root")) struct FullCopyTests {
        @Test(arguments: [false, true])
        func theCopyIsTheTreeAndTheLinkCountedIt(_ compressed: Bool) async throws {
            try await withTemporaryDirectory { directory in
                let script = """
                    mkdir -p tree/sub && head -c 2000000 /dev/urandom > tree/random
                    head -c 2000000 /dev/zero > tree/zeros
                    ln -s random tree/link && : > tree/sub/empty && chown 1234:2345 tree/sub/empty
                    chmod 640 tree/sub/empty
                    """
                var program = Program("sh", ["-ec", script])
                program.directory = directory
                try await ChildProcess.check(program)
                try await withLink(LinkSettings(LineSettings(delay: .milliseconds(1)))) { link in
                    var copy = FullCopy(over: link, .bToA)
                    copy.compressed = compressed
                    let result = try await copy.run(from: "\(directory)/tree", to: "\(directory)/copy")
                    // 4 MB at 100 Mbit/s; half of it is zeros.
                    #expect(result.duration > .milliseconds(compressed ? 100 : 300))
                    #expect(
                        (compressed ? 2_000_000...2_600_000 : 4_000_000...5_000_000).contains(
                            result.linkByteCount))
                    #expect(link.counters.bToA.delivered.bytes > link.counters.aToB.delivered.bytes)
                }
                let tree = try await TreeDigest.of("\(directory)/tree", withTimes: true)
                let copy = try await TreeDigest.of("\(directory)/copy", withTimes: true)
                #expect(tree.differences(to: copy).isEmpty)
            }
        }

        @Test func aMissingSourceIsAnError() async throws {
            try await withTemporaryDirectory { directory in
                try await withLink { link in
                    await #expect(throws: LabError.self) {
                        try await FullCopy(over: link).run(from: "\(directory)/none", to: "\(directory)/copy")
                    }
                    await #expect(throws: LabError.self) {
                        try await FullCopy(over: link).run(from: "relative", to: "\(directory)/copy")
                    }
                }
            }
        }
    }
}
