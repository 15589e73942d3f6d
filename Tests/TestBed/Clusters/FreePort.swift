internal import Glibc
internal import Synchronization

/// A port of loopback that nobody listens at, below those that the kernel gives to whoever connects: one of those would
/// be taken again before a server gets to it. None is given twice: who was given it before may not listen yet.
package func freePort() throws -> UInt16 {
    for _ in 0..<1000 {
        let port = UInt16.random(in: 18_000..<32_000)
        guard try isFree(port), given.withLock({ $0.insert(port).inserted }) else { continue }
        return port
    }
    throw LabError.invalid("no free port between 18000 and 32000")
}

private let given = Mutex<Set<UInt16>>([])

private func isFree(_ port: UInt16) throws -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { throw LabError.invalid("no socket: errno \(errno)") }
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    return withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
    }
}
