internal import Foundation
internal import Glibc
internal import TestBed

/// passthrough_hp, which libfuse has among its examples and Debian in its source package only: built once for a
/// machine, against the libfuse that is installed, and kept in `GODWIT_CACHE`, /var/cache/godwit-tests by default.
enum PassthroughPeer {
    static func program() async throws -> String {
        let cache = ProcessInfo.processInfo.environment["GODWIT_CACHE"] ?? "/var/cache/godwit-tests"
        let target = "\(cache)/passthrough_hp"
        if access(target, X_OK) == 0 { return target }
        for (tool, package) in [("apt-get", "apt"), ("dpkg-source", "dpkg-dev"), ("g++", "g++")]
        where access("/usr/bin/\(tool)", X_OK) != 0 {
            throw LabError.programMissing("\(tool) (package \(package)), to build it")
        }
        try BenchFiles.makeDirectory(cache)
        var build = Program("/bin/bash", ["-ec", script, "build", target])
        build.directory = cache
        do {
            try await ChildProcess.check(build, limit: .seconds(600))
        } catch {
            throw LabError.invalid("it could not be built from Debian's source package fuse3: \(error)")
        }
        return target
    }

    /// The machine's own package sources stay as they are; apt checks the signature here as well.
    private static let script = """
        build=$1.build; rm -rf "$build"; mkdir -p "$build/lists/partial" "$build/parts"
        trap 'rm -rf "$build"' EXIT
        printf 'Types: deb-src\\nURIs: http://deb.debian.org/debian\\nSuites: bookworm\\nComponents: main\\nSigned-By: %s\\n' \
            /usr/share/keyrings/debian-archive-keyring.gpg > "$build/parts/source.sources"
        apt=(-qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$build/parts"
            -o "Dir::State::Lists=$build/lists" -o "APT::Sandbox::User=$(id -un)")
        cd "$build"
        apt-get "${apt[@]}" update
        apt-get "${apt[@]}" source --only-source fuse3
        cd fuse3-*/example
        g++ -std=c++17 -O2 -w -D_FILE_OFFSET_BITS=64 -DHAVE_UTIMENSAT -DHAVE_POSIX_FALLOCATE $(pkg-config --cflags fuse3) passthrough_hp.cc \
            -o "$1.new" $(pkg-config --libs fuse3) -pthread
        mv "$1.new" "$1"
        """
}
