package import Logging
package import VolumeModel

/// A member of a site, and where its peers' port is.
package struct GatewayMember: Hashable, Sendable {
    /// `worker-1.london`; a site's own name where it has no other member.
    package let id: SiteID
    package let address: GatewayAddress

    package init(id: SiteID, address: GatewayAddress) { (self.id, self.address) = (id, address) }
}

/// host:port, an IPv6 host in brackets.
package struct GatewayAddress: Hashable, Sendable, CustomStringConvertible {
    package let host: String
    package let port: UInt16

    package init?(_ text: some StringProtocol) {
        guard text.utf8.count <= 270, let colon = text.lastIndex(of: ":") else { return nil }
        let digits = text[text.index(after: colon)...]
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits) else {
            return nil
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
            guard host.contains(":") else { return nil }
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty, host.utf8.allSatisfy({ (0x21...0x7e).contains($0) && !"/[]".utf8.contains($0) })
        else { return nil }
        (self.host, self.port) = (String(host), port)
    }

    package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// Where the members of a site are, as was last heard.
///
/// What was heard is used for as long as nothing newer is: while the registry is away, the members are where they were.
package actor MemberDirectory {
    package typealias Question = @Sendable () async throws -> [GatewayMember]

    /// Asked no more often than that, however many ask for what is not known.
    private static let shortestInterval: Duration = .seconds(1)
    /// Asked so often at least: another pod may have the address of one that is gone.
    private static let longestInterval: Duration = .seconds(10)
    /// A member that could not be reached is tried after the others for so long.
    private static let avoidance: Duration = .seconds(10)

    private let question: Question
    private let logger: Logger
    private var members: [GatewayMember] = []
    private var lastAsked: ContinuousClock.Instant?
    private var asking: Task<Void, Never>?
    private var lastFailure: String?
    private var unreachable: [GatewayAddress: ContinuousClock.Instant] = [:]
    private var turn = 0

    package init(logger: Logger, _ question: @escaping Question) {
        (self.logger, self.question) = (logger, question)
    }

    /// Why the members are not known of late; nil: they are.
    package var trouble: String? { lastAsked == nil ? "the members were not asked for yet" : lastFailure }

    /// Keeps what is known from growing old, until it is cancelled.
    package func run() async {
        while !Task.isCancelled {
            await ask()
            try? await Task.sleep(for: Self.longestInterval)
        }
    }

    /// Where those are that may answer for a name: its node, or of a site any of its members, another one first each
    /// time.
    ///
    /// - Parameter afresh: what is known did not help.
    func addresses(of name: SiteID, afresh: Bool = false) async -> [GatewayAddress] {
        var found = known(name)
        if afresh || found.isEmpty, lastAsked.map({ $0.duration(to: .now) >= Self.shortestInterval }) ?? true
        {
            await ask()
            found = known(name)
        } else if let asking {
            await asking.value
            found = known(name)
        }
        guard !found.isEmpty else { return [] }
        turn = (turn &+ 1) & 0xffff
        let start = turn % found.count
        let order = found[start...] + found[..<start]
        return order.filter { !isAvoided($0) } + order.filter { isAvoided($0) }
    }

    private func known(_ name: SiteID) -> [GatewayAddress] {
        members.filter { $0.id == name || (name.node == nil && $0.id.site == name) }.map(\.address)
    }

    private func isAvoided(_ address: GatewayAddress) -> Bool {
        unreachable[address].map { $0.duration(to: .now) < Self.avoidance } ?? false
    }

    func note(_ address: GatewayAddress, isReachable: Bool, reason: String = "") {
        if isReachable {
            if unreachable.removeValue(forKey: address) != nil {
                logger.notice("\(address) is reached again")
            }
        } else {
            if unreachable[address] == nil { logger.warning("\(address) cannot be reached: \(reason)") }
            unreachable[address] = .now
        }
    }

    /// One question at a time; whoever comes meanwhile waits for its answer.
    private func ask() async {
        if let asking { return await asking.value }
        lastAsked = .now
        let task = Task { await self.askNow() }
        asking = task
        await task.value
    }

    private func askNow() async {
        defer { asking = nil }
        do {
            let heard = try await question()
            if heard != members {
                let list = heard.map { "\($0.id) at \($0.address)" }.joined(separator: ", ")
                logger.notice("members: \(list.isEmpty ? "none" : list)")
            }
            members = heard
            let present = Set(heard.map(\.address))
            unreachable = unreachable.filter { present.contains($0.key) }
            lastFailure = nil
        } catch {
            if "\(error)" != lastFailure { logger.error("the site's members: \(error)") }
            lastFailure = "\(error)"
        }
    }
}
