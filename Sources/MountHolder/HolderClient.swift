internal import Glibc

/// A server's way to the holder of the mounts. Each request is a connection of its own.
package struct HolderClient: Sendable {
    /// For each step. A holder answers at once, unless the machine stands still.
    private static let patienceSeconds = 10

    package let path: String

    package init(path: String) { self.path = path }

    /// Keeps a mount until it is taken; one that is kept under this name goes.
    package func put(_ mount: HeldMount, as name: String) throws(HolderError) {
        try Self.check(name)
        let connection = try connect()
        defer { close(connection) }
        try mount.withDescriptors { descriptors in
            Result { () throws(HolderError) in
                try HolderSocket.send(HolderRequest.put(name).bytes, descriptors, to: connection)
            }
        }.get()
        guard try reply(connection) == .done else { throw .malformed }
    }

    /// Takes a mount over, which is then kept by nobody but the caller.
    ///
    /// - Returns: nil when there is none of this name.
    package func take(_ name: String) throws(HolderError) -> HeldMount? {
        try Self.check(name)
        let connection = try connect()
        defer { close(connection) }
        try HolderSocket.send(HolderRequest.take(name).bytes, to: connection)
        let message = try HolderSocket.receive(limit: HolderReply.byteLimit, from: connection)
        guard message.descriptors.count == 2 else {
            for descriptor in message.descriptors { close(descriptor) }
            guard try Self.accept(message.bytes) == .missing else { throw .malformed }
            return nil
        }
        return HeldMount(device: message.descriptors[0], state: message.descriptors[1])
    }

    /// Lets a mount go, if there is one of this name.
    package func drop(_ name: String) throws(HolderError) {
        try Self.check(name)
        let connection = try connect()
        defer { close(connection) }
        try HolderSocket.send(HolderRequest.drop(name).bytes, to: connection)
        guard try reply(connection) == .done else { throw .malformed }
    }

    /// What is kept, of all servers.
    package func names() throws(HolderError) -> [String] {
        let connection = try connect()
        defer { close(connection) }
        var all: [String] = []
        while true {
            try HolderSocket.send(HolderRequest.list(after: all.last ?? "").bytes, to: connection)
            guard case .names(let more) = try reply(connection), all.count <= MountHolder.mountLimit else {
                throw .malformed
            }
            if more.isEmpty { return all }
            all += more
        }
    }

    private static func check(_ name: String) throws(HolderError) {
        guard (1...HolderRequest.nameLimit).contains(name.utf8.count), !name.utf8.contains(0) else {
            throw .refused("'\(name)' is no name")
        }
    }

    private func reply(_ connection: Int32) throws(HolderError) -> HolderReply {
        let message = try HolderSocket.receive(limit: HolderReply.byteLimit, from: connection)
        for descriptor in message.descriptors { close(descriptor) }
        return try Self.accept(message.bytes)
    }

    private static func accept(_ bytes: [UInt8]) throws(HolderError) -> HolderReply {
        guard let reply = HolderReply(bytes) else { throw .malformed }
        if case .refused(let reason) = reply { throw .refused(reason) }
        return reply
    }

    private func connect() throws(HolderError) -> Int32 {
        let connection = try HolderSocket.make()
        do throws(HolderError) {
            var limit = timeval(tv_sec: Self.patienceSeconds, tv_usec: 0)
            for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
                setsockopt(
                    connection, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
            }
            guard try HolderSocket.with(path, { Glibc.connect(connection, $0, $1) }) == 0 else {
                let number = errno
                throw number == ENOENT || number == ECONNREFUSED
                    ? .absent(path: path) : .system(call: "connect \(path)", number: number)
            }
            let user = try HolderSocket.user(of: connection)
            guard user == 0 else { throw .notRoot(user: user) }
        } catch {
            close(connection)
            throw error
        }
        return connection
    }
}
