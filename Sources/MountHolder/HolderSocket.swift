internal import CLinux
internal import Glibc

/// The socket of a holder: Unix, with messages of a length.
enum HolderSocket {
    static func make(nonBlocking: Bool = false) throws(HolderError) -> Int32 {
        let kind = Int32(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue)
        let number = socket(AF_UNIX, nonBlocking ? kind | Int32(SOCK_NONBLOCK.rawValue) : kind, 0)
        guard number >= 0 else { throw .system(call: "socket", number: errno) }
        return number
    }

    /// Runs bind(2) or connect(2) with the address of a path.
    static func with(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws(HolderError) -> Int32 {
        var address = sockaddr_un()
        let room = MemoryLayout.size(ofValue: address.sun_path)
        let name = Array(path.utf8)
        guard path.hasPrefix("/"), name.count < room, !name.contains(0) else { throw .invalidPath(path) }
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }

    static func user(of socket: Int32) throws(HolderError) -> UInt32 {
        var user: UInt32 = 0
        guard gw_peer_user(socket, &user) == 0 else { throw .system(call: "getsockopt", number: errno) }
        return user
    }

    static func send(
        _ bytes: [UInt8], _ descriptors: [Int32] = [], to socket: Int32
    ) throws(HolderError) {
        let count = bytes.withUnsafeBytes { bytes in
            descriptors.withUnsafeBufferPointer { descriptors in
                bytes.baseAddress.map {
                    gw_send_descriptors(
                        socket, $0, UInt64(bytes.count), descriptors.baseAddress, Int32(descriptors.count))
                } ?? -1
            }
        }
        guard count == bytes.count else { throw .system(call: "sendmsg", number: errno) }
    }

    /// - Returns: one message, with the descriptors beside it, which are the caller's; empty at the end.
    static func receive(
        limit: Int, from socket: Int32
    ) throws(HolderError) -> (bytes: [UInt8], descriptors: [Int32]) {
        var bytes = [UInt8](repeating: 0, count: limit)
        var descriptors = [Int32](repeating: -1, count: Int(GW_PASSED_LIMIT))
        var passed: Int32 = 0
        let count = bytes.withUnsafeMutableBytes { bytes in
            descriptors.withUnsafeMutableBufferPointer { descriptors -> Int64 in
                guard let base = bytes.baseAddress, let first = descriptors.baseAddress else { return -1 }
                return gw_receive_descriptors(
                    socket, base, UInt64(bytes.count), first, Int32(descriptors.count), &passed)
            }
        }
        guard count >= 0 else { throw .system(call: "recvmsg", number: errno) }
        return (Array(bytes.prefix(Int(count))), Array(descriptors.prefix(Int(passed))))
    }
}
