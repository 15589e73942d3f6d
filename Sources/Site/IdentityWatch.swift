internal import Foundation
internal import Logging
internal import SiteIdentity

/// Follows the keys on disk: takes up new ones, and changes of trust, without a restart; renews the certificate in
/// time.
struct IdentityWatch: Sendable {
    private static let interval: Duration = .seconds(1)

    let context: SiteContext

    /// Until it is cancelled.
    ///
    /// - Parameter whenChanged: called after the context has the new identity.
    func run(_ whenChanged: @Sendable () async -> Void) async {
        let source = context.identity.source
        var known = try? source.stamp()
        var loading = Trouble()
        var renewal = Trouble()
        while !Task.isCancelled {
            try? await Task.sleep(for: Self.interval)
            do {
                // What fails is told once. Somebody else may renew it, or mend that, meanwhile.
                renewIfDue(&renewal)
                var stamp = try source.stamp()
                guard stamp != known else {
                    loading.end()
                    context.keysTrouble.withLock { $0 = renewal.text }
                    continue
                }
                var (fresh, change) = try source.load()
                if change != .none {
                    if change == .otherAuthority {
                        context.logger.warning("\(IdentitySource.otherAuthorityNotice)")
                    }
                    // Of what was made just now.
                    stamp = try source.stamp()
                    fresh = try source.load().identity
                }
                guard fresh.site == context.site else {
                    throw SiteError.unusable("\(source.directory) holds the keys of site \(fresh.site) now")
                }
                context.use(fresh)
                await whenChanged()
                known = stamp
                loading.end()
                let peers = try fresh.peers().map(\.site.description).joined(separator: ", ")
                context.logger.notice(
                    "new keys or trust: certificate until \(fresh.expiry.ISO8601Format()), peers: \(peers)")
                for (site, reason) in try fresh.damagedPeers() {
                    context.logger.error("site \(site) is not trusted, its document is damaged: \(reason)")
                }
            } catch {
                // Once: what is in use stays in use.
                if loading.note(error) { context.logger.error("the site's keys: \(error)") }
                context.keysTrouble.withLock { $0 = loading.text }
            }
        }
    }

    /// - Parameter trouble: why it could not be renewed, or is of no use.
    private func renewIfDue(_ trouble: inout Trouble) {
        let identity = context.identity
        guard identity.isRenewalDue() else {
            guard let wrong = identity.clockTrouble() else { return trouble.end() }
            if trouble.note(wrong) { context.logger.error("no site can be talked to: \(wrong)") }
            return
        }
        do {
            try identity.renewLeaf()
            context.logger.notice("the site's certificate was renewed")
            trouble.end()
        } catch {
            if trouble.note(error) {
                context.logger.error("the site's certificate cannot be renewed: \(error)")
            }
        }
    }

    /// What is wrong, told once.
    private struct Trouble {
        private var error: (any Error)?
        private(set) var text: String?

        mutating func end() { (error, text) = (nil, nil) }

        /// - Returns: whether it is another one than before.
        mutating func note(_ fresh: any Error) -> Bool {
            let isKnown =
                if let known = error as? IdentityError, let fresh = fresh as? IdentityError {
                    fresh.isSame(as: known)
                } else {
                    text == "\(fresh)"
                }
            guard !isKnown else { return false }
            (error, text) = (fresh, "\(fresh)")
            return true
        }
    }
}
