internal import CTestBed
internal import Glibc

/// The three standard descriptors of a program to start, on this process's side. Closed with the last
/// reference.
final class StandardFiles: Sendable {
    let input: Int32
    let output: Int32
    let error: Int32
    let collector: MemoryFile?
    private let owned: [Int32]

    init(_ program: Program) throws(LabError) {
        let input =
            program.input.isEmpty
            ? try StandardFiles.openFile("/dev/null", O_RDONLY) : try StandardFiles.memory(program.input)
        do {
            switch program.output {
            case .collected:
                let file = try MemoryFile(name: program.name)
                (collector, output, error, owned) = (file, file.descriptor, file.descriptor, [input])
            case .file(let path):
                let file = try StandardFiles.openFile(path, O_WRONLY | O_CREAT | O_APPEND)
                (collector, output, error, owned) = (nil, file, file, [input, file])
            case .discarded:
                let file = try StandardFiles.openFile("/dev/null", O_WRONLY)
                (collector, output, error, owned) = (nil, file, file, [input, file])
            case .inherited:
                (collector, output, error, owned) = (nil, 1, 2, [input])
            }
        } catch {
            close(input)
            throw error
        }
        self.input = input
    }

    deinit { for descriptor in owned { close(descriptor) } }

    private static func openFile(_ path: String, _ flags: Int32) throws(LabError) -> Int32 {
        Int32(try checkedCall("open", path) { Int(open(path, flags | O_CLOEXEC, 0o644)) })
    }

    private static func memory(_ bytes: [UInt8]) throws(LabError) -> Int32 {
        let file = try checked(tb_open_memory_file("input", false), "memfd_create", "the input of a program")
        var position = 0
        while position < bytes.count {
            do {
                position += try checkedCall("write", "the input of a program") {
                    bytes.withUnsafeBytes {
                        write(file, $0.baseAddress.map { $0 + position }, $0.count - position)
                    }
                }
            } catch {
                close(file)
                throw error
            }
        }
        lseek(file, 0, SEEK_SET)
        return file
    }
}

/// A file in memory that a program writes to and that can be read at any time.
final class MemoryFile: Sendable {
    let descriptor: Int32

    init(name: String) throws(LabError) {
        descriptor = try checked(tb_open_memory_file("output", true), "memfd_create", "the output of \(name)")
    }

    deinit { close(descriptor) }

    /// The last bytes of it.
    func tail(_ limit: Int) -> [UInt8] {
        var attributes = stat()
        guard fstat(descriptor, &attributes) == 0, attributes.st_size > 0, limit > 0 else { return [] }
        let count = min(Int(attributes.st_size), limit)
        let start = Int(attributes.st_size) - count
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            while filled < count {
                let length = pread(
                    descriptor, buffer.baseAddress.map { $0 + filled }, count - filled, off_t(start + filled))
                if length < 0, errno == EINTR { continue }
                guard length > 0 else { break }
                filled += length
            }
        }
    }
}

/// Lends an array of C strings that ends with a null pointer.
func withCStrings<Result>(
    _ strings: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) throws -> Result
) rethrows -> Result {
    var pointers: [UnsafeMutablePointer<CChar>?] = strings.map { strdup($0) }
    pointers.append(nil)
    defer { for pointer in pointers { free(pointer) } }
    return try pointers.withUnsafeBufferPointer { buffer in
        // The array has at least the null pointer at its end.
        guard let start = buffer.baseAddress else { preconditionFailure("an array without storage") }
        return try body(start)
    }
}

func withOptionalCString<Result>(
    _ string: String?, _ body: (UnsafePointer<CChar>?) throws -> Result
) rethrows -> Result {
    guard let string else { return try body(nil) }
    return try string.withCString { try body($0) }
}
