internal import ClusterResources
internal import KubernetesAPI

/// What Godwit's controller tells of a claim.
struct ClaimEvents {
    private let client: KubernetesClient
    private let claim: String
    private let namespace: String
    /// How often each had been told when it was last looked at.
    private var seen: [String: Int32] = [:]

    init(_ client: KubernetesClient, of claim: String, in namespace: String) {
        self.client = client
        self.claim = claim
        self.namespace = namespace
    }

    /// The latest, oldest first; none if the user may not read them.
    func latest(_ count: Int) async throws(KubernetesError) -> [EventView] {
        let fields = "involvedObject.kind=PersistentVolumeClaim,involvedObject.name=\(claim)"
        let events: [EventView]
        do {
            events = try await client.list(EventView.self, in: namespace, fields: fields).items
        } catch .forbidden {
            return []
        }
        return events.filter { $0.source?.component == ClusterNames.eventSource }
            .sorted { ($0.lastTimestamp ?? "") < ($1.lastTimestamp ?? "") }.suffix(count)
    }

    /// What was told, or told again, since the last call.
    mutating func news() async throws(KubernetesError) -> [EventView] {
        var news: [EventView] = []
        for event in try await latest(.max) {
            let name = event.metadata.name ?? ""
            let count = event.count ?? 1
            if seen[name] != count { news.append(event) }
            seen[name] = count
        }
        return news
    }
}
