import Foundation

@testable import TestBed

/// Libraries that are preloaded into a site: `recorder.c` and `faults.c`.
enum PreloadedLibrary {
    /// Compiles one of them.
    ///
    /// - Returns: its path.
    static func build(_ name: String, in directory: String) async throws -> String {
        let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent(name + ".c").path
        let library = "\(directory)/\(name).so"
        try await ChildProcess.check(
            Program("gcc", ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"]),
            limit: .seconds(60))
        return library
    }
}
