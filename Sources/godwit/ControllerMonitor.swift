internal import Cluster
internal import ClusterResources
internal import Monitoring

/// What `godwit controller` answers to probes and scrapes.
enum ControllerMonitor {
    static func reply(_ path: String, _ figures: ControllerFigures) -> MonitoringReply {
        switch path {
        case "/healthz":
            if let complaint = figures.complaint() { return MonitoringReply(503, complaint + "\n") }
            return MonitoringReply(200, "ok\n")
        case "/metrics":
            return MonitoringReply(
                200, text(figures.snapshot).text, contentType: MetricsText.contentType)
        default: return MonitoringReply(404, "here are /healthz and /metrics\n")
        }
    }

    private static func text(_ figures: ControllerFigures.Snapshot) -> MetricsText {
        var text = MetricsText()
        text.add("godwit_controller_leading", .gauge, "1: this controller works; the others wait.") {
            $0.add(figures.isLeading ? 1 : 0 as UInt64)
        }
        text.add("godwit_controller_looks_total", .counter, "Looks at claims, by what became of them.") {
            for look in ControllerFigures.Look.allCases {
                $0.add(figures.looks[look] ?? 0, [("outcome", look.rawValue)])
            }
        }
        text.add("godwit_controller_looks", .gauge, "Looks at claims that are under way.") {
            $0.add(figures.runningLooks)
        }
        text.add(
            "godwit_controller_api_failures_total", .counter,
            "What the cluster's API failed of watches, lists and reports; each is tried again."
        ) { $0.add(figures.apiFailures) }
        if figures.isLeading {
            text.add("godwit_migrations", .gauge, "Migrations in the cluster.") {
                $0.add(figures.migrations[nil] ?? 0, [("phase", "New")])
                for phase in MigrationResource.Phase.allCases {
                    $0.add(figures.migrations[phase] ?? 0, [("phase", phase.rawValue)])
                }
            }
        }
        text.addProcess()
        return text
    }
}
