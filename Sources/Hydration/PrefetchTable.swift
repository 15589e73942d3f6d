internal import VolumeModel

/// What well-known applications read when they start, for volumes whose starts nobody has recorded yet.
///
/// The form, which users extend by a file of their own:
/// ```
/// # a comment
/// redis                                a name without indentation begins an application
///     marker appendonlydir *.rdb       a volume holds it where there is such a path; several are alternatives
///     magic  REDIS                     optional: the marker is a file that begins with this
///     appendonlydir/*     all          paths from the directory that holds the marker, in the order of reading
///     dump.rdb            first 64Mi   or: last 8Ki
///     pg_wal/0*           first 8Ki newest 2
///     .-wal               all          a dot stands for the marker itself
/// ```
/// In names `*`, `?` and `[a-z]` stand for what they do in a shell; what follows a `#` is a comment.
package struct PrefetchTable: Hashable, Sendable {
    package struct Line: Hashable, Sendable {
        /// Parts of a path, each a pattern.
        package let path: [String]
        package let amount: Amount
        /// Only so many of the files that match, by the time of the last write.
        package let newestCount: Int?
    }

    package enum Amount: Hashable, Sendable {
        case all
        case first(UInt64)
        case last(UInt64)

        func range(ofSize size: UInt64) -> ByteRange? {
            guard size > 0 else { return nil }
            return switch self {
            case .all: ByteRange(0, size)
            case .first(let count): ByteRange(0, min(size, count))
            case .last(let count): ByteRange(size - min(size, count), size)
            }
        }
    }

    package struct Application: Hashable, Sendable {
        package let name: String
        package var markers: [[String]] = []
        package var magic: String?
        package var lines: [Line] = []
    }

    package private(set) var applications: [Application] = []

    package struct Failure: Error, Hashable, Sendable, CustomStringConvertible {
        package let line: Int
        package let reason: String

        package var description: String { "line \(line): \(reason)" }
    }

    /// - Throws: `Failure` that names the line.
    package init(_ text: String) throws(Failure) {
        // A line may end as on Windows, which is one character.
        let lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
        for (index, raw) in lines.enumerated() {
            func fail(_ reason: String) -> Failure { Failure(line: index + 1, reason: reason) }
            let isIndented = raw.first.map { $0 == " " || $0 == "\t" } ?? false
            let words = raw.prefix { $0 != "#" }.split { $0 == " " || $0 == "\t" }.map(String.init)
            guard let first = words.first else { continue }
            guard isIndented else {
                guard words.count == 1 else { throw fail("an application's name is one word") }
                guard !applications.contains(where: { $0.name == first }) else {
                    throw fail("'\(first)' is there twice")
                }
                applications.append(Application(name: first))
                continue
            }
            guard !applications.isEmpty else { throw fail("it belongs to no application") }
            let last = applications.count - 1
            switch first {
            case "marker":
                guard words.count > 1 else { throw fail("a marker is a path") }
                for word in words.dropFirst() {
                    guard let path = Self.path(word), path.count <= 8 else {
                        throw fail("'\(word)' is no path within a volume")
                    }
                    applications[last].markers.append(path)
                }
            case "magic":
                let magic = words.dropFirst().joined(separator: " ")
                guard (1...64).contains(magic.utf8.count) else { throw fail("a magic is 1 to 64 bytes") }
                applications[last].magic = magic
            default: applications[last].lines.append(try Self.line(words, fail))
            }
        }
        for application in applications where application.markers.isEmpty || application.lines.isEmpty {
            throw Failure(line: 0, reason: "'\(application.name)' has no marker, or nothing to fetch")
        }
    }

    private static func path(_ word: String) -> [String]? {
        let parts = word.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        let isPath = parts.allSatisfy { !$0.isEmpty && $0 != ".." && FileName.isValid(Array($0.utf8)) }
        return isPath ? parts : nil
    }

    private static func line(_ words: [String], _ fail: (String) -> Failure) throws(Failure) -> Line {
        let form = "it is a path, then 'all', 'first SIZE' or 'last SIZE', and maybe 'newest COUNT'"
        var rest = words[...]
        let word = rest.removeFirst()
        guard let path = word.first == "." ? [word] : path(word), let kind = rest.popFirst() else {
            throw fail(form)
        }
        let amount: Amount
        switch kind {
        case "all": amount = .all
        case "first", "last":
            guard let size = rest.popFirst().flatMap(byteCount) else { throw fail(form) }
            amount = kind == "first" ? .first(size) : .last(size)
        default: throw fail(form)
        }
        var newest: Int?
        if rest.first == "newest" {
            guard rest.count == 2, let count = rest.last.flatMap({ Int($0) }), count > 0 else {
                throw fail(form)
            }
            newest = count
        } else if !rest.isEmpty {
            throw fail(form)
        }
        return Line(path: path, amount: amount, newestCount: newest)
    }

    private static func byteCount(_ word: String) -> UInt64? {
        for (suffix, factor) in [("Ki", UInt64(1) << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)]
        where word.hasSuffix(suffix) {
            guard let count = UInt64(word.dropLast(2)), count > 0, count <= 1 << 20 else { return nil }
            return count * factor
        }
        return UInt64(word).flatMap { $0 > 0 && $0 <= 1 << 40 ? $0 : nil }
    }

    /// The same with the applications of another table, in place of those with the same names.
    package func extended(by other: PrefetchTable) -> PrefetchTable {
        var table = self
        table.applications.removeAll { known in other.applications.contains { $0.name == known.name } }
        table.applications = other.applications + table.applications
        return table
    }

    /// What comes with Godwit.
    package static let standard: PrefetchTable = {
        do {
            return try PrefetchTable(standardText)
        } catch {
            preconditionFailure("the table of first guesses: \(error)")
        }
    }()

    /// From what these applications' documentation and sources say that they read at a start.
    package static let standardText = """
        # name          an application
        #   marker      a volume holds it where there is such a path; several are alternatives
        #   magic       and, if this is given, the marker is a file that begins with it
        #   path        from the directory that holds the marker, in the order of reading; a dot stands for the marker
        #               itself. Then 'all', 'first SIZE' or 'last SIZE', and 'newest COUNT' for the latest of the files.
        postgresql
            marker global/pg_control
            PG_VERSION                                      all
            postgresql*.conf                                all
            pg_*.conf                                       all
            global/pg_control                               all
            global/pg_filenode.map                          all
            global/pg_internal.init                         all
            pg_logical/replorigin_checkpoint                all
            pg_stat/*                                       all
            pg_xact/*                                       last 64Ki newest 2
            pg_multixact/offsets/*                          last 16Ki newest 1
            pg_multixact/members/*                          last 16Ki newest 1
            pg_subtrans/*                                   last 16Ki newest 1
            pg_wal/0*                                       first 64Ki newest 2
            global/[0-9]*                                   first 64Ki
            base/[1-9][0-9][0-9][0-9]*/pg_filenode.map      all
            base/[1-9][0-9][0-9][0-9]*/PG_VERSION           all
            base/[1-9][0-9][0-9][0-9]*/pg_internal.init     all
            base/[1-9][0-9][0-9][0-9]*/12[0-9][0-9]         first 512Ki
            base/[1-9][0-9][0-9][0-9]*/26[0-9][0-9]         first 64Ki
            base/5/pg_filenode.map                          all
            base/5/pg_internal.init                         all
            base/5/12[0-9][0-9]                             first 512Ki
            base/5/26[0-9][0-9]                             first 64Ki
        mysql
            marker ibdata1
            *.cnf                   all
            *.index                 all
            *bin*.[0-9][0-9]*       first 1Mi newest 1
            mysql/plugin.*          first 64Ki
            aria_log_control        all
            aria_log.*              first 16Ki
            aria_log.*              last 64Ki
            tc.log                  all
            ddl_recovery*.log       all
            ib_logfile0             first 64Ki
            ?innodb_redo/?ib_redo*[0-9]  first 64Ki newest 2
            ibdata1                 first 128Ki
            ?ib_*.dblwr             first 64Ki
            mysql/*.frm             all
            mysql/*.MAI             first 64Ki
            mysql/*.MAD             first 64Ki
            mysql/*.ibd             first 128Ki
            ibdata1                 first 6Mi
            mysql.ibd               first 8Mi
            undo*                   first 1Mi
            */db.opt                all newest 64
            */*.frm                 first 64Ki newest 64
            */*.ibd                 first 64Ki newest 32
            ib_buffer_pool          all
        mongodb
            marker WiredTiger.turtle
            WiredTiger              all
            WiredTiger.lock         all
            WiredTiger.turtle       all
            storage.bson            all
            WiredTiger.wt           all
            _mdb_catalog.wt         all
            sizeStorer.wt           all
            WiredTigerHS.wt         first 1Mi
            journal/WiredTigerLog.*  all newest 1
            collection-*            first 64Ki
            index-*                 first 64Ki
            */collection-*          first 64Ki
            */index-*               first 64Ki
        redis
            marker appendonlydir dump.rdb appendonly.aof
            nodes.conf                  all
            appendonlydir/*.manifest    all
            appendonlydir/*.rdb         first 1Gi
            appendonlydir/*.aof         first 1Gi
            dump.rdb                    first 1Gi
            appendonly.aof              first 1Gi
        lucene
            marker segments_*
            segments_*              all
            *.si                    all
            *.?[!i]m                first 64Ki
            *.tmd                   all
            *.tip                   all
            *.cfe                   all
            *.cfs                   first 64Ki
        elasticsearch
            marker _state/manifest-*.st node.lock
            _state/*                all
            indices/*/_state/*      all
            indices/*/*/_state/*    all
            indices/*/*/translog/*.ckp  all
            indices/*/*/translog/*.tlog all newest 64
        kafka
            marker meta.properties
            meta.properties                     all
            ?kafka_cleanshutdown                all
            *.checkpoint                        all
            *-checkpoint                        all
            */quorum-state                      all
            __cluster_metadata-0/*.checkpoint   all newest 1
            __cluster_metadata-0/*.log          all newest 1
            */leader-epoch-checkpoint           all
            */partition.metadata                all
            */*.snapshot                        all newest 64
            */*.index                           last 64Ki
            */*.timeindex                       last 64Ki
            */*.log                             last 64Ki
        etcd
            marker member/wal
            member/wal/*.wal        all newest 2
            member/snap/*.snap      all newest 1
            member/snap/db          first 256Mi
        git
            marker config
            magic  [core]
            HEAD                    all
            config                  all
            packed-refs             all
            refs/*/*                all
            index                   all
            logs/HEAD               last 64Ki
            objects/info/commit-graph  all
            objects/pack/multi-pack-index  all
            objects/pack/*.idx      all
            objects/pack/*.rev      all
        sqlite
            marker *.sqlite *.sqlite3 *.db *.db3
            magic  SQLite format 3
            .                       first 256Ki
            .-wal                   all
            .-journal               all
        """
}
