import Foundation
import Glibc

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

/// A directory on ext4, to compare with.
struct Ext4Directory {
    let path: String

    /// - Returns: nil where temporary files are not on ext4.
    init?() throws {
        path = NSTemporaryDirectory() + "godwit-ext4-" + UUID().uuidString.lowercased()
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        guard try Shell.run("stat -f -c %t .", in: path).output == "ef53\n" else {
            remove()
            return nil
        }
    }

    func remove() { try? FileManager.default.removeItem(atPath: path) }
}
