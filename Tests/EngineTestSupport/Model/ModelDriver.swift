package import VolumeFileSystem
package import VolumeModel

/// A way to use a volume, by which what the model says is done and looked at.
///
/// Only what is common to all of them is compared: not how many blocks a file takes, nor access times that a read has
/// moved. Inodes are named by nodes of the model as it is before the operation.
package protocol ModelDriver: AnyObject {
    /// The volume as it is driven now: another object after each restart.
    var volume: TestVolume { get }
    /// On whose behalf everything is done.
    var caller: Caller { get }
    /// How long what was closed and removed may still be there.
    var patience: Duration { get }
    /// Whether an open file keeps the directory that it was opened in, though that was removed: the kernel's name of it leads
    /// there, as on every file system.
    var keepsDirectories: Bool { get }
    /// Whether files are read also after whoever reads them has got what was asked for: nobody knows their access times.
    var readsAhead: Bool { get }

    /// What is answered before the file system is asked; nil: it is asked.
    func refusal(of operation: ModelOperation) -> Errno?

    /// - Returns: the number of the inode that was made, if one was.
    func perform(
        _ operation: ModelOperation, in model: Model
    ) async throws(FileSystemError) -> InodeNumber?

    /// Does what has to be done before a node is named by its number.
    func reach(_ node: Model.Node, in model: Model) async throws(FileSystemError)
    /// Told once, when neither a name nor a handle leads to a node any more.
    func letGo(of node: Model.Node) async throws

    /// - Returns: what stat(2) tells of each.
    func attributes(of nodes: [Model.Node], in model: Model) async throws(FileSystemError) -> [FileAttributes]
    func read(_ target: ModelTarget, _ range: Range<Int>, in model: Model) async throws(FileSystemError)
        -> [UInt8]
    /// SEEK_DATA and SEEK_HOLE of lseek(2).
    func seek(_ target: ModelTarget, _ offset: Int, toHole: Bool, in model: Model)
        async throws(FileSystemError)
        -> Int
    func list(_ directory: Model.Node, in model: Model) async throws(FileSystemError) -> [String: InodeNumber]
    func target(of link: Model.Node, in model: Model) async throws(FileSystemError) -> [UInt8]
    func extendedAttributes(of node: Model.Node, in model: Model) async throws(FileSystemError)
        -> [String: [UInt8]]

    /// Makes whoever caches what it was told forget that. Nothing is open.
    func forgetAll() async throws

    /// Ends the use of the volume, and closes it.
    ///
    /// - Parameter isHandedOver: what is open stays so, for the next use.
    /// - Returns: what is to be told to whoever opens it.
    func end(isHandedOver: Bool) async throws -> OpenFiles?
    /// Begins the next use, of the volume as it was opened anew.
    func begin(_ volume: TestVolume) async throws
}
