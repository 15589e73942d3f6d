internal import Crypto
package import Foundation
internal import VolumeModel

/// The directories that an identity is read from.
package struct IdentitySource: Hashable, Sendable {
    /// One of the nodes of a site.
    private struct Member: Hashable {
        let node: String
        let siteKeys: String
    }

    /// Our own, to which we write.
    package let directory: String
    /// A mounted directory with trust documents, `NAME.trust` each, beside those in our own; nil: none.
    package let peersFrom: String?
    private let member: Member?

    /// Of keys that were made in the directory.
    package init(directory: String, peersFrom: String? = nil) {
        (self.directory, self.peersFrom, member) = (directory, peersFrom, nil)
    }

    /// Of a node whose keys are made out of its site's.
    ///
    /// - Parameters:
    ///   - node: its host's name, in whatever case.
    ///   - siteKeys: a mounted directory with the site's `authority.pem`.
    package init(node: String, siteKeys: String, directory: String, peersFrom: String? = nil) {
        (self.directory, self.peersFrom) = (directory, peersFrom)
        member = Member(node: node, siteKeys: siteKeys)
    }

    /// What had to be made to have the identity.
    package enum Change: Hashable, Sendable {
        case none
        case firstKeys
        /// A new leaf: the old one was due, of another name or damaged.
        case newLeaf
        /// The site has another authority than it had: others must trust it anew.
        case otherAuthority
    }

    /// What is told when the site's authority is another one.
    package static let otherAuthorityNotice =
        "the site's keys were replaced: other sites must trust it anew, with its new document"

    /// The identity. A node's is first made, or made anew, as its site's keys demand.
    package func load(now: Date = Date()) throws(IdentityError) -> (identity: SiteIdentity, change: Change) {
        let change = try member.map { member throws(IdentityError) in try make(member, now) } ?? .none
        return (try SiteIdentity(loading: self), change)
    }

    private func make(_ member: Member, _ now: Date) throws(IdentityError) -> Change {
        let given = try siteAuthority(member)
        guard let name = SiteID(node: member.node, of: given.site) else {
            throw .malformed(
                "a node cannot be named '\(member.node.prefix(300))' in site \(given.site): it is made of a–z, 0–9, '-' and '.'"
            )
        }
        try given.certificate.checkEnd(of: given.site, isAuthority: true, now: now)
        let keys = KeyDirectory(path: directory)
        try keys.make()
        return try keys.locked { () throws(IdentityError) in
            var change = Change.firstKeys
            if let known = try SiteIdentity.authority(in: keys) {
                guard known.site == given.site else {
                    throw .file(
                        path: member.siteKeys,
                        "these are the keys of site \(given.site), and \(directory) holds those of site \(known.site)"
                    )
                }
                guard known.certificate != given.certificate else {
                    guard try !hasGoodLeaf(keys, of: name, given, now) else { return .none }
                    try SiteIdentity.writeLeaf(of: name, authority: given, to: keys, now: now)
                    return .newLeaf
                }
                change = .otherAuthority
            }
            // A crash between the two is mended by the next call: the authority is still not the one that is given.
            try SiteIdentity.writeLeaf(of: name, authority: given, to: keys, now: now)
            try keys.write(given.pem, to: SiteIdentity.authorityFile)
            return change
        }
    }

    private func siteAuthority(_ member: Member) throws(IdentityError) -> SiteAuthority {
        let file = SiteIdentity.authorityFile
        guard let text = try MountedDirectory(path: member.siteKeys).read(file, isSecret: true) else {
            throw .file(
                path: member.siteKeys,
                "there is no \(file): make the Secret with 'kubectl godwit init', or mount the one that has it"
            )
        }
        return try SiteAuthority(text, from: "\(member.siteKeys)/\(file)")
    }

    /// - Throws: when the file is there and cannot be read, or can be read by others.
    private func hasGoodLeaf(
        _ keys: KeyDirectory, of name: SiteID, _ authority: SiteAuthority, _ now: Date
    ) throws(IdentityError) -> Bool {
        let file = SiteIdentity.leafFile
        guard let text = try keys.read(file, isSecret: true),
            let leaf = try? SiteIdentity.leaf(text, from: file, of: authority)
        else { return false }
        return leaf.name == name
            && !SiteIdentity.isRenewalDue(leaf.pair.certificate, of: authority.certificate, now: now)
    }

    /// Changes with every change of what is in the directories that a value loaded from them would tell: our keys and
    /// whom we trust. Cheap enough for every second.
    package func stamp() throws(IdentityError) -> String {
        let keys = KeyDirectory(path: directory)
        let peers = KeyDirectory(path: directory + "/peers")
        var digest = SHA256()
        func add(_ text: String?) { digest.update(data: Data((text.map { "+" + $0 } ?? "-").utf8)) }
        for name in [SiteIdentity.authorityFile, SiteIdentity.leafFile] {
            add(try keys.read(name, isSecret: true))
        }
        if let member {
            add(try MountedDirectory(path: member.siteKeys).read(SiteIdentity.authorityFile, isSecret: true))
        }
        for name in try peers.names() where name.hasSuffix(".pem") {
            add(name)
            // One that is damaged is distrusted, and changes nothing else.
            add((try? peers.read(name)) ?? nil)
        }
        if let peersFrom {
            let mounted = MountedDirectory(path: peersFrom)
            for name in try mounted.names(endingWith: SiteIdentity.mountedEnd) {
                add(name)
                add((try? mounted.read(name)) ?? nil)
            }
        }
        return digest.finalize().map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}
