internal import Glibc

/// Keeps the kernel's ends of mounts while their server is being replaced.
///
/// A server that ends in order puts them here, the next one takes them. While a server runs nothing of it is here: the
/// kernel ends a connection when its last descriptor is closed, and so a crash is noticed at once by whoever uses the
/// mount; with a second descriptor here every request would wait for a server that knows nothing of what the last one
/// had accepted. This process does nothing else, for it must not end as long as something is kept.
package final class MountHolder {
    /// Mounts at a time. More are refused; the server then ends them as it would without a holder.
    package static let mountLimit = 1024
    /// Connections at a time. A new one takes the place of the oldest: a request and its answer take no time.
    static let connectionLimit = 32

    private let socket: Int32
    /// Locked for as long as this process lives.
    private let lock: Int32
    private var mounts: [String: HeldMount] = [:]
    private var connections: [Int32] = []

    /// Listens at a path, in whose directory only root may be able to make names; a socket left there goes.
    ///
    /// - Throws: `.inUse` when another process listens there.
    package init(at path: String) throws(HolderError) {
        lock = open(path + ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard lock >= 0 else { throw .system(call: "open \(path).lock", number: errno) }
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            let number = errno
            close(lock)
            throw number == EWOULDBLOCK ? .inUse(path: path) : .system(call: "flock", number: number)
        }
        socket = try HolderSocket.make(nonBlocking: true)
        unlink(path)
        let before = umask(0o177)
        defer { umask(before) }
        let socket = self.socket
        guard try HolderSocket.with(path, { bind(socket, $0, $1) }) == 0 else {
            throw .system(call: "bind \(path)", number: errno)
        }
        guard listen(socket, 16) == 0 else { throw .system(call: "listen", number: errno) }
    }

    /// Answers for ever.
    package func run() -> Never {
        while true {
            var polled = ([socket] + connections).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            // Interrupted, nothing is marked.
            if poll(&polled, nfds_t(polled.count), -1) < 0 { continue }
            for item in polled.dropFirst() where item.revents != 0 {
                if !answer(item.fd) {
                    connections.removeAll { $0 == item.fd }
                    close(item.fd)
                }
            }
            if polled[0].revents != 0 { admit() }
        }
    }

    private func admit() {
        let connection = accept(socket, nil, nil)
        guard connection >= 0 else {
            // No descriptors left, for example: not a thing to try a million times a second.
            if errno != EAGAIN { usleep(10_000) }
            return
        }
        guard (try? HolderSocket.user(of: connection)) == 0, fcntl(connection, F_SETFL, O_NONBLOCK) == 0
        else {
            close(connection)
            return
        }
        if connections.count >= Self.connectionLimit { close(connections.removeFirst()) }
        connections.append(connection)
    }

    /// - Returns: false when the connection is over.
    private func answer(_ connection: Int32) -> Bool {
        let message: (bytes: [UInt8], descriptors: [Int32])
        do {
            message = try HolderSocket.receive(limit: 2 + HolderRequest.nameLimit + 1, from: connection)
        } catch {
            if case .system(_, EAGAIN) = error { return true }
            return false
        }
        let passed = message.descriptors
        guard let request = HolderRequest(message.bytes) else {
            for descriptor in passed { close(descriptor) }
            // An end has no bytes. Whatever else it was: who speaks otherwise is not listened to.
            if !message.bytes.isEmpty {
                try? HolderSocket.send(HolderReply.refused("this is no request").bytes, to: connection)
            }
            return false
        }
        switch request {
        case .put(let name) where passed.count == 2:
            return send(keep(HeldMount(device: passed[0], state: passed[1]), name), to: connection)
        case .put, .take, .drop, .list:
            guard passed.isEmpty else {
                for descriptor in passed { close(descriptor) }
                return send(.refused("wrong descriptors"), to: connection)
            }
        }
        guard case .take(let name) = request else { return send(reply(to: request), to: connection) }
        guard let mount = mounts[name] else { return send(.missing, to: connection) }
        // What cannot be sent stays.
        guard mount.withDescriptors({ send(.done, $0, to: connection) }) else { return false }
        mounts[name] = nil
        return true
    }

    private func send(_ reply: HolderReply, _ descriptors: [Int32] = [], to connection: Int32) -> Bool {
        do {
            try HolderSocket.send(reply.bytes, descriptors, to: connection)
            return true
        } catch {
            return false
        }
    }

    private func keep(_ mount: HeldMount, _ name: String) -> HolderReply {
        guard mounts[name] != nil || mounts.count < Self.mountLimit else {
            return .refused("\(Self.mountLimit) mounts are kept already")
        }
        mounts[name] = mount
        return .done
    }

    private func reply(to request: HolderRequest) -> HolderReply {
        switch request {
        case .put, .take: return .refused("a mount is two descriptors")
        case .drop(let name):
            mounts[name] = nil
            return .done
        case .list(let after):
            var names: [String] = []
            var byteCount = 2
            for name in mounts.keys.sorted() where name > after {
                byteCount += 1 + name.utf8.count
                guard byteCount <= HolderReply.byteLimit else { break }
                names.append(name)
            }
            return .names(names)
        }
    }
}
