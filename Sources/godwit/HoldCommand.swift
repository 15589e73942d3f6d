internal import ArgumentParser
internal import Foundation
internal import Glibc
internal import MountHolder

/// `godwit hold`
struct HoldCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "hold",
        abstract: "Keep a site's mounts while its process is replaced.",
        discussion: """
            Does nothing else. Start it before the site, as a unit or pod of its own, and leave it alone: when it \
            ends while a site is away, that site's mounts end too. Only root may use its socket.

            Example: godwit hold --socket /run/godwit/holder.sock
            """)

    @Option(
        help: ArgumentHelp("Where sites reach it; its directory is made if it is missing.", valueName: "path")
    )
    var socket = "/run/godwit/holder.sock"

    func validate() throws {
        guard socket.hasPrefix("/") else { throw ValidationError("--socket is an absolute path") }
    }

    func run() throws {
        let directory = (socket as NSString).deletingLastPathComponent
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        // As process 1 of a container nothing ends it by default. With nothing in its hands there is nothing to do.
        for number in [SIGTERM, SIGINT] { signal(number) { _ in _exit(0) } }
        // Two descriptors a mount.
        OpenFileLimit.raise(to: 65_536)
        let holder: MountHolder
        do {
            holder = try MountHolder(at: socket)
        } catch {
            FileHandle.standardError.write(Data("Error: \(error)\n".utf8))
            throw ExitCode.failure
        }
        holder.run()
    }
}
