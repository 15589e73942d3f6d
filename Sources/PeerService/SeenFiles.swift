internal import Catalog
package import Hydration
internal import PeerProtocol
package import VolumeModel

/// Files of a head as its follower has them, which took the volume over by force from an owner that went back in time: the
/// numbers of that one's changes were given twice. Whoever changes a file's bytes sets the time of its last change, in either
/// life; so a file that says the same at both has not changed since they parted. What was done to it here after the takeover
/// is no part of that.
package struct SeenFiles: Sendable {
    struct File: Hashable, Sendable {
        let size: UInt64
        let changeTime: FileTime
        let modificationTime: FileTime

        init(_ attributes: FileAttributes) {
            size = attributes.size
            changeTime = attributes.changeTime
            modificationTime = attributes.modificationTime
        }

        init(_ message: Godwit_Peer_V1_SeenFile) {
            size = message.size
            changeTime = FileTime(seconds: message.changeSeconds, nanoseconds: message.changeNanoseconds)
            modificationTime = FileTime(
                seconds: message.modificationSeconds, nanoseconds: message.modificationNanoseconds)
        }
    }

    /// The name that the head has since it began.
    package let head: StateName
    let files: [InodeNumber: File]

    /// - Returns: nil when this head has not followed another, or it is not known which.
    package init?(_ inodes: some Sequence<InodeNumber>, of storage: HeadStorage) throws {
        guard let head = try storage.catalog.originHeadName() else { return nil }
        self.head = head
        var files: [InodeNumber: File] = [:]
        for inode in inodes where files[inode] == nil {
            files[inode] = try storage.catalog.perform {
                try $0.beginningRecord(of: inode).map { File($0.attributes) }
            }
        }
        self.files = files
    }

    /// - Returns: nil when the request names none.
    init?(_ request: Godwit_Peer_V1_ReadRequest) {
        guard let head = StateName(request.headName), request.seen.count <= PeerLimits.extentCount else {
            return nil
        }
        self.head = head
        files = Dictionary(request.seen.map { (InodeNumber($0.inode), File($0)) }) { _, last in last }
    }

    func write(to request: inout Godwit_Peer_V1_ReadRequest) {
        request.headName = .init(head.bytes)
        request.seen = files.map { inode, file in
            var message = Godwit_Peer_V1_SeenFile()
            message.inode = inode.number
            message.size = file.size
            message.changeSeconds = file.changeTime.seconds
            message.changeNanoseconds = file.changeTime.nanoseconds
            message.modificationSeconds = file.modificationTime.seconds
            message.modificationNanoseconds = file.modificationTime.nanoseconds
            return message
        }
    }
}
