/// A range of bytes of one file.
package struct Extent: Hashable, Sendable {
    package let inode: InodeNumber
    package let range: ByteRange

    package init(inode: InodeNumber, range: ByteRange) {
        self.inode = inode
        self.range = range
    }
}
