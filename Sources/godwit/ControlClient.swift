internal import ArgumentParser
internal import ControlProtocol
internal import Foundation
internal import Glibc
internal import RPC
internal import Site
internal import SwiftProtobuf

/// Where the site is that a command talks to.
struct SiteOptions: ParsableArguments {
    @Option(
        name: .customLong("state-dir"), help: ArgumentHelp("The site's state directory.", valueName: "dir"))
    var stateDirectory = "/var/lib/godwit"
}

/// Calls to the site on this host.
struct ControlClient {
    private let channel: RPCChannel

    init(_ options: SiteOptions) throws {
        channel = try RPCChannel(
            to: .unix(path: options.stateDirectory + "/control.sock"), security: .plaintext,
            options: RPCChannelOptions())
    }

    func call<Request: Message, Reply: Message>(
        _ method: String, _ request: Request, timeout: Duration? = .seconds(60)
    ) async throws -> Reply {
        let bytes: [UInt8] = try request.serializedBytes()
        let reply = try await channel.unary(
            ControlService.service + method, bytes, metadata: RPCMetadata(), timeout: timeout,
            waitForReady: false)
        return try Reply(serializedBytes: reply)
    }

    /// Calls a method that answers with a stream.
    func stream<Request: Message, Reply: Message>(
        _ method: String, _ request: Request, each: (Reply) throws -> Void
    ) async throws {
        let bytes: [UInt8] = try request.serializedBytes()
        let call = try channel.open(
            ControlService.service + method, metadata: RPCMetadata(), timeout: nil, waitForReady: false)
        try await call.send(bytes)
        try await call.finishSending()
        while let message = try await call.receive() { try each(try Reply(serializedBytes: message)) }
    }
}

/// Turns a failure into a line for a person and an exit code for a script.
func reporting(_ body: () async throws -> Void) async throws {
    do {
        try await body()
    } catch let error as RPCStatus {
        let hint = error.code == .unavailable ? " (does 'godwit site' run, with this --state-dir?)" : ""
        FileHandle.standardError.write(Data("godwit: \(error.message)\(hint)\n".utf8))
        throw ExitCode(Int32(10 + error.code.rawValue))
    } catch let error as ExitCode {
        throw error
    } catch let error as ValidationError {
        throw error
    } catch {
        FileHandle.standardError.write(Data("godwit: \(error)\n".utf8))
        throw ExitCode(1)
    }
}

/// Sizes as people write them: `10Gi`, `500M`, `4096`.
struct ByteCount: ExpressibleByArgument {
    let bytes: UInt64

    init(bytes: UInt64) { self.bytes = bytes }

    init?(argument: String) {
        let units: [(String, UInt64)] = [
            ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("K", 1000), ("M", 1_000_000),
            ("G", 1_000_000_000), ("T", 1_000_000_000_000),
        ]
        let unit = units.first { argument.hasSuffix($0.0) }
        guard let number = UInt64(argument.dropLast(unit?.0.count ?? 0)) else { return nil }
        let (product, overflow) = number.multipliedReportingOverflow(by: unit?.1 ?? 1)
        guard !overflow else { return nil }
        bytes = product
    }

    var defaultValueDescription: String { Text.size(bytes) }
}

/// A rate as people write it: 10Mi is 10 MiB a second; none is no limit.
struct RateLimit: ExpressibleByArgument {
    /// 0: no limit.
    let bytesPerSecond: UInt64

    init?(argument: String) {
        if argument == "none" {
            bytesPerSecond = 0
        } else {
            guard let count = ByteCount(argument: argument), count.bytes > 0 else { return nil }
            bytesPerSecond = count.bytes
        }
    }
}

/// Numbers as people read them.
enum Text {
    static func size(_ bytes: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        var value = Double(bytes)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return unit == 0 ? "\(bytes) B" : decimal(value, places: value < 10 ? 2 : 1) + " " + units[unit]
    }

    static func milliseconds(_ microseconds: UInt64) -> String {
        decimal(Double(microseconds) / 1000, places: 1) + " ms"
    }

    static func decimal(_ value: Double, places: Int) -> String { String(format: "%.\(places)f", value) }

    static func duration(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds >= 0, seconds < 1e9 else { return "?" }
        if seconds < 60 { return decimal(seconds, places: 0) + " s" }
        if seconds < 3600 { return "\(Int(seconds) / 60) min \(Int(seconds) % 60) s" }
        return "\(Int(seconds) / 3600) h \(Int(seconds) % 3600 / 60) min"
    }

    /// A path, of any bytes, in one line: what is no printable text stands as `\\xNN`.
    static func quoted(_ path: Data) -> String {
        if let text = String(bytes: path, encoding: .utf8),
            text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7f && $0 != "\\" })
        {
            return text
        }
        return path.map { byte in
            (0x20..<0x7f).contains(byte) && byte != UInt8(ascii: "\\")
                ? String(UnicodeScalar(byte)) : String(format: "\\x%02x", byte)
        }.joined()
    }

    /// Columns, each as wide as its widest cell.
    static func table(_ rows: [[String]]) -> String {
        let widths = (rows.first ?? []).indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            zip(row, widths).map { $0.padding(toLength: $1, withPad: " ", startingAt: 0) }
                .joined(separator: "  ").trimmingTrailingSpaces
        }.joined(separator: "\n")
    }
}

extension String {
    fileprivate var trimmingTrailingSpaces: String {
        var text = self[...]
        while text.hasSuffix(" ") { text = text.dropLast() }
        return String(text)
    }
}
