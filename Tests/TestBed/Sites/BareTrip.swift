internal import CTestBed
internal import Glibc

/// The least that a FUSE file system takes: a request that its server answers at once, and of whose answer the kernel
/// keeps nothing.
package enum BareTrip {
    /// Asks for an extended attribute that the file does not have, from one thread.
    ///
    /// - Parameter path: a file on a mount.
    /// - Returns: the seconds of one question, on average.
    package static func seconds(at path: String, count: Int = 3000) async throws -> Double {
        try await DedicatedThread.run("bare-trip") {
            // The name is resolved once, and known from then on.
            try ask(path)
            let start = tb_now()
            for _ in 0..<count { try ask(path) }
            return Double(tb_now() - start) / 1e9 / Double(max(1, count))
        }
    }

    private static func ask(_ path: String) throws(LabError) {
        var value: UInt8 = 0
        let result = tb_get_attribute(path, "user.godwit-lab", &value, 0)
        guard result == -Int64(ENODATA) else {
            throw .systemCall("getxattr", detail: path, errno: Int32(clamping: -result))
        }
    }
}
