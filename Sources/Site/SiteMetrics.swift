internal import CSIService
internal import Catalog
internal import FuseMount
internal import Hydration
internal import Monitoring
internal import Synchronization
internal import VolumeModel

/// A site's figures, for Prometheus. Sources/Monitoring/Metrics.md names them.
///
/// What is told of each volume is told of a bounded number of them: those first with which something is the matter.
struct SiteMetrics {
    let site: Site
    let operations: OperationTimes
    let volumeLimit: Int
    /// nil: kubelet is not told.
    let isRegistered: Bool?

    func text() async -> String {
        var volumes: [VolumeSummary] = []
        for agent in await site.allAgents() { volumes.append(await agent.observed()) }
        var text = MetricsText()
        addSite(to: &text, volumes)
        if let isHeld = await site.isHeld {
            text.add(
                "godwit_mount_holder_up", .gauge, "Whether somebody keeps the mounts over a planned restart."
            ) { $0.add(UInt64(isHeld ? 1 : 0)) }
        }
        let unregistered = await site.unregistered.count
        text.add(
            "godwit_volumes_unregistered", .gauge,
            "Volumes whose data are here though the registry does not name them."
        ) { $0.add(UInt64(unregistered)) }
        addOperations(to: &text)
        addRequests(to: &text)
        addHydration(to: &text)
        addRepairs(to: &text)
        addMisconduct(to: &text)
        let listed = volumes.sorted(by: Self.isTold).prefix(volumeLimit)
        text.add("godwit_volumes_unlisted", .gauge, "Volumes of which no figures of their own are told.") {
            $0.add(UInt64(volumes.count - listed.count))
        }
        addVolumes(to: &text, listed.sorted { $0.record.name < $1.record.name })
        text.addProcess()
        return text.text
    }

    /// Which of two volumes is more worth telling of.
    private static func isTold(_ first: VolumeSummary, _ second: VolumeSummary) -> Bool {
        func rank(_ volume: VolumeSummary) -> Int {
            if volume.trouble != nil || !volume.record.head.divergences.isEmpty { return 0 }
            if !volume.waitingReason.isEmpty { return 1 }
            if volume.missingByteCount > 0 || volume.namesAreArriving { return 2 }
            return volume.mounts.isEmpty ? 4 : 3
        }
        let ranks = (rank(first), rank(second))
        return ranks.0 == ranks.1 ? first.record.name < second.record.name : ranks.0 < ranks.1
    }

    // MARK: the site

    private func addSite(to text: inout MetricsText, _ volumes: [VolumeSummary]) {
        let context = site.context
        text.add("godwit_build_info", .gauge, "1; what runs, and where.") {
            $0.add(
                UInt64(1),
                [
                    ("version", Release.current), ("site", context.site.description), ("node", context.node),
                ])
        }
        if let isRegistered {
            text.add("godwit_kubelet_registered", .gauge, "Whether kubelet has registered the driver.") {
                $0.add(UInt64(isRegistered ? 1 : 0))
            }
        }
        if let free = try? context.state.freeBytes() {
            text.add("godwit_storage_free_bytes", .gauge, "Room on the disk that holds the volumes.") {
                $0.add(free)
            }
        }
        text.add("godwit_volumes", .gauge, "Volumes that the site knows, by their role here.") { family in
            for (role, members) in Dictionary(grouping: volumes, by: \.roleName).sorted(by: {
                $0.key < $1.key
            }) {
                family.add(UInt64(members.count), [("role", role)])
            }
        }
        text.add(
            "godwit_handoff_seconds", .histogram,
            "Takeovers by this site: from asking the owner to stop until this site could write."
        ) { $0.add(context.handoffs.withLock { $0 }) }
    }

    private func addOperations(to text: inout MetricsText) {
        text.add("csi_plugin_operations_seconds", .histogram, "Calls of the CSI driver.") { family in
            let sorted = operations.histograms.sorted {
                ($0.key.method, $0.key.code.rawValue) < ($1.key.method, $1.key.code.rawValue)
            }
            for (key, histogram) in sorted {
                family.add(
                    histogram,
                    [
                        ("driver_name", CSIService.driverName), ("method_name", key.method),
                        ("grpc_status_code", key.code.name),
                    ])
            }
        }
    }

    private func addRequests(to text: inout MetricsText) {
        let totals = RequestTimes.totals
        text.add("godwit_fuse_requests_total", .counter, "The kernel's requests for mounted volumes.") {
            for total in totals { $0.add(total.count, [("operation", total.operation)]) }
        }
        text.add(
            "godwit_fuse_request_seconds_total", .counter,
            "How long these were in the site's hands; the kernel's own way is not included."
        ) {
            for total in totals { $0.add(total.seconds, [("operation", total.operation)]) }
        }
        let syncs = DiskSyncs.totals
        text.add("godwit_disk_syncs_total", .counter, "Syncs of data files and of the catalogs' logs.") {
            $0.add(syncs.count)
        }
        text.add("godwit_disk_sync_seconds_total", .counter, "How long these took.") { $0.add(syncs.seconds) }
    }

    private func addHydration(to text: inout MetricsText) {
        let counts = site.context.hydration.counters.counts
        text.add(
            "godwit_hydration_received_bytes_total", .counter,
            "Bytes received from other sites, before decompression, without zeros."
        ) { $0.add(counts.receivedByteCount) }
        text.add(
            "godwit_hydration_saved_bytes_total", .counter,
            "Bytes taken from copies kept here instead of from other sites, without zeros."
        ) { $0.add(counts.savedByteCount) }
        text.add("godwit_fault_seconds", .histogram, "Reads of bytes that were at another site, served.") {
            $0.add(counts.faults)
        }
        text.add("godwit_fault_failures_total", .counter, "Reads that failed because bytes did not come.") {
            $0.add(counts.failedFaultCount)
        }
    }

    private func addRepairs(to text: inout MetricsText) {
        let byteCount = site.context.repairedByteCount.load(ordering: .relaxed)
        text.add(
            "godwit_repaired_bytes_total", .counter,
            "Bytes that the disk had damaged and that were restored from other copies."
        ) { $0.add(byteCount) }
    }

    private func addMisconduct(to text: inout MetricsText) {
        let misconduct = site.context.misconduct
        text.add(
            "godwit_peer_refused_messages_total", .counter,
            "Messages of other sites that were refused because no sound site sends them."
        ) { family in
            for (peer, count) in misconduct.messageCounts.sorted(by: { $0.key < $1.key }) {
                family.add(count, [("peer", peer.description)])
            }
        }
        text.add(
            "godwit_peer_refused_connections_total", .counter,
            "Connections to the port for peers that were closed because too many were open."
        ) { $0.add(misconduct.connectionCount) }
    }

    // MARK: volumes

    private func addVolumes(to text: inout MetricsText, _ volumes: [VolumeSummary]) {
        func add(
            _ name: String, _ help: String, _ kind: MetricsText.Kind = .gauge,
            _ value: (VolumeSummary) -> UInt64?
        ) {
            text.add("godwit_volume_" + name, kind, help) { family in
                for volume in volumes {
                    if let value = value(volume) { family.add(value, [("volume", volume.record.name)]) }
                }
            }
        }
        add("owned", "Whether this site owns it.") {
            if case .owning = $0.record.head.role { 1 } else { 0 }
        }
        add("mounts", "How often it is mounted here.") { UInt64($0.mounts.count) }
        add("trouble", "Whether something is wrong with its disk, head or mount.") {
            $0.trouble == nil ? 0 : 1
        }
        add("waiting", "Whether bytes that are still elsewhere do not arrive.") {
            $0.waitingReason.isEmpty ? 0 : 1
        }
        add("divergences", "States that were written here while overruled, and are nowhere else.") {
            UInt64($0.record.head.divergences.count)
        }
        add("capacity_bytes", "Its capacity.") { $0.record.capacity }
        // Of heads that are open: a scrape opens none.
        add("allocated_bytes", "What its files take of the capacity.") {
            $0.isOpen ? $0.allocatedByteCount : nil
        }
        add("inodes", "Files and directories.") { $0.isOpen ? $0.inodeCount : nil }
        add("data_bytes", "Bytes of its files, here or not.") { $0.isOpen ? $0.totalByteCount : nil }
        add("missing_bytes", "Bytes that are still at another site.") {
            $0.isOpen ? $0.missingByteCount : nil
        }
        add("names_arriving", "Whether names are still at another site.") {
            $0.isOpen ? ($0.namesAreArriving ? 1 : 0) : nil
        }
        add("hydration_received_bytes_total", "Received for this head since it was opened.", .counter) {
            $0.progress?.receivedByteCount
        }
        add("hydration_saved_bytes_total", "Taken from a copy here since it was opened.", .counter) {
            $0.progress?.savedByteCount
        }
        add(
            "hydration_needed_bytes_total", "Of both, waited for by applications, or fetched ahead and read.",
            .counter
        ) {
            $0.progress == nil ? nil : $0.neededByteCount
        }
        add("hydration_ahead_bytes_total", "Of both, fetched ahead of applications.", .counter) {
            $0.progress == nil ? nil : $0.prefetchedByteCount
        }
        add("hydration_ahead_read_bytes_total", "Of those, read by applications since.", .counter) {
            $0.progress == nil ? nil : $0.prefetchedReadByteCount
        }
        add("copy_bytes", "What copies take that are kept in case the volume returns.") {
            $0.record.copies.values.reduce(0) { $0 &+ $1.byteCount }
        }
        add("faults_total", "Served for this head since it was opened.", .counter) { $0.progress?.faultCount }
        text.add("godwit_volume_resident_ratio", .gauge, "The share of its bytes that is here, 0 to 1.") {
            for volume in volumes where volume.isOpen {
                $0.add(volume.residentRatio, [("volume", volume.record.name)])
            }
        }
    }
}

extension VolumeSummary {
    /// 1 only when nothing is missing.
    fileprivate var residentRatio: Double {
        guard missingByteCount > 0 else { return namesAreArriving ? 0 : 1 }
        let resident = totalByteCount - min(totalByteCount, missingByteCount)
        return totalByteCount == 0 ? 0 : min(Double(resident) / Double(totalByteCount), 1 - Double.ulpOfOne)
    }
}
