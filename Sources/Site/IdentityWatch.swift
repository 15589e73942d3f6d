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
        var lastFailure: String?
        var lastRenewalFailure: String?
        while !Task.isCancelled {
            try? await Task.sleep(for: Self.interval)
            do {
                // What fails is told once. Somebody else may renew it, or mend that, meanwhile.
                lastRenewalFailure = renewIfDue(after: lastRenewalFailure)
                var stamp = try source.stamp()
                guard stamp != known else {
                    lastFailure = nil
                    context.keysTrouble.withLock { $0 = lastRenewalFailure }
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
                lastFailure = nil
                let peers = try fresh.peers().map(\.site.description).joined(separator: ", ")
                context.logger.notice(
                    "new keys or trust: certificate until \(fresh.expiry.ISO8601Format()), peers: \(peers)")
                for (site, reason) in try fresh.damagedPeers() {
                    context.logger.error("site \(site) is not trusted, its document is damaged: \(reason)")
                }
            } catch {
                // Once: what is in use stays in use.
                if "\(error)" != lastFailure { context.logger.error("the site's keys: \(error)") }
                lastFailure = "\(error)"
                context.keysTrouble.withLock { $0 = "\(error)" }
            }
        }
    }

    /// - Returns: why it could not be renewed.
    private func renewIfDue(after lastFailure: String?) -> String? {
        guard context.identity.isRenewalDue() else { return nil }
        do {
            try context.identity.renewLeaf()
            context.logger.notice("the site's certificate was renewed")
            return nil
        } catch {
            let failure = "\(error)"
            if failure != lastFailure {
                context.logger.error("the site's certificate cannot be renewed: \(failure)")
            }
            return failure
        }
    }
}
