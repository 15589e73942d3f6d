internal import Glibc
internal import TestBed

/// How much a run measures, and with which program.
struct BenchPlan: Sendable {
    let binary: String
    let isQuick: Bool
    /// Databases as large as the aims' ones.
    let isFull: Bool
    /// What misses its aim is repeated under perf.
    let usesPerf: Bool
    /// Whose first query after a move is measured.
    let databases: [BenchDatabaseKind]
    /// Files of the volume whose site's memory is measured.
    let memoryFileCount: Int

    var moveCount: Int { isQuick ? 3 : 5 }
    var manyFileCount: Int { isQuick ? 10_000 : 100_000 }
    let fewFileCount = 1000
    /// Empty files: it is their number that counts, and their bytes would take hours over the link.
    var hugeFileCount: Int? { isQuick ? nil : 1_000_000 }
    let sparseByteCount: UInt64 = 100 << 30
    /// Bytes that are there, and have to arrive once.
    var denseByteCount: Int { isQuick ? 32 << 20 : 1 << 30 }
    func byteCount(of database: BenchDatabaseKind) -> UInt64 {
        switch database {
        case .postgreSQL: isQuick ? 128 << 20 : isFull ? 2300 << 20 : 512 << 20
        case .mariaDB: isQuick ? 256 << 20 : isFull ? 2150 << 20 : 512 << 20
        }
    }
    var faultCount: Int { isQuick ? 300 : 500 }
    var faultFileByteCount: Int { isQuick ? 128 << 20 : 256 << 20 }
    var hydrationFileByteCount: Int { isQuick ? 64 << 20 : 256 << 20 }
    /// Looked at every 200 ms: 64 MiB take five seconds, so that this is of no weight.
    var hydrationFileCount: Int { isQuick ? 4000 : 10_000 }

    var fileRoundCount: Int { isQuick ? 3 : 5 }
    var dataByteCount: Int { isQuick ? 256 << 20 : 1 << 30 }
    var randomOperationCount: Int { isQuick ? 3000 : 20_000 }
    var metadataFileCount: Int { isQuick ? 3000 : 10_000 }
    var treeFileCount: Int { isQuick ? 2000 : 9400 }
    var sourceFileCount: Int { isQuick ? 100 : 400 }
    var sqliteTransactionCount: Int { isQuick ? 500 : 3000 }

    var pgbenchScale: Int { isQuick ? 10 : 136 }
    let sysbenchTables = 8
    var sysbenchRows: Int { isQuick ? 10_000 : 1_000_000 }
    var clusterVolumeCount: Int { isQuick ? 100 : 1000 }
    var clusterClaimCount: Int { isQuick ? 1000 : 10_000 }
    /// Of each measurement of a resident database.
    var databaseSeconds: Int { isQuick ? 5 : 30 }

    /// 100 Mbit/s, 20 ms round trip.
    let link = LinkSettings(LineSettings(bitsPerSecond: 100_000_000, delay: .milliseconds(10)))
    /// 1 Gbit/s, 20 ms round trip.
    let fastLink = LinkSettings(LineSettings(bitsPerSecond: 1_000_000_000, delay: .milliseconds(10)))
    /// What is read in sequence while nothing of it is here: some seconds of the link.
    func missingFileByteCount(_ link: LinkSettings) -> Int {
        let seconds = isQuick ? 2 : 10
        return (min(Int(link.aToB.bitsPerSecond) / 8 * seconds, 1 << 30) >> 20) << 20
    }

    struct FarLink: Sendable {
        let title: String
        let settings: LinkSettings
    }

    /// One that loses packets, and one with much under way.
    let farLinks = [
        FarLink(
            title: "100 Mbit/s, 100 ms, 0.1 % lost",
            settings: LinkSettings(
                LineSettings(bitsPerSecond: 100_000_000, delay: .milliseconds(50), loss: 0.001))),
        FarLink(
            title: "500 Mbit/s, 100 ms",
            settings: LinkSettings(LineSettings(bitsPerSecond: 500_000_000, delay: .milliseconds(50)))),
    ]

    /// A line for people who wait, apart from the report.
    func note(_ text: String) { writeError("bench: \(text)") }
}

/// What one move of a volume took.
struct BenchMove: Sendable {
    /// From the command to the end of the first write at the target.
    let firstWrite: Double
    /// The part in which no site owned the volume, as the source says.
    let handoff: Double
    /// The parts of `firstWrite`: `godwit migrate`, `godwit volume mount`, and the write.
    let command: Double
    let mount: Double
    let write: Double
}

extension SitePair {
    func other(than site: SiteProcess) -> SiteProcess { site.name == london.name ? sydney : london }

    /// Moves a volume that is unmounted at `source`, mounts it at the other site and writes a file there.
    func move(_ volume: String, from source: SiteProcess, writing text: String, _ cleanup: Cleanup)
        async throws
        -> BenchMove
    {
        let target = other(than: source)
        let path = mountPoint(of: target)
        let start = ContinuousClock.now
        let output = try await source.godwit(["migrate", volume, "--to", target.name, "--detach", "--json"])
        let owned = (ContinuousClock.now - start).seconds
        try await target.godwit(["volume", "mount", volume, path])
        let mounted = (ContinuousClock.now - start).seconds
        try await DedicatedThread.run("write") {
            try BenchFiles.write("\(path)/\(BenchFiles.marker)", Array(text.utf8))
        }
        let elapsed = (ContinuousClock.now - start).seconds
        try cleanup.add(mountAt: path)
        let handoff = try MigrationOutput(output).number("handoffMilliseconds") / 1000
        return BenchMove(
            firstWrite: elapsed, handoff: handoff, command: owned, mount: mounted - owned,
            write: elapsed - mounted)
    }

    /// The log of both sites' last lines, for a failure's message.
    var logs: String {
        [london, sydney].map { site in
            let text = (try? BenchFiles.read(site.logPath)) ?? []
            return "\(site.name): " + String(decoding: text.suffix(1200), as: UTF8.self)
        }.joined(separator: "\n")
    }
}
