internal import VolumeModel

/// Data of volumes that the registry does not name: most likely the registry is from a backup that is older than they.
extension Site {
    /// How often the state directory is looked through.
    private static let lookInterval: Duration = .seconds(300)

    /// Tells of each such directory once. Nothing is changed: what is there may be all that there is of a volume.
    ///
    /// What a crash has left amid a creation or a deletion looks the same, and a person can tell.
    func lookForUnregistered() async {
        guard lastUnregisteredLook.map({ ContinuousClock.now - $0 > Self.lookInterval }) ?? true else {
            return
        }
        lastUnregisteredLook = .now
        let state = context.state
        let found = (try? await onBlockingThread { state.volumes() }) ?? []
        // What was made since then is not among them, and what was deleted since then is not there any more.
        let unnamed = found.filter {
            !knows($0) && !isBeingMade($0) && !state.heads(of: $0).isEmpty
        }
        for id in unnamed where !unregistered.contains(id) {
            context.logger.error(
                """
                \(state.volume(id)) holds a volume that the registry does not name: the registry is from a backup, or a \
                crash left it amid a creation or a deletion. It is not served. Look before you delete it: \
                'godwit volume check' tells of such directories while the site is stopped
                """)
        }
        unregistered = Set(unnamed)
    }
}
