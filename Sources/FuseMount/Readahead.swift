internal import Glibc
internal import HostMounts

/// How far the kernel reads ahead in files of a mount. It begins with 128 KiB, and for each of these a sequential reader
/// waits for an answer of ours.
enum Readahead {
    /// A mount that cannot be widened reads as far ahead as it did.
    static func widen(ofMountAt path: String, to byteCount: Int) {
        // From the kernel's table: the mount itself may not answer yet.
        guard let mount = try? MountTable.entry(at: path), mount.type == "fuse.godwit",
            let file = fopen("/sys/class/bdi/\(mount.device)/read_ahead_kb", "we")
        else { return }
        fputs("\(byteCount >> 10)", file)
        fclose(file)
    }
}
