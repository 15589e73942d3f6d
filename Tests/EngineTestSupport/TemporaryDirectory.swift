import Foundation

/// A directory that is deleted when the last reference to it goes.
package final class TemporaryDirectory: Sendable {
    package let path: String

    /// - Parameter directory: where; nil: where temporary files are.
    package init(in directory: String? = nil) throws {
        path =
            (directory.map { $0 + "/" } ?? NSTemporaryDirectory()) + "godwit-engine-"
            + UUID().uuidString.lowercased()
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    package func make(_ name: String) throws -> String {
        let made = path + "/" + name
        try FileManager.default.createDirectory(atPath: made, withIntermediateDirectories: true)
        return made
    }

    /// Copies a head as a crash at this moment would leave it: catalog first, so that what arrives meanwhile
    /// is only missing. The head must not be settled while this runs.
    ///
    /// By another process: to close any descriptor of a database lets go of this process's locks on it (fcntl(2)).
    package static func copyHead(from head: String, to copy: String) throws {
        try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
        let names = ["catalog.db", "catalog.db-wal", "data"].map { head + "/" + $0 }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/cp")
        process.arguments = ["-a", "--"] + names.filter(FileManager.default.fileExists) + [copy]
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw CopyFailure(status: process.terminationStatus) }
    }

    package struct CopyFailure: Error { package let status: Int32 }
}
