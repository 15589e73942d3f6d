internal import ArgumentParser
internal import CSIService
internal import Logging
internal import Monitoring

/// How much a service says of what it does, and in which form: on standard error.
struct LogOptions: ParsableArguments {
    enum Format: String, CaseIterable, ExpressibleByArgument { case text, json }

    @Option(help: "trace, debug, info, notice, warning, error.") var logLevel = "info"
    @Option(help: "text, for people; json: an object a line, for programs.") var logFormat = Format.text

    func validate() throws {
        guard Logger.Level(rawValue: logLevel) != nil else {
            throw ValidationError("'\(logLevel)' is no log level")
        }
    }

    /// To be called once in a process, before anything logs.
    func makeLogger() -> Logger {
        // Whatever is said while a call is answered names the call.
        let provider = Logger.MetadataProvider {
            CSIService.currentRequest.map { ["request": "\($0)"] } ?? [:]
        }
        switch logFormat {
        case .text:
            LoggingSystem.bootstrap(
                { StreamLogHandler.standardError(label: $0, metadataProvider: $1) },
                metadataProvider: provider)
        case .json:
            LoggingSystem.bootstrap(
                { JSONLogHandler(metadataProvider: $1) }, metadataProvider: provider)
        }
        var logger = Logger(label: "godwit")
        logger.logLevel = Logger.Level(rawValue: logLevel) ?? .info
        return logger
    }
}
