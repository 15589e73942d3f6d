import EngineTestSupport
import Foundation
import Testing

/// The same operations on a mounted volume and in a directory on ext4 give the same answers.
///
/// `GODWIT_DIFFERENTIAL_SECONDS` says for how long random ones are tried (30), `GODWIT_DIFFERENTIAL_SEED` repeats one
/// run. A difference that was found and mended stays here as a test with its operations.
@Suite struct DifferentialTests {
    /// What each place answered, line by line.
    private func answers(to lines: [String]) async throws -> (volume: [Substring], ext4: [Substring]) {
        let ext4 = try await Ext4Directory()
        defer { ext4.remove() }
        var answers: (volume: [Substring], ext4: [Substring]) = ([], [])
        var volumes: [MountedVolume] = []
        func end() async {
            for volume in volumes.reversed() { await volume.end() }
        }
        do {
            for part in lines.split(separator: Self.move, omittingEmptySubsequences: false) {
                let volume = try await nextVolume(after: volumes.last)
                volumes.append(volume)
                answers.volume += try replay(Array(part), in: volume.mountPoint)
                answers.ext4 += try replay(Array(part), in: ext4.path)
            }
            await end()
            return answers
        } catch {
            await end()
            throw error
        }
    }

    /// In a list of operations: everything is closed, and the volume moves to another site, which at first has
    /// none of its bytes. On ext4 nothing happens.
    private static let move = "move"

    private func nextVolume(after owner: MountedVolume?) async throws -> MountedVolume {
        guard let owner else { return try MountedVolume() }
        await owner.unmount()
        return try await MountedVolume(
            makeHead: { try await TestVolume.makeHeir(of: owner.storage.catalog, in: $0) },
            source: FakeSource { owner.content(of: $0) })
    }

    private func replay(_ lines: [String], in directory: String) throws -> [Substring] {
        let file = NSTemporaryDirectory() + "godwit-operations-" + UUID().uuidString.lowercased()
        try lines.joined(separator: "\n").write(toFile: file, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: file) }
        let probe = try Probe.directory()
        let result = try Shell.run(
            "mkdir -p work; cd work; exec '\(probe)/probe' replay < '\(file)'", in: directory)
        guard result.code == 0 else {
            throw Probe.Failure(description: "replay ended with \(result.code): \(result.output.suffix(500))")
        }
        return result.output.split(separator: "\n")
    }

    /// - Returns: the first difference in words; nil: there is none.
    private func difference(_ lines: [String]) async throws -> String? {
        let (volume, ext4) = try await answers(to: lines)
        guard volume != ext4 else { return nil }
        let place = zip(volume, ext4).prefix { $0 == $1 }.count
        // What a tree prints is indented: the others are one line for each operation.
        let operation = ext4.prefix(place + 1).count { !$0.hasPrefix(" ") }
        let lines = lines.filter { $0 != Self.move }
        let wanted = place < ext4.count ? ext4[place] : "nothing"
        let found = place < volume.count ? volume[place] : "nothing"
        return
            "operation \(operation) '\(lines[max(0, operation - 1)])'\n  ext4:  \(wanted)\n  here:  \(found)"
    }

    /// Leaves out what the difference does not need, as far as that is found in a few hundred tries.
    private func shrink(_ lines: [String]) async throws -> [String] {
        var lines = lines
        var size = lines.count / 2
        var triesLeft = 400
        while size > 0 {
            var start = 0
            while start < lines.count, triesLeft > 0 {
                triesLeft -= 1
                var fewer = lines
                fewer.removeSubrange(start..<min(lines.count, start + size))
                if try await difference(fewer) != nil { lines = fewer } else { start += size }
            }
            size /= 2
        }
        return lines
    }

    @Test(Ext4Directory.isNeeded) func randomOperationsAnswerAsOnExt4() async throws {
        let environment = ProcessInfo.processInfo.environment
        let seconds = environment["GODWIT_DIFFERENTIAL_SECONDS"].flatMap { Double($0) } ?? 30
        let given = environment["GODWIT_DIFFERENTIAL_SEED"].flatMap { UInt64($0) }
        let end = ContinuousClock.now + .seconds(seconds)
        var runCount = 0
        repeat {
            let seed = given ?? .random(in: 0..<1 << 32)
            var operations = RandomOperations(seed: seed)
            var lines = operations.lines(count: 1500)
            if seed % 2 == 1 { lines.insert(Self.move, at: 2 + lines.count / 2) }
            if let found = try await difference(lines) {
                let least = try await shrink(lines)
                let shrunk = try await difference(least) ?? "(not seen again)"
                Issue.record(
                    """
                    seed \(seed): \(found)
                    the same, shrunk: \(shrunk)
                    \(least.joined(separator: "\n"))
                    """)
                return
            }
            runCount += 1
        } while ContinuousClock.now < end && given == nil
        print("\(runCount) runs of 1500 random operations answered as on ext4")
    }

    @Test(Ext4Directory.isNeeded) func allocatingMovesTheModificationTime() async throws {
        for mode in [0, 1] {
            let lines = [
                "mknod c 0100755", "times c 543104 5", "open 0 c 1 0600", "fallocate 0 \(mode) 12332 65130",
                "tree",
            ]
            #expect(try await difference(lines) == nil)
        }
    }

    /// The kernel leaves the set-ID bits to us, also of a chown that names nobody.
    @Test(Ext4Directory.isNeeded) func aChownOfNobodyClearsSetIDs() async throws {
        for mode in ["04755", "06755", "02755", "0755"] {
            let lines = [
                "open 4 b 66 0666", "chown b 10 -1", "chmod b \(mode)", "as 10", "chown b -1 -1", "as 0",
                "tree",
                "chmod b \(mode)", "chown b -1 -1", "tree",
            ]
            let found = try await difference(lines)
            #expect(found == nil, "\(found ?? "")")
        }
    }

    /// Also set-group-ID where the group may not execute, by who is not in it.
    @Test(Ext4Directory.isNeeded) func aChownBySomebodyOutsideTheGroupClearsSetGroupID() async throws {
        for mode in ["02767", "06767", "02745", "02755"] {
            for chown in ["chown b -1 20", "chown b -1 -1", "chown b 10 -1"] {
                for caller in ["as 10", "as 0"] {
                    let lines = [
                        "open 1 b 66 0777", "chown b 10 -1", "chmod b \(mode)", caller, chown, "as 0", "tree",
                    ]
                    let found = try await difference(lines)
                    #expect(found == nil, "\(mode), \(chown), \(caller): \(found ?? "")")
                }
            }
        }
    }

    @Test(Ext4Directory.isNeeded) func aMovedVolumeAnswersAsIfItHadStayed() async throws {
        let lines = [
            "open 0 a 0102 0666", "write 0 0 70000 3", "write 0 150000 9 3",
            "acl a system.posix_acl_access 15268",
            Self.move, "open 0 a 2 0666", "write 0 1000 10 4", "fallocate 0 3 30000 9000",
            "ftruncate 0 60000",
            "ftruncate 0 65000", "read 0 0 70000", "tree", Self.move, "open 1 a 0 0", "read 1 500 69000",
            "tree",
        ]
        #expect(try await difference(lines) == nil)
    }

    /// A fault that was over before its thread had asked to be told of signals used freed memory. A window of a
    /// microsecond: random runs of moved volumes met it within seconds, this one meets it by chance.
    @Test func faultsThatAreOverAtOnceAreAnsweredOnce() async throws {
        let owner = try MountedVolume()
        let made = try owner.shell("for i in $(seq 1 1500); do echo $i > f$i; done")
        #expect(made.code == 0)
        await owner.unmount()
        let heir = try await MountedVolume(
            makeHead: { try await TestVolume.makeHeir(of: owner.storage.catalog, in: $0) },
            source: FakeSource { owner.content(of: $0) })
        let read = try heir.shell("ls | shuf | xargs -P 8 -n 50 cat | sort -n | cmp - <(seq 1 1500)")
        #expect(read.code == 0, "\(read.output)")
        await heir.end()
        await owner.end()
    }

    @Test(Ext4Directory.isNeeded) func aDifferenceIsSeen() async throws {
        // O_DIRECT is the one word of replay's that the two are known to answer differently.
        let lines = ["open 0 a 040102 0666", "write 0 0 7 1", "fstat 0"]
        #expect(try await difference(lines) != nil)
        #expect(try await difference(["open 0 a 0102 0666", "write 0 0 7 1", "tree"]) == nil)
    }
}
