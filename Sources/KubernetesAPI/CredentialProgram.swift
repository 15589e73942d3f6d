internal import Foundation
internal import Synchronization

/// A program that a kubeconfig names to sign in with, as those of cloud providers do: it prints an `ExecCredential`.
///
/// Its token is used until shortly before it expires; then the program is run again. It runs as the user, with what it
/// asks for on the terminal: the same that kubectl runs.
package final class CredentialProgram: Sendable {
    /// What a kubeconfig says of it.
    struct Settings: Decodable, Sendable {
        struct Variable: Decodable, Sendable {
            var name: String
            var value: String
        }
        var apiVersion: String?
        var command: String
        var args: [String]?
        var env: [Variable]?
        var installHint: String?
    }

    private struct Answer: Decodable {
        struct Status: Decodable {
            var token: String?
            var expirationTimestamp: String?
        }
        var status: Status?
    }

    /// A token that expires sooner is not begun with.
    private static let margin: TimeInterval = 30

    private let settings: Settings
    /// Where a relative command is looked for, if it is a path.
    private let directory: String
    private let known = Mutex<(token: String, expires: Date?)?>(nil)

    init(_ settings: Settings, directory: String) {
        self.settings = settings
        self.directory = directory
    }

    /// The token, from the program if none is at hand that still holds.
    func token() throws(KubernetesError) -> String {
        if let known = known.withLock({ $0 }),
            known.expires.map({ $0.timeIntervalSinceNow > Self.margin }) ?? true
        {
            return known.token
        }
        let answer: Answer
        do {
            answer = try JSONDecoder().decode(Answer.self, from: try run())
        } catch let error as KubernetesError {
            throw error
        } catch {
            throw .configuration("'\(settings.command)' printed no ExecCredential: \(error)")
        }
        guard let token = answer.status?.token, !token.isEmpty else {
            throw .configuration(
                "'\(settings.command)' gave no token: certificates of such programs cannot be used here")
        }
        let expires = answer.status?.expirationTimestamp.flatMap { ISO8601DateFormatter().date(from: $0) }
        known.withLock { $0 = (token, expires) }
        return token
    }

    private func run() throws(KubernetesError) -> Data {
        let process = Process()
        var environment = ProcessInfo.processInfo.environment
        for variable in settings.env ?? [] { environment[variable.name] = variable.value }
        let version = settings.apiVersion ?? "client.authentication.k8s.io/v1"
        environment["KUBERNETES_EXEC_INFO"] =
            #"{"apiVersion": "\#(version)", "kind": "ExecCredential", "spec": {"interactive": false}}"#
        process.environment = environment
        // By its name it is found in PATH; by a path, from where the kubeconfig is.
        let command = settings.command
        if command.contains("/") {
            process.executableURL = URL(
                fileURLWithPath: command.hasPrefix("/") ? command : directory + "/" + command)
            process.arguments = settings.args ?? []
        } else {
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments = [command] + (settings.args ?? [])
        }
        let output = Pipe()
        process.standardOutput = output
        process.standardInput = FileHandle.nullDevice
        do {
            try process.run()
            let data = try output.fileHandleForReading.readToEnd() ?? Data()
            process.waitUntilExit()
            guard process.terminationStatus == 0 else {
                throw KubernetesError.configuration(
                    "'\(command)', which is to sign in, ended with status \(process.terminationStatus)"
                        + (settings.installHint.map { ": \($0)" } ?? ""))
            }
            return data
        } catch let error as KubernetesError {
            throw error
        } catch {
            throw .configuration(
                "'\(command)', which is to sign in, cannot be run: \(error.localizedDescription)"
                    + (settings.installHint.map { ": \($0)" } ?? ""))
        }
    }
}
