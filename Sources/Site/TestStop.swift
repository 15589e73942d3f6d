internal import Glibc

/// Where a test lets this process die or stop: at a step of a hand-off that it names. Nothing in what people run.
///
/// The file that GODWIT_TEST_STOP names, if there is one, holds a signal and a step: `9 before sealed`. At that step the
/// process removes the file and sends the signal to itself.
enum TestStop {
    static func reach(_ place: String, _ what: @autoclosure () -> String) {
        #if DEBUG || TESTING
            guard let file, let wanted = contents(of: file) else { return }
            let words = wanted.split(separator: " ", maxSplits: 1)
            // Of an event or an action with its values the first word.
            let step = place + " " + what().prefix { $0.isLetter }
            guard words.count == 2, words[1] == step, let signal = Int32(words[0]), unlink(file) == 0 else {
                return
            }
            kill(getpid(), signal)
        #endif
    }

    #if DEBUG || TESTING
        private static let file = getenv("GODWIT_TEST_STOP").map { String(cString: $0) }

        private static func contents(of path: String) -> String? {
            let descriptor = open(path, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { return nil }
            defer { close(descriptor) }
            var bytes = [UInt8](repeating: 0, count: 256)
            let count = read(descriptor, &bytes, bytes.count)
            return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
        }
    #endif
}
