internal import ArgumentParser
internal import ClusterResources
internal import KubernetesAPI
internal import VolumeModel

/// `kubectl godwit migrate`
struct Migrate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate", abstract: "Let a claim's volume move to another site.",
        discussion: """
            Annotates the claim; the controller does the rest. With --watch it is followed until every byte has arrived \
            or it has failed, and the controller's Events are shown. Ended at any time, the move goes on; begun again, \
            the display goes on where it is. Once the site is Ready, the pod there takes the volume over when it starts.

            Exit codes: 0 done (or asked for, without --watch), 1 failed or cancelled.

            Examples:
              kubectl godwit migrate data --to sydney --watch
              kubectl annotate pvc data godwit.dev/migrate-to-     # takes it back, before the hand-over
            """)

    @OptionGroup var cluster: ClusterOptions
    @Argument(help: "The claim.") var claim: String
    @Option(help: "The site that is to own it.") var to: String
    @Flag(name: .shortAndLong, help: "Follow it to its end.") var watch = false

    func validate() throws {
        guard SiteID(site: to) != nil else {
            throw ValidationError("'\(to)' is no site's name: letters a to z, digits and '-'")
        }
    }

    func run() async throws {
        try await cluster.withClient { client in
            let namespace = cluster.namespace ?? client.connection.namespace
            try await Self.check(client, claim, namespace)
            let earlier = try await client.find(MigrationResource.self, claim, in: namespace)
            var events = ClaimEvents(client, of: claim, in: namespace)
            _ = try await events.news()
            _ = try await client.patch(
                PersistentVolumeClaim.self, claim, in: namespace,
                ["metadata": ["annotations": .object([ClaimWishes.migrateTo: .string(to)])]])
            Terminal.print("persistentvolumeclaim/\(claim) is to move to \(to)")
            guard watch else {
                Terminal.print("follow it: kubectl godwit status \(claim) -n \(namespace)")
                return
            }
            try await follow(client, namespace, earlier, &events)
        }
    }

    /// What the controller would say later is said at once, as far as the user may look.
    private static func check(
        _ client: KubernetesClient, _ claim: String, _ namespace: String
    ) async throws {
        let object = try await client.get(PersistentVolumeClaim.self, claim, in: namespace)
        guard object.metadata.deletionTimestamp == nil else {
            try Terminal.fail("claim '\(claim)' is being deleted")
        }
        guard let name = object.spec.volumeName, !name.isEmpty else {
            try Terminal.fail("claim '\(claim)' has no volume yet: it can move when it is bound")
        }
        let volume: PersistentVolume?
        do throws(KubernetesError) {
            volume = try await client.find(PersistentVolume.self, name)
        } catch {
            guard case .forbidden = error else { throw error }
            return
        }
        if let volume, volume.spec.csi?.driver != ClusterNames.driver {
            try Terminal.fail(
                "the volume of claim '\(claim)' is not of \(ClusterNames.driver): it stays here")
        }
    }

    private func follow(
        _ client: KubernetesClient, _ namespace: String, _ earlier: MigrationResource?,
        _ events: inout ClaimEvents
    ) async throws {
        let started = ContinuousClock.now
        var display = MigrationDisplay(target: to, isTerminal: Terminal.isTerminal)
        var verdict = MigrationVerdict.unheard(isLate: false)
        while true {
            do throws(KubernetesError) {
                let migration = try await client.find(MigrationResource.self, claim, in: namespace)
                for event in try await events.news() { display.tell(event) }
                verdict = MigrationVerdict(
                    migration, target: to, earlier: earlier, waited: ContinuousClock.now - started)
            } catch {
                guard error.isTransient else { throw error }
                display.note("the cluster is asked again: \(error)")
            }
            display.show(verdict)
            switch verdict {
            case .unheard, .underWay: break
            case .done:
                display.end()
                return
            case .failed(let message):
                display.end()
                try Terminal.fail(message)
            }
            try await Task.sleep(for: .seconds(1))
        }
    }
}
