import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Volumes that are taken over by a site that has not followed: their names arrive while they are in use.
    @Suite struct ArrivalTests {
        /// Many directories, one with many names, hard links across directories, attributes.
        private static let tree = """
            for d in $(seq 60); do mkdir -p t/$d/x/y; seq -f "t/$d/x/y/%g" 60 | xargs touch; echo $d > t/$d/x/y/z; done
            mkdir many; seq -f "many/a_name_that_takes_some_room_%g" 12000 | xargs touch
            ln t/1/x/y/z t/60/x/link; ln t/1/x/y/z link; setfattr -n user.a -v b t/30/x; chmod 700 t/31
            """

        private static func isArriving(_ site: SiteProcess) async throws -> Bool {
            try await site.inspect("data")["namesArriving"] as? Bool ?? false
        }

        /// The link is so slow that most names are elsewhere while the tree is used and changed, and the target dies
        /// amid it.
        @Test func aTreeIsUsedAndChangedWhileItsNamesArrive() async throws {
            try await withSites(slowLink(megabits: 1)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                let made = try await shell(Self.tree, in: london)
                #expect(made.exit.isSuccess, "\(made.output)")
                let copy = pair.directory + "/copy"
                _ = try await shell("cp -a '\(london)' '\(copy)'", in: pair.directory)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                #expect(try await Self.isArriving(pair.sydney))
                let changes = """
                    cat t/60/x/link many/none 2>/dev/null; mv t/1 u; rm -r t/2; echo new > t/59/x/y/z; mkdir t/2
                    rm link; ln u/x/y/z t/3/link; mv t/40/x/y t/41/moved; touch t/new; rmdir t/5 2>/dev/null; sync t/new
                    echo made > t/57/x/y/fresh; ln -s a t/56/x/y/s; mkdir t/55/x/y/d; mkfifo t/54/x/y/p; touch t/53/x/y/1
                    """
                for place in [copy, sydney] {
                    let changed = try await shell(changes, in: place)
                    #expect(changed.output == "1\n", "\(changed.output)")
                }
                #expect(try await Self.isArriving(pair.sydney))
                await pair.sydney.kill()
                try await pair.sydney.start()
                _ = try await pair.mount("data", at: pair.sydney, cleanup)
                let there = try await TreeDigest.of(sydney, withTimes: false)
                let expected = try await TreeDigest.of(copy, withTimes: false)
                #expect(there.value == expected.value, "\(expected.differences(to: there).prefix(5))")
                try await pair.waitUntilReleased("data", at: pair.sydney)
                #expect(try await !Self.isArriving(pair.sydney))
                try await pair.unmount("data", at: pair.sydney)
                let check = try await pair.sydney.run(["volume", "check", "data"])
                #expect(check.exit.isSuccess, "\(check.output)")
            }
        }

        /// Whoever takes it from a site where it is still arriving waits until that has all names.
        @Test func itGoesOnToAThirdSiteThatHasNotFollowedEither() async throws {
            try await withSites(slowLink(megabits: 20), withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell(Self.tree, in: london)
                let before = try await TreeDigest.of(london, withTimes: true)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                try await pair.sydney.godwit(["migrate", "data", "--to", "tokyo", "--detach"])
                let there = try await pair.mount("data", at: tokyo, cleanup)
                let after = try await TreeDigest.of(there, withTimes: true)
                #expect(after.value == before.value, "\(before.differences(to: after).prefix(5))")
                try await pair.unmount("data", at: tokyo)
                // A site that prepares takes all names first, and hands over as ever.
                try await tokyo.godwit(["migrate", "data", "--to", "london", "--prepare-only"])
                try await tokyo.godwit(["migrate", "data", "--to", "london", "--detach"])
                _ = try await pair.mount("data", at: pair.london, cleanup)
                let home = try await TreeDigest.of(london, withTimes: true)
                #expect(home.value == before.value, "\(before.differences(to: home).prefix(5))")
                try await pair.unmount("data", at: pair.london)
            }
        }

        @Test func aNameThatCannotBeHadIsAnErrorUntilItsSiteIsBack() async throws {
            try await withSites(slowLink(megabits: 1), options: ["--fault-timeout", "2"]) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell(Self.tree, in: london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                try await pair.link.cut(Set(LinkDirection.allCases))
                #expect(try await Self.isArriving(pair.sydney))
                let failed = try await shell("ls many | wc -l", in: sydney)
                #expect(failed.output.contains("Input/output error"), "\(failed.output)")
                let log = try String(contentsOfFile: pair.sydney.logPath, encoding: .utf8)
                #expect(
                    log.contains("entries of directory") && log.contains("site london"), "\(log.suffix(800))")
                let refused = try await pair.sydney.run(["volume", "check", "data"])
                #expect(refused.exit.isSuccess, "\(refused.output)")
                try await pair.link.cut([])
                var works = ""
                for _ in 0..<20 where works != "12000\n" {
                    works = try await shell("ls many 2>&1 | wc -l", in: sydney).output
                }
                #expect(works == "12000\n", "\(works)")
                try await pair.unmount("data", at: pair.sydney)
            }
        }
    }
}
