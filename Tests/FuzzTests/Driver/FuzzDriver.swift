import CFuse
import Foundation

/// libFuzzer's own main function, of the compiler's libclang_rt.fuzzer_no_main.
@_silgen_name("LLVMFuzzerRunDriver")
private func runLibFuzzer(
    _ count: UnsafeMutablePointer<CInt>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?>,
    _ body: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// What libFuzzer's callback, which captures nothing, is to run. Set once, before it is called, on one thread.
private nonisolated(unsafe) var chosen: FuzzTarget?

/// What `Tests/fuzz/run` builds: every target with libFuzzer.
///
///     godwit-fuzz --list
///     godwit-fuzz --prepare TARGET DIRECTORY     writes seeds there, and the file 'words', libFuzzer's dictionary
///     godwit-fuzz TARGET OPTION… DIRECTORY…      options and directories are libFuzzer's
@main struct FuzzDriver {
    static func main() throws {
        let arguments = Array(CommandLine.arguments.dropFirst())
        if arguments == ["--list"] {
            for target in FuzzTarget.all { print("\(target.name)|\(target.byteLimit)|\(target.about)") }
            return
        }
        let isPreparation = arguments.count == 3 && arguments[0] == "--prepare"
        guard let name = arguments.dropFirst(isPreparation ? 1 : 0).first, let target = FuzzTarget.named(name)
        else {
            FileHandle.standardError.write(
                Data("godwit-fuzz --list | --prepare TARGET DIRECTORY | TARGET …\n".utf8))
            exit(64)
        }
        if isPreparation { return try prepare(target, in: arguments[2]) }
        chosen = target
        // It has something to say of many a request.
        fuse_set_log_func { _, _, _ in }
        // What libFuzzer takes apart begins with the program's name, and it keeps what it is given.
        var words: [UnsafeMutablePointer<CChar>?] =
            ([CommandLine.arguments[0]] + arguments.dropFirst()).map { strdup($0) } + [nil]
        var count = CInt(words.count - 1)
        let code = words.withUnsafeMutableBufferPointer { words in
            var base = words.baseAddress
            return runLibFuzzer(&count, &base) { bytes, count in
                FuzzDriver.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
                return 0
            }
        }
        exit(code)
    }

    private static func run(_ input: [UInt8]) {
        guard case .wrong(let what)? = chosen?.run(input) else { return }
        // libFuzzer keeps the input that ends the process.
        fatalError(what)
    }

    private static func prepare(_ target: FuzzTarget, in directory: String) throws {
        let seeds = directory + "/seeds"
        try FileManager.default.createDirectory(atPath: seeds, withIntermediateDirectories: true)
        for (number, seed) in try target.seeds().enumerated() {
            try Data(seed).write(to: URL(fileURLWithPath: "\(seeds)/\(number)"))
        }
        let lines = target.words.map { word in
            "\"" + word.utf8.map { "\\x" + ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() + "\"\n"
        }
        // libFuzzer takes no empty one.
        try Data("# \(target.name)\n\(lines.joined())".utf8).write(
            to: URL(fileURLWithPath: directory + "/words"))
    }
}
