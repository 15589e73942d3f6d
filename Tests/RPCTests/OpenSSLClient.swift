import Foundation

/// The first bytes that a TLS server sends to openssl's client; none if it closes the connection.
func firstBytesOfTLSServer(port: UInt16, showing identity: Certificates.Identity?) throws -> Data {
    let directory = try TemporaryDirectory()
    var arguments = ["s_client", "-quiet", "-connect", "127.0.0.1:\(port)", "-alpn", "h2"]
    if let identity {
        let path = directory.path + "/identity.pem"
        try (identity.certificate + identity.key).write(toFile: path, atomically: false, encoding: .utf8)
        arguments += ["-cert", path, "-key", path]
    }
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
    process.arguments = arguments
    let input = Pipe()
    let output = Pipe()
    process.standardInput = input
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    let data = output.fileHandleForReading.availableData
    process.terminate()
    process.waitUntilExit()
    return data
}
