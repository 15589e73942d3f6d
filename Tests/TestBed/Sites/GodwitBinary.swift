internal import Foundation

/// The program `godwit` beside the test bundle.
package let godwitBinary = builtProgram("godwit")

/// The program `kubectl-godwit`, beside it.
package let kubectlGodwitBinary = builtProgram("kubectl-godwit")

private func builtProgram(_ name: String) -> String {
    let bundle = CommandLine.arguments.first.map { URL(fileURLWithPath: $0) } ?? URL(fileURLWithPath: ".")
    var directory = bundle.deletingLastPathComponent()
    // The runner may be started from the toolchain: then the build folder is the working directory's.
    for _ in 0..<6 {
        let candidate = directory.appendingPathComponent(name).path
        if FileManager.default.isExecutableFile(atPath: candidate) { return candidate }
        directory.deleteLastPathComponent()
    }
    return FileManager.default.currentDirectoryPath + "/.build/debug/" + name
}
