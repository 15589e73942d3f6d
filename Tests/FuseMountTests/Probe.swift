import Foundation
import Glibc
import TestBed
import Testing

/// The program `probe`, which makes single system calls for scripts.
enum Probe {
    private static let built = Result { try build() }

    /// The directory that holds it, compiled once in a run.
    static func directory() throws -> String { try built.get() }

    private static func build() throws -> String {
        let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path
        let directory = NSTemporaryDirectory() + "godwit-probe-\(getpid())"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let result = try Shell.run(
            "gcc -O1 -Wall -Werror -o probe '\(sources)'/probe.c '\(sources)'/replay.c", in: directory)
        guard result.code == 0 else { throw Failure(description: result.output) }
        atexit {
            try? FileManager.default.removeItem(atPath: NSTemporaryDirectory() + "godwit-probe-\(getpid())")
        }
        return directory
    }

    struct Failure: Error, CustomStringConvertible { let description: String }
}

enum Shell {
    /// - Returns: its exit code and what it printed.
    static func run(_ script: String, in directory: String) throws -> (code: Int32, output: String) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/bash")
        process.arguments = ["-ec", script]
        process.currentDirectoryURL = URL(fileURLWithPath: directory)
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let data = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: data, as: UTF8.self))
    }
}

/// A directory on ext4, to compare with: beside temporary files, or where these are not on ext4 in a file system that is
/// made for it.
struct Ext4Directory {
    private static let place = Task { try await findPlace() }

    /// For tests that have nothing to compare with where there is none.
    static let isNeeded: ConditionTrait = .enabled(
        "temporary files are not on ext4, and no loop device can be mounted here"
    ) {
        (try? await place.value) != nil
    }

    let path: String

    init() async throws {
        path = try await Self.place.value + "/godwit-ext4-" + UUID().uuidString.lowercased()
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    func remove() { try? FileManager.default.removeItem(atPath: path) }

    private static func findPlace() async throws -> String {
        let temporary = NSTemporaryDirectory()
        if try Shell.run("stat -f -c %t .", in: temporary).output == "ef53\n" { return temporary }
        // One for the whole run, and gone with it.
        try FileManager.default.createDirectory(atPath: ownDirectory, withIntermediateDirectories: true)
        atexit {
            umount2(Ext4Directory.ownDirectory + "/mount", Int32(MNT_DETACH))
            try? FileManager.default.removeItem(atPath: Ext4Directory.ownDirectory)
        }
        try await LoopFileSystem.makeExt4(image: ownDirectory + "/image")
        try await LoopFileSystem.mount(ownDirectory + "/image", at: ownDirectory + "/mount", nil)
        return ownDirectory + "/mount"
    }

    private static let ownDirectory = NSTemporaryDirectory() + "godwit-ext4-\(getpid())"
}
