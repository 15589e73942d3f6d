internal import Catalog
internal import Glibc
internal import VolumeModel

/// Finds the applications of a table in a volume, and what they will probably read first.
struct FirstGuess: Sendable {
    /// A volume may hold many of a kind: so many of each are looked at.
    private static let placeLimit = 64
    /// What is fetched on a guess, in all. It is fetched anyway, only earlier.
    private static let byteLimit: UInt64 = 512 << 20
    private static let extentLimit = 50_000
    static let magicByteCount: UInt64 = 64

    /// A place where an application's files seem to be.
    struct Place: Hashable, Sendable {
        let application: PrefetchTable.Application
        /// The directory from which its paths go.
        let directory: InodeNumber
        /// The marker's own name, and its number.
        let marker: [UInt8]
        let markerInode: InodeNumber
    }

    private let names: CatalogNames

    init(_ catalog: Catalog) throws(CatalogError) { names = try CatalogNames(catalog) }

    /// Looks through all names once.
    func places(of table: PrefetchTable) throws(CatalogError) -> [Place] {
        var found: [(marker: [String], Place)] = []
        var counts: [String: Int] = [:]
        let wanted = table.applications.flatMap { application in
            application.markers.compactMap { path in
                path.last.map { (application, path, Pattern($0)) }
            }
        }
        try names.forEach { name, directory, inode in
            for (application, path, pattern) in wanted where pattern.matches(name) {
                guard counts[application.name, default: 0] < Self.placeLimit * 16 else { continue }
                counts[application.name, default: 0] += 1
                found.append(
                    (
                        path,
                        Place(
                            application: application, directory: directory, marker: name, markerInode: inode)
                    )
                )
            }
            return true
        }
        var places: [Place] = []
        counts = [:]
        for (path, place) in found {
            guard counts[place.application.name, default: 0] < Self.placeLimit,
                let base = try base(of: place.directory, above: path.dropLast())
            else { continue }
            let whole = Place(
                application: place.application, directory: base, marker: place.marker,
                markerInode: place.markerInode)
            let isKnown = places.contains {
                $0.application.name == whole.application.name && $0.directory == base
                    && (whole.application.magic == nil || $0.markerInode == whole.markerInode)
            }
            if isKnown { continue }
            counts[place.application.name, default: 0] += 1
            places.append(whole)
        }
        return places
    }

    /// The directory above a marker's own directories, if these have the right names.
    private func base(
        of directory: InodeNumber, above path: ArraySlice<String>
    ) throws(CatalogError) -> InodeNumber? {
        var current = directory
        for part in path.reversed() {
            guard let place = try names.place(ofDirectory: current), Pattern(part).matches(place.name) else {
                return nil
            }
            current = place.parent
        }
        return current
    }

    /// What is to be fetched, in this order. The same bytes may be named twice.
    func extents(of places: [Place]) throws(CatalogError) -> [Extent] {
        var extents: [Extent] = []
        var room = Self.byteLimit
        for place in places {
            for line in place.application.lines {
                for file in try files(of: line, at: place) {
                    guard room > 0, extents.count < Self.extentLimit else { return extents }
                    guard let range = line.amount.range(ofSize: file.size) else { continue }
                    extents.append(Extent(inode: file.inode, range: range))
                    room -= min(room, range.byteCount)
                }
            }
        }
        return extents
    }

    private func files(
        of line: PrefetchTable.Line, at place: Place
    ) throws(CatalogError) -> [CatalogNames.Child] {
        var found: [CatalogNames.Child] = []
        if line.path.count == 1, let suffix = line.path.first, suffix.first == "." {
            let name = place.marker + Array(suffix.utf8.dropFirst())
            found = try names.children(of: place.directory).filter { $0.name == name }
        } else {
            var directories = [place.directory]
            for (depth, part) in line.path.enumerated() {
                let pattern = Pattern(part)
                var next: [CatalogNames.Child] = []
                for directory in directories.prefix(Self.extentLimit) {
                    next += try names.children(of: directory).filter { pattern.matches($0.name) }
                }
                guard depth == line.path.count - 1 else {
                    directories = next.filter { $0.kind == .directory }.map(\.inode)
                    continue
                }
                found = next
            }
        }
        found = found.filter { $0.kind == .regular }
        if let count = line.newestCount {
            found.sort { $1.modificationTime < $0.modificationTime }
            found = Array(found.prefix(count))
        } else {
            found.sort { $0.name.lexicographicallyPrecedes($1.name) }
        }
        return found
    }
}

/// fnmatch(3) of bytes.
private struct Pattern {
    private let bytes: [CChar]
    private let isPlain: Bool

    init(_ text: String) {
        bytes = Array(text.utf8CString)
        isPlain = !text.contains { "*?[\\".contains($0) }
    }

    func matches(_ name: [UInt8]) -> Bool {
        if isPlain {
            return name.count == bytes.count - 1
                && zip(name, bytes).allSatisfy { $0 == UInt8(bitPattern: $1) }
        }
        let text = name.map { CChar(bitPattern: $0) } + [0]
        return fnmatch(bytes, text, 0) == 0
    }
}
