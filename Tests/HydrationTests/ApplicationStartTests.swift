import EngineTestSupport
import Testing
import VolumeModel

@testable import Hydration

/// Directories as well-known applications leave them, from their documentation: what each reads at a start comes first, and
/// in that order, although nobody has recorded a start.
@Suite struct ApplicationStartTests {
    struct Application: CustomTestStringConvertible, Sendable {
        let testDescription: String
        /// Path, size, and how its content begins.
        let files: [(path: String, size: Int, start: [UInt8])]
        /// What is fetched first: a path, or a path with the bytes of it.
        let expected: [String]

        init(_ name: String, _ listing: String, starts: [String: [UInt8]] = [:], expected: String) {
            testDescription = name
            files = listing.split(separator: "\n").map { line in
                let words = line.split(separator: " ").map(String.init)
                return (words[0], Int(words[1]) ?? 0, starts[words[0]] ?? [])
            }
            self.expected = expected.split(separator: "\n").map(String.init)
        }
    }

    static let applications = [
        // https://www.postgresql.org/docs/17/storage-file-layout.html
        Application(
            "PostgreSQL 17",
            """
            pgdata/base/1/1259 114688
            pgdata/base/1/PG_VERSION 3
            pgdata/base/16384/112 8192
            pgdata/base/16384/1247 114688
            pgdata/base/16384/1249 700000
            pgdata/base/16384/1259 114688
            pgdata/base/16384/16390 900000
            pgdata/base/16384/16390_fsm 24576
            pgdata/base/16384/2601 8192
            pgdata/base/16384/2662 32768
            pgdata/base/16384/PG_VERSION 3
            pgdata/base/16384/pg_filenode.map 524
            pgdata/base/16384/pg_internal.init 160000
            pgdata/base/5/1259 114688
            pgdata/base/5/PG_VERSION 3
            pgdata/base/5/pg_filenode.map 524
            pgdata/global/1262 8192
            pgdata/global/6000 0
            pgdata/global/pg_control 8192
            pgdata/global/pg_filenode.map 524
            pgdata/global/pg_internal.init 30000
            pgdata/pg_hba.conf 5711
            pgdata/pg_ident.conf 2640
            pgdata/pg_logical/replorigin_checkpoint 8
            pgdata/pg_multixact/members/0000 8192
            pgdata/pg_multixact/offsets/0000 8192
            pgdata/pg_stat/pgstat.stat 30000
            pgdata/pg_subtrans/0000 8192
            pgdata/pg_wal/000000010000000000000001 800000
            pgdata/pg_wal/archive_status/x.done 0
            pgdata/pg_xact/0000 8192
            pgdata/PG_VERSION 3
            pgdata/postgresql.auto.conf 88
            pgdata/postgresql.conf 30000
            pgdata/postmaster.opts 36
            """,
            expected: """
                pgdata/PG_VERSION
                pgdata/postgresql.auto.conf
                pgdata/postgresql.conf
                pgdata/pg_hba.conf
                pgdata/pg_ident.conf
                pgdata/global/pg_control
                pgdata/global/pg_filenode.map
                pgdata/global/pg_internal.init
                pgdata/pg_logical/replorigin_checkpoint
                pgdata/pg_stat/pgstat.stat
                pgdata/pg_xact/0000
                pgdata/pg_multixact/offsets/0000
                pgdata/pg_multixact/members/0000
                pgdata/pg_subtrans/0000
                pgdata/pg_wal/000000010000000000000001 0-65536
                pgdata/global/1262
                pgdata/base/16384/pg_filenode.map
                pgdata/base/16384/PG_VERSION
                pgdata/base/16384/pg_internal.init
                pgdata/base/16384/1247
                pgdata/base/16384/1249 0-524288
                pgdata/base/16384/1259
                pgdata/base/16384/2601
                pgdata/base/16384/2662
                pgdata/base/5/pg_filenode.map
                pgdata/base/5/1259
                """),
        // https://dev.mysql.com/doc/refman/8.4/en/data-directory.html, innodb-redo-log.html, binary-log.html
        Application(
            "MySQL 8.4",
            """
            #ib_16384_0.dblwr 300000
            #ib_16384_1.dblwr 900000
            #innodb_redo/#ib_redo10 900000
            #innodb_redo/#ib_redo11_tmp 900000
            #innodb_temp/temp_1.ibt 81920
            auto.cnf 56
            binlog.000002 400000
            binlog.000003 181
            binlog.index 32
            ca-key.pem 1705
            ib_buffer_pool 4000
            ibdata1 900000
            mysql.ibd 900000
            mysql/general_log.CSM 35
            mysql/general_log_213.sdi 4000
            performance_schema/accounts_145.sdi 4000
            shop/orders.ibd 900000
            sys/sys_config.ibd 114688
            undo_001 900000
            undo_002 900000
            """,
            expected: """
                auto.cnf
                binlog.index
                binlog.000003
                #innodb_redo/#ib_redo10 0-65536
                ibdata1 0-131072
                #ib_16384_0.dblwr 0-65536
                #ib_16384_1.dblwr 0-65536
                ibdata1
                mysql.ibd
                undo_001
                undo_002
                sys/sys_config.ibd 0-65536
                shop/orders.ibd 0-65536
                ib_buffer_pool
                """),
        // https://mariadb.com/kb/en/innodb-system-tablespaces/, aria-storage-engine/, innodb-redo-log/
        Application(
            "MariaDB 11",
            """
            aria_log.00000001 24576
            aria_log_control 52
            ddl_recovery.log 12
            ib_buffer_pool 2000
            ib_logfile0 900000
            ibdata1 900000
            multi-master.info 0
            mysql/db.MAD 8192
            mysql/db.MAI 8192
            mysql/db.frm 2000
            mysql/db.opt 65
            mysql/gtid_slave_pos.ibd 65536
            mysql/plugin.MAD 8192
            mysql/plugin.MAI 8192
            mysql/plugin.frm 1500
            shop/db.opt 65
            shop/orders.frm 3000
            shop/orders.ibd 900000
            tc.log 24576
            undo001 900000
            """,
            expected: """
                mysql/plugin.MAD
                mysql/plugin.MAI
                mysql/plugin.frm
                aria_log_control
                aria_log.00000001 0-16384
                aria_log.00000001
                tc.log
                ddl_recovery.log
                ib_logfile0 0-65536
                ibdata1 0-131072
                mysql/db.frm
                mysql/plugin.frm
                mysql/db.MAI
                mysql/plugin.MAI
                mysql/db.MAD
                mysql/plugin.MAD
                mysql/gtid_slave_pos.ibd
                ibdata1
                undo001
                shop/db.opt
                mysql/db.opt
                shop/orders.frm
                mysql/plugin.frm
                mysql/db.frm
                shop/orders.ibd 0-65536
                mysql/gtid_slave_pos.ibd
                ib_buffer_pool
                """),
        // https://www.mongodb.com/docs/manual/core/wiredtiger/, https://source.wiredtiger.com/develop/arch-fs-os.html
        Application(
            "MongoDB 7",
            """
            WiredTiger 50
            WiredTiger.lock 21
            WiredTiger.turtle 1500
            WiredTiger.wt 200000
            WiredTigerHS.wt 3000000
            _mdb_catalog.wt 36864
            collection-0-123.wt 900000
            collection-7-123.wt 36864
            diagnostic.data/metrics.2024-01-01T00-00-00Z-00000 900000
            index-1-123.wt 900000
            journal/WiredTigerLog.0000000004 700000
            journal/WiredTigerPreplog.0000000001 900000
            mongod.lock 0
            sizeStorer.wt 36864
            storage.bson 114
            """,
            expected: """
                WiredTiger
                WiredTiger.lock
                WiredTiger.turtle
                storage.bson
                WiredTiger.wt
                _mdb_catalog.wt
                sizeStorer.wt
                WiredTigerHS.wt 0-1048576
                journal/WiredTigerLog.0000000004
                collection-0-123.wt 0-65536
                collection-7-123.wt
                index-1-123.wt 0-65536
                """),
        // https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
        Application(
            "Redis 7",
            """
            data/appendonlydir/appendonly.aof.1.base.rdb 500000
            data/appendonlydir/appendonly.aof.1.incr.aof 300000
            data/appendonlydir/appendonly.aof.manifest 88
            data/dump.rdb 900000
            data/nodes.conf 800
            data/temp-17.rdb 900000
            """,
            expected: """
                data/nodes.conf
                data/appendonlydir/appendonly.aof.manifest
                data/appendonlydir/appendonly.aof.1.base.rdb
                data/appendonlydir/appendonly.aof.1.incr.aof
                data/dump.rdb
                """),
        // https://www.sqlite.org/fileformat2.html, tempfiles.html
        Application(
            "SQLite",
            """
            app/cache.db 900000
            app/grafana.db 900000
            app/grafana.db-shm 32768
            app/grafana.db-wal 400000
            app/places.sqlite 600000
            app/state.db3 8192
            app/state.db3-journal 512
            app/thumbs.db 700
            """,
            starts: [
                "app/grafana.db": Array("SQLite format 3\0".utf8),
                "app/places.sqlite": Array("SQLite format 3\0".utf8),
                "app/state.db3": Array("SQLite format 3\0".utf8), "app/cache.db": [0, 5, 0x31, 0x62],
            ],
            expected: """
                app/grafana.db 0-262144
                app/grafana.db-wal
                app/places.sqlite 0-262144
                app/state.db3
                app/state.db3-journal
                """),
        // https://www.elastic.co/blog/found-dive-into-elasticsearch-storage,
        // https://lucene.apache.org/core/9_11_0/core/org/apache/lucene/codecs/lucene99/package-summary.html
        Application(
            "Elasticsearch 8",
            """
            _state/_1.cfe 400
            _state/_1.cfs 90000
            _state/_1.si 400
            _state/manifest-1.st 200
            _state/node-0.st 120
            _state/segments_3 350
            _state/write.lock 0
            indices/Q2x/0/_state/retention-leases-1.st 140
            indices/Q2x/0/_state/state-0.st 120
            indices/Q2x/0/index/_0.fdm 160
            indices/Q2x/0/index/_0.fdt 900000
            indices/Q2x/0/index/_0.fnm 1200
            indices/Q2x/0/index/_0.si 500
            indices/Q2x/0/index/_0_Lucene90_0.doc 900000
            indices/Q2x/0/index/_0_Lucene90_0.tim 700000
            indices/Q2x/0/index/_0_Lucene90_0.tip 20000
            indices/Q2x/0/index/_0_Lucene90_0.tmd 900
            indices/Q2x/0/index/segments_5 400
            indices/Q2x/0/translog/translog-3.tlog 300000
            indices/Q2x/0/translog/translog.ckp 88
            indices/Q2x/1/translog/translog-8.tlog 200000
            indices/Q2x/1/translog/translog.ckp 88
            indices/Q2x/_state/state-4.st 900
            node.lock 0
            nodes 30
            """,
            expected: """
                _state/_1.cfe
                _state/_1.cfs
                _state/_1.si
                _state/manifest-1.st
                _state/node-0.st
                _state/segments_3
                indices/Q2x/_state/state-4.st
                indices/Q2x/0/_state/retention-leases-1.st
                indices/Q2x/0/_state/state-0.st
                indices/Q2x/0/translog/translog.ckp
                indices/Q2x/1/translog/translog.ckp
                indices/Q2x/1/translog/translog-8.tlog
                indices/Q2x/0/translog/translog-3.tlog
                _state/segments_3
                _state/_1.si
                _state/_1.cfe
                _state/_1.cfs 0-65536
                indices/Q2x/0/index/segments_5
                indices/Q2x/0/index/_0.si
                indices/Q2x/0/index/_0.fdm
                indices/Q2x/0/index/_0.fnm
                indices/Q2x/0/index/_0_Lucene90_0.tmd
                indices/Q2x/0/index/_0_Lucene90_0.tip
                """),
        // https://kafka.apache.org/documentation/#log, KIP-630, KIP-866
        Application(
            "Kafka 3.8, KRaft",
            """
            .kafka_cleanshutdown 20
            __cluster_metadata-0/00000000000000000000.index 100000
            __cluster_metadata-0/00000000000000000000.log 600000
            __cluster_metadata-0/00000000000000000900-0000000001.checkpoint 9000
            __cluster_metadata-0/leader-epoch-checkpoint 8
            __cluster_metadata-0/quorum-state 130
            bootstrap.checkpoint 231
            cleaner-offset-checkpoint 4
            log-start-offset-checkpoint 4
            meta.properties 121
            orders-0/00000000000000000000.index 10485
            orders-0/00000000000000000000.log 900000
            orders-0/00000000000000000000.timeindex 10485
            orders-0/00000000000000000042.snapshot 10
            orders-0/leader-epoch-checkpoint 8
            orders-0/partition.metadata 43
            recovery-point-offset-checkpoint 60
            replication-offset-checkpoint 60
            """,
            expected: """
                meta.properties
                .kafka_cleanshutdown
                bootstrap.checkpoint
                cleaner-offset-checkpoint
                log-start-offset-checkpoint
                recovery-point-offset-checkpoint
                replication-offset-checkpoint
                __cluster_metadata-0/quorum-state
                __cluster_metadata-0/00000000000000000900-0000000001.checkpoint
                __cluster_metadata-0/00000000000000000000.log
                __cluster_metadata-0/leader-epoch-checkpoint
                orders-0/leader-epoch-checkpoint
                orders-0/partition.metadata
                orders-0/00000000000000000042.snapshot
                __cluster_metadata-0/00000000000000000000.index 34464-100000
                orders-0/00000000000000000000.index
                orders-0/00000000000000000000.timeindex
                __cluster_metadata-0/00000000000000000000.log 534464-600000
                orders-0/00000000000000000000.log 834464-900000
                """),
        // https://etcd.io/docs/v3.5/learning/persistent-storage-files/
        Application(
            "etcd 3.5",
            """
            etcd/member/snap/0000000000000002-00000000000186a1.snap 9000
            etcd/member/snap/db 900000
            etcd/member/wal/0.tmp 640000
            etcd/member/wal/0000000000000000-0000000000000000.wal 640000
            """,
            expected: """
                etcd/member/wal/0000000000000000-0000000000000000.wal
                etcd/member/snap/0000000000000002-00000000000186a1.snap
                etcd/member/snap/db
                """),
        // https://git-scm.com/docs/gitrepository-layout
        Application(
            "git",
            """
            src/.git/COMMIT_EDITMSG 20
            src/.git/HEAD 21
            src/.git/config 92
            src/.git/index 40000
            src/.git/logs/HEAD 90000
            src/.git/objects/aa/0123456789 300
            src/.git/objects/info/commit-graph 5000
            src/.git/objects/pack/multi-pack-index 9000
            src/.git/objects/pack/pack-1f.idx 30000
            src/.git/objects/pack/pack-1f.pack 900000
            src/.git/objects/pack/pack-1f.rev 4000
            src/.git/packed-refs 900
            src/.git/refs/heads/main 41
            src/.git/refs/tags/v1 41
            src/app/config 12
            """,
            starts: [
                "src/.git/config": Array("[core]\n\trepositoryformatversion = 0\n".utf8),
                "src/app/config": Array("colour=blue\n".utf8),
            ],
            expected: """
                src/.git/HEAD
                src/.git/config
                src/.git/packed-refs
                src/.git/refs/heads/main
                src/.git/refs/tags/v1
                src/.git/index
                src/.git/logs/HEAD 24464-90000
                src/.git/objects/info/commit-graph
                src/.git/objects/pack/multi-pack-index
                src/.git/objects/pack/pack-1f.idx
                src/.git/objects/pack/pack-1f.rev
                """),
    ]

    private static func content(_ size: Int, _ start: [UInt8]) -> [UInt8] {
        var bytes = [UInt8](repeating: 7, count: size)
        bytes.replaceSubrange(0..<min(size, start.count), with: start.prefix(size))
        return bytes
    }

    @Test(arguments: applications)
    func whatItReadsAtAStartComesFirst(_ application: Application) async throws {
        let temporary = try TemporaryDirectory()
        // Before its files, by number and by name, and after them: what nobody waits for.
        let bulk = ["0/backup.tar", "zz/backup.tar"]
        let files =
            [(bulk[0], Self.content(900_000, []))]
            + application.files.map { ($0.path, Self.content($0.size, $0.start)) }
            + [(bulk[1], Self.content(900_000, []))]
        let (heir, source, inodes) = try await FirstGuessTests.heir(of: files, in: temporary)
        let paths = Dictionary(uniqueKeysWithValues: inodes.map { ($1, $0) })
        let sizes = Dictionary(uniqueKeysWithValues: files.map { ($0.0, UInt64($0.1.count)) })
        func text(_ extent: Extent) -> String {
            let path = paths[extent.inode] ?? "?"
            let isWhole = extent.range == ByteRange(0, sizes[path] ?? 0)
            return isWhole ? path : "\(path) \(extent.range.start)-\(extent.range.end)"
        }
        let guess = try #require(try await heir.hydrator?.firstGuess()).map(text)
        #expect(guess == application.expected)

        heir.startHydration()
        try await heir.waitForHydration()
        let order = source.requests.flatMap { $0.extents.map { paths[$0.inode] ?? "?" } }
        let first = try #require(order.firstIndex { bulk.contains($0) })
        for line in application.expected {
            let path = line.split(separator: " ").first.map(String.init) ?? ""
            // An empty file is nowhere.
            guard let place = order.firstIndex(of: path) else {
                Issue.record("\(path) was never asked for")
                continue
            }
            #expect(place < first, "\(path) came after what nobody waits for")
        }
        try await heir.close()
    }
}
