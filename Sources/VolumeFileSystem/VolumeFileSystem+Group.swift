internal import Catalog
internal import VolumeModel

extension VolumeFileSystem {
    /// Makes the root directory usable by a group, and what is made in it from now on the group's: what
    /// Kubernetes calls fsGroup, without walking the volume: what is there already keeps its group. May be repeated.
    package func giveToGroup(_ group: UInt32) throws(FileSystemError) {
        // Also on a full disk: somebody must get in to make room.
        try change(frees: true) { state in
            var root = try state.directory(.root)
            let permissions = root.attributes.permissions | 0o2070
            guard root.attributes.gid != group || root.attributes.permissions != permissions else { return }
            root.attributes.gid = group
            root.attributes.permissions = permissions
            root.attributes.changeTime = Self.now()
            try Self.noteModeChanged(of: .root, to: permissions, in: &state)
            try state.update(root, kind: .metadata)
        }
    }
}
