internal import Foundation
internal import TestBed

/// Workload 5: from the command to the first write at the target.
struct HandoffBench: Sendable {
    let plan: BenchPlan

    private enum Content: Sendable {
        case files(Int)
        case emptyFiles(Int)
        case sparse(UInt64)
        case dense(Int)
        case empty

        var title: String {
            switch self {
            case .files(let count): "\(BenchText.count(count)) files"
            case .emptyFiles(let count): "\(BenchText.count(count)) empty files"
            case .sparse(let size): "\(size >> 30) GiB sparse"
            case .dense(let size): "\(BenchText.size(UInt64(size))) in one file"
            case .empty: "empty"
            }
        }
    }

    private struct Measurement: Sendable {
        var first = 0.0
        var prepared: [Double] = []
        var cold: [Double] = []
        var preparedMoves: [BenchMove] = []
    }

    /// Seconds to the first write, medians.
    private struct Result: Sendable {
        let prepared: Double
        let cold: Double
        /// Of the one move to a site that has never seen the volume.
        let first: Double

        static var ways: [(String, KeyPath<Result, Double>)] {
            [("prepared", \.prepared), ("not prepared", \.cold), ("first move", \.first)]
        }
    }

    func run() async throws -> BenchSection {
        try await Cleanup.scope { cleanup in
            let pair = try await SitePair.start(binary: plan.binary, link: plan.link, cleanup)
            do {
                return try await measure(pair, cleanup)
            } catch {
                throw LabError.invalid("\(error)\n\(pair.logs)")
            }
        }
    }

    private func measure(_ pair: SitePair, _ cleanup: Cleanup) async throws -> BenchSection {
        var section = BenchSection(5, "Hand-off: command to first write at the target, 100 Mbit/s, 20 ms")
        var contents: [Content] = [
            .files(plan.fewFileCount), .emptyFiles(plan.manyFileCount), .empty,
            .sparse(plan.sparseByteCount), .dense(plan.denseByteCount),
        ]
        if let count = plan.hugeFileCount { contents.append(.emptyFiles(count)) }
        var results: [Result] = []
        for (number, content) in contents.enumerated() {
            plan.note("hand-off of \(content.title)")
            let result = try await moves(of: content, volume: "v\(number)", pair, cleanup)
            guard let prepared = Series(result.prepared), let cold = Series(result.cold)
            else { throw LabError.invalid("no move was measured") }
            results.append(Result(prepared: prepared.median, cold: cold.median, first: result.first))
            section.rows += [
                BenchRow(
                    "\(content.title), prepared", BenchText.milliseconds(prepared),
                    value: prepared.median * 1000, aim: .atMost(150, "150 ms")),
                BenchRow(
                    "\(content.title), not prepared, seen before", BenchText.milliseconds(cold),
                    value: cold.median * 1000, aim: .atMost(1500, "1.5 s")),
                BenchRow(
                    "\(content.title), not prepared, first move", BenchText.milliseconds(result.first),
                    value: result.first * 1000, aim: .atMost(1500, "1.5 s")),
            ]
            section.rows += parts(result.preparedMoves)
        }
        // Many files over few, bytes over none.
        for (large, small) in [(1, 0), (3, 2), (4, 2), (5, 0)] where large < results.count {
            let title = "\(contents[large].title) / \(contents[small].title)"
            for (way, seconds) in Result.ways {
                let (much, little) = (results[large][keyPath: seconds], results[small][keyPath: seconds])
                section.rows.append(
                    BenchRow(
                        "\(title), \(way)", BenchText.milliseconds(much),
                        against: BenchText.milliseconds(little), ratio: much / little,
                        aim: .atMost(1.2, "1.2")))
            }
        }
        return section
    }

    /// Where the time of prepared moves goes.
    private func parts(_ moves: [BenchMove]) -> [BenchRow] {
        let names: [(String, (BenchMove) -> Double)] = [
            ("  prepared: without an owner", { $0.handoff }),
            ("  prepared: godwit migrate", { $0.command }),
            ("  prepared: godwit volume mount", { $0.mount }), ("  prepared: the write", { $0.write }),
        ]
        return names.compactMap { name, part in
            Series(moves.map(part)).map {
                BenchRow(name, BenchText.milliseconds($0), value: $0.median * 1000)
            }
        }
    }

    private func moves(of content: Content, volume: String, _ pair: SitePair, _ cleanup: Cleanup)
        async throws -> Measurement
    {
        try await pair.london.godwit(["volume", "create", volume, "--capacity", "200Gi"])
        let path = try await pair.mount(volume, at: pair.london, cleanup)
        try await fill(path, content)
        let digest = try await self.digest(path, content)
        var result = Measurement()
        var source = pair.london
        for number in 0...(2 * plan.moveCount) {
            let target = pair.other(than: source)
            let isPrepared = (1...plan.moveCount).contains(number)
            if isPrepared {
                try await source.godwit(["migrate", volume, "--to", target.name, "--prepare-only"])
            }
            try await pair.unmount(volume, at: source)
            let move = try await pair.move(volume, from: source, writing: "move \(number)", cleanup)
            if number == 0 {
                result.first = move.firstWrite
            } else if isPrepared {
                result.prepared.append(move.firstWrite)
                result.preparedMoves.append(move)
            } else {
                result.cold.append(move.firstWrite)
            }
            guard try await self.digest(pair.mountPoint(of: target), content) == digest else {
                throw LabError.invalid("\(volume) (\(content.title)) has changed in move \(number)")
            }
            try await pair.waitUntilReleased(volume, at: target, limit: .seconds(600))
            source = target
        }
        try await pair.unmount(volume, at: source)
        return result
    }

    private func fill(_ path: String, _ content: Content) async throws {
        switch content {
        case .files(let count): try await BenchFiles.writeMany(path, count: count, byteCount: 64)
        case .emptyFiles(let count): try await BenchFiles.writeMany(path, count: count, byteCount: 0)
        case .sparse(let size):
            try await DedicatedThread.run("sparse") {
                try BenchFiles.writeSparse("\(path)/sparse", byteCount: size)
            }
        case .dense(let size):
            try await DedicatedThread.run("dense") {
                try BenchFiles.writePages("\(path)/dense", byteCount: size, seed: 5)
            }
        case .empty: break
        }
    }

    /// A hash over everything but the marker. Of a sparse file: size, data and some holes, checked here.
    private func digest(_ path: String, _ content: Content) async throws -> String {
        switch content {
        case .files, .dense, .empty:
            return try await TreeDigest.of(path, leavingOut: [BenchFiles.marker]).value
        case .emptyFiles:
            // A sample: looking at all of them after each move takes longer than all the moves.
            return try await TreeDigest.of("\(path)/d7").value
        case .sparse(let size):
            try await DedicatedThread.run("check") {
                try BenchFiles.checkSparse("\(path)/sparse", byteCount: size)
            }
            return "as written"
        }
    }
}
