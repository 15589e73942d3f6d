internal import BlockHashes
internal import ByteStore
package import Catalog
internal import Glibc
internal import VolumeModel

/// Verifies a head: its catalog, and its data files against the catalog.
///
/// The bytes themselves are read only by a scrub (`HeadScrub`); what scrubs have found is told here too. What this look
/// can tell of a data file is that it is there, as long as it was, and takes as many blocks as when it was synced.
package enum HeadCheck {
    /// - Parameters:
    ///   - directory: the head's. Nothing in it is changed.
    ///   - isInUse: whether the volume is served meanwhile: then files come and go while this looks.
    /// - Throws: when there is no catalog that can be read, or a directory cannot be; unless `isInUse`, also when
    ///   another process has the head open.
    package static func run(_ directory: String, isInUse: Bool) throws -> [HeadFinding] {
        let lock = isInUse ? nil : try HeadLock(directory: directory)
        defer { lock?.release() }
        let findings = try look(directory, isInUse: isInUse)
        guard isInUse, findings.contains(where: { $0.kind != .weakness }) else { return findings }
        // Files that came or went between two steps of the first look do so no more.
        let again = Set(try look(directory, isInUse: isInUse))
        return findings.filter { again.contains($0) }
    }

    private static func look(_ directory: String, isInUse: Bool) throws -> [HeadFinding] {
        var files: [DataFileNumber: DataFileExtent] = [:]
        var findings: [HeadFinding] = []
        let store = directory + "/data"
        if access(store, F_OK) == 0 {
            try ByteStore(directory: store).forEach {
                files[$0] = $1
            } other: {
                findings.append(HeadFinding(.leftover, "\(store)/\($0) is none of the volume's files"))
            }
        }
        for number in files.keys.sorted() where files[number]?.isShared == true {
            findings.append(
                HeadFinding(
                    .damage,
                    "\(store)/\(ByteStore.name(of: number)) has another name somewhere (a hard link), and is not used: "
                        + "remove that, or put a copy in its place"))
        }
        let catalog = try CatalogCheck(of: directory)
        findings += catalog.findings
        guard !catalog.findings.contains(where: { $0.kind == .damage && $0.text.hasPrefix(directory) }) else {
            return findings
        }
        var known = KnownDamage()
        do {
            known = try HashDatabase.damage(in: directory)
        } catch {
            findings.append(HeadDamage.unknown(error))
        }
        known = try damage(of: directory, files, known: known)
        let damaged = known.ranges
        for (number, data) in catalog.data.sorted(by: { $0.key < $1.key }) where damaged[number] == nil {
            if let finding = finding(number, data, files[number]?.blockCount, isInUse: isInUse, catalog) {
                findings.append(finding)
            }
        }
        let unknown = files.filter { catalog.data[$0.key] == nil }
        if !isInUse, !unknown.isEmpty {
            let taken = unknown.values.reduce(0) { $0 + $1.blockCount } * 512
            findings.append(
                HeadFinding(
                    .leftover, "\(unknown.count) data files of \(taken) bytes that nothing names",
                    isRepairable: true))
        }
        return findings + (try HeadDamage.findings(directory, known))
    }

    /// What is known, and what of files is missing now.
    private static func damage(
        of directory: String, _ files: [DataFileNumber: DataFileExtent], known: KnownDamage
    ) throws -> KnownDamage {
        var known = known
        let ranges = known.ranges
        let losses = try HeadLoss(directory, files: files.mapValues(\.size))
        for suspect in losses.suspects {
            guard let range = try losses.range(of: suspect), ranges[suspect.data]?.contains(range) != true
            else {
                continue
            }
            known.overwritten[suspect.data]?.remove(range)
            known.blocks.append(
                DamagedBlock(
                    data: suspect.data, range: range, inode: suspect.inode, expected: DamagedBlock.lost))
        }
        return known
    }

    /// Blocks that a file may give back without losing anything: those in which an ext4 lists its extents. They come when
    /// there are more than fit into the inode (4), shrink when extents grow together, and the last one goes some time
    /// after the file was cut, whatever is left in it.
    private static func slack(_ blockCount: UInt64) -> UInt64 {
        switch blockCount {
        case 0...8: 0
        case 9...5 * 8: 8
        default: 8 * (2 + blockCount / (8 * 340))
        }
    }

    private static func finding(
        _ number: DataFileNumber, _ data: CheckedData, _ blockCount: UInt64?, isInUse: Bool,
        _ catalog: CatalogCheck
    ) -> HeadFinding? {
        guard data.inode != InodeNumber(0) else { return nil }
        guard let blockCount else {
            // Never synced, it may have gone with a power loss; made since we looked, it is simply newer.
            guard number.number < catalog.durableData else { return nil }
            return HeadFinding(
                .damage, "data file \(number) of inode \(data.inode) is gone: its bytes are lost here")
        }
        guard !isInUse, data.isComplete, number.number >= catalog.certainData,
            blockCount + slack(data.blockCount) < data.blockCount
        else {
            return nil
        }
        return HeadFinding(
            .damage,
            "data file \(number) of inode \(data.inode) takes \(blockCount) blocks and had \(data.blockCount): "
                + "part of it may be lost")
    }

    /// Puts right what can be put right without losing anything, and looks again.
    ///
    /// - Returns: what is left.
    /// - Throws: when another process has the head open.
    package static func repair(_ directory: String) throws -> [HeadFinding] {
        try CatalogCheck.repair(directory)
        try setUnknownFilesAside(directory)
        try CatalogCheck.givePageSums(directory)
        return try run(directory, isInUse: false)
    }

    private static func setUnknownFilesAside(_ directory: String) throws {
        let lock = try HeadLock(directory: directory)
        defer { lock.release() }
        let catalog = try CatalogCheck(of: directory)
        let store = directory + "/data"
        if catalog.findings.allSatisfy({ $0.kind == .weakness }), access(store, F_OK) == 0 {
            let bytes = try ByteStore(directory: store)
            var unknown: [DataFileNumber] = []
            try bytes.forEach { number, _ in
                if catalog.data[number] == nil { unknown.append(number) }
            } other: { _ in
            }
            for number in unknown { try bytes.setAside(number) }
        }
    }
}
