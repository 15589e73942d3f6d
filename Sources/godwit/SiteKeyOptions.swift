internal import ArgumentParser
internal import Foundation
internal import Logging
internal import SiteIdentity

/// Where a site that is one of several nodes has its keys and its trust from.
struct SiteKeyOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "A directory with the keys of a site of several nodes, such as the mounted Secret that 'kubectl godwit "
                + "init' makes: this is one of its nodes then, named by --node, with a certificate of its own. New keys "
                + "there are taken up. None: the keys are those of 'godwit pki'.", valueName: "dir"))
    var siteKeys: String?
    @Option(
        help: ArgumentHelp(
            "A directory with trust documents, NAME.trust each, such as the mounted Secret that 'kubectl godwit trust' "
                + "fills: whom they name is trusted as by 'godwit pki trust', for as long as they are there.",
            valueName: "dir"))
    var peersFrom: String?

    /// The identity that they give, with what was noteworthy about it in the log.
    func identity(in directory: String, node: String?, _ logger: Logger) throws -> SiteIdentity {
        let source =
            siteKeys.map {
                IdentitySource(
                    node: node ?? ProcessInfo.processInfo.hostName, siteKeys: $0, directory: directory,
                    peersFrom: peersFrom)
            } ?? IdentitySource(directory: directory, peersFrom: peersFrom)
        let (identity, change) = try source.load()
        switch change {
        case .none: break
        case .firstKeys: logger.notice("keys for \(identity.site) were made from its site's")
        case .newLeaf: logger.notice("a new certificate for \(identity.site) was made")
        case .otherAuthority: logger.warning("\(IdentitySource.otherAuthorityNotice)")
        }
        for (site, reason) in try identity.damagedPeers() {
            logger.error("site \(site) is not trusted, its document is damaged: \(reason)")
        }
        return identity
    }
}
