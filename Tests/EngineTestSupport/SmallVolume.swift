package import VolumeFileSystem
package import VolumeModel

/// A volume that is soon full.
package enum SmallVolume {
    /// In bytes.
    package static let capacity: UInt64 = 1 << 20

    /// - Parameter inodes: how many it may hold; 0: any number.
    /// - Returns: the volume, and its directory, which goes with the last reference.
    package static func make(inodes: UInt64 = 0) throws -> (TemporaryDirectory, TestVolume) {
        let temporary = try TemporaryDirectory()
        let limits = VolumeLimits(byteCount: capacity, inodeCount: inodes)
        return (temporary, try TestVolume.make(in: try temporary.make("head"), limits: limits))
    }
}

/// Whether something fails with ENOSPC.
package func isFull(_ body: () throws -> Void) throws -> Bool {
    do {
        try body()
        return false
    } catch FileSystemError.errno(.noSpace) {
        return true
    }
}

extension TestVolume {
    /// Writes so many bytes, none of them zero.
    ///
    /// - Returns: how many were taken.
    @discardableResult
    package func write(_ inode: InodeNumber, at offset: some BinaryInteger, _ byteCount: Int) throws -> Int {
        try write(inode, at: Int(offset), [UInt8](repeating: 7, count: byteCount))
    }

    package func allocate(
        _ inode: InodeNumber, _ mode: AllocationMode, _ offset: UInt64, _ byteCount: UInt64
    ) throws {
        try fileSystem.allocate(
            inode, handle: FileHandle(inode.number), mode: mode, offset: offset, byteCount: byteCount)
    }

    /// What all files take of the capacity.
    package func takenByteCount() throws -> UInt64 {
        try storage.catalog.perform { $0.counters.allocatedByteCount }
    }

    /// What is left of it, as statfs(2) tells.
    package func freeByteCount() throws -> UInt64 {
        let statistics = try fileSystem.statistics()
        return statistics.freeBlocks * UInt64(statistics.blockSize)
    }

    /// Writes to a new file until nothing more fits.
    package func fill() throws {
        let filler = try create("filler")
        var end = 0
        while let count = try? write(filler, at: end, 100_000) { end += count }
    }
}
