internal import Glibc
internal import VolumeModel

/// A file beside a catalog whose log, or whose first page, was found damaged while it was in use.
///
/// The next opening would take the log to end before the damage, without a word of the commits after it that were said to be
/// durable. So nobody opens the catalog until a person has restored it, and removed this file.
enum DamageNote {
    private static func path(beside catalog: String) -> String { catalog + "-damaged" }

    /// What a person is to do.
    static func remedy(for catalog: String) -> String {
        "\(CatalogError.remedy), and then remove \(path(beside: catalog))"
    }

    /// Leaves it, durably. May be repeated.
    ///
    /// - Parameter text: what was found, for a person.
    static func leave(beside catalog: String, _ text: String) throws(CatalogError) {
        let path = Self.path(beside: catalog)
        let descriptor = Glibc.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw .system(call: "open", path: path, Errno(errno)) }
        defer { Glibc.close(descriptor) }
        // The file alone is enough.
        let bytes = Array("\(text)\n".utf8)
        _ = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
        guard fsync(descriptor) == 0 else { throw .system(call: "fsync", path: path, Errno(errno)) }
        let directory = catalog.lastIndex(of: "/").map { String(catalog[..<$0]) } ?? "."
        try Catalog.synchronizeDirectory(directory)
    }

    /// - Throws: `.unusable` when there is one.
    static func check(beside catalog: String) throws(CatalogError) {
        var status = stat()
        guard lstat(path(beside: catalog), &status) == 0 else { return }
        throw .unusable(
            path: catalog,
            reason: "it was found damaged while it was in use, as \(path(beside: catalog)) tells: "
                + remedy(for: catalog))
    }
}
