internal import Handoff
internal import Logging
internal import VolumeModel

/// Holding the volume for this node, and letting go of it.
extension VolumeAgent {
    /// Owns the volume and holds it for this node until it is detached, mounted or not.
    ///
    /// - Parameter attachment: how it is attached, in the words of whoever asks; empty: that is not known.
    /// - Returns: the epoch under which it is owned.
    /// - Throws: `.attachedOtherwise` when it is attached already, in another way.
    func attachExclusively(_ attachment: String) async throws -> Epoch {
        try await exclusively { agent in
            await agent.waitForEndings()
            let (node, name) = (agent.context.node, agent.record.name)
            var attachment = attachment
            var pod: String?
            if agent.record.head.readers.contains(where: { $0.node == node }) {
                throw SiteError.attachedToRead(name, at: node)
            }
            if case .owning(_, let holder?) = agent.record.head.role, holder.node == node { pod = holder.pod }
            if case .owning(_, let holder?) = agent.record.head.role, let present = holder.attachment,
                holder.node == node, !present.isEmpty
            {
                guard attachment.isEmpty || attachment == present else {
                    throw SiteError.attachedOtherwise(
                        "volume '\(name)' is attached to node '\(node)' as \(present) already, not as \(attachment): "
                            + "detach it first")
                }
                attachment = present
            }
            let epoch = try await agent.own()
            try await agent.apply(.attach(Holder(node: node, pod: pod, attachment: attachment)))
            return epoch
        }
    }

    /// Lets go of the volume. Where it is published and still mounted, whoever asks has given up what uses it: Kubernetes
    /// does so when a node has not said for six minutes that it let go of a pod that there is no more. Its mounts end then
    /// before anything else: they answer ENOTCONN, what they have accepted is safe, and only then may another node write.
    ///
    /// - Throws: `.precondition` when it is mounted without having been published.
    func detachExclusively() async throws {
        try await exclusively { agent in
            let node = agent.context.node
            await agent.waitForEndings()
            // Of an overruled owner's mounts nothing is left but errors.
            await agent.forsakeEarlierReigns()
            try await agent.endReading()
            try await agent.renounceReading()
            guard case .owning(_, let holder) = agent.record.head.role, holder?.attachment != nil else {
                if let path = agent.mounts.keys.first {
                    throw SiteError.precondition(
                        "volume '\(agent.record.name)' is not published here, and still mounted at \(path)")
                }
                try await agent.apply(.detach(node: node))
                return
            }
            // Also what was ended before, by a try that did not come to its end or with a process.
            let hasMounts = try !agent.mounts.isEmpty || agent.hasDeadMounts()
            for path in Array(agent.mounts.keys) {
                agent.logger.warning(
                    "detached while it is mounted at \(path): that mount ends, and its pod with it")
                await agent.forsake(path)
            }
            try await agent.apply(hasMounts ? .evict(node: node) : .detach(node: node))
        }
    }
}
