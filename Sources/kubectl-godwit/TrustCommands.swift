internal import ArgumentParser
internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import SiteIdentity
internal import VolumeModel

/// `kubectl godwit trust`
struct Trust: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trust",
        abstract:
            "Trust the site of a document that 'kubectl godwit show' or 'godwit pki show' printed there.",
        discussion: """
            It is kept in the Secret \(ClusterNames.peers), from where every node takes it up within a minute or two. If \
            somebody might have changed it on its way, compare the fingerprints over another channel. Both sites must \
            trust each other.

            Example: kubectl godwit trust sydney.trust
            """)

    @OptionGroup var cluster: ClusterOptions
    @Argument(help: "The document's file; '-' for standard input.") var file: String
    @Flag(help: "Accept other keys for a site that is trusted already.") var replace = false

    func run() async throws {
        let text = try Self.read(file)
        try await SecretTrust.run(cluster) { secrets in
            let site = try KeptTrust.site(of: text)
            let own = try await secrets.ownSiteIfVisible()
            let peer = try await secrets.change(KeptTrust.name(of: site)) { known in
                try KeptTrust.accept(text, over: known, at: own, replacing: replace)
            }
            Terminal.print("site \(peer.site) is trusted, fingerprint \(peer.fingerprint)")
        }
    }

    private static func read(_ file: String) throws -> String {
        guard let handle = file == "-" ? .standardInput : FileHandle(forReadingAtPath: file) else {
            throw ValidationError("cannot read '\(file)'")
        }
        var data = Data()
        // More than this is no trust document, whatever it is.
        while data.count <= 65_536, let part = try handle.read(upToCount: 65_536), !part.isEmpty {
            data += part
        }
        return String(decoding: data, as: UTF8.self)
    }
}

/// `kubectl godwit distrust`
struct Distrust: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "distrust", abstract: "End the trust in a site.",
        discussion: "Example: kubectl godwit distrust sydney")

    @OptionGroup var cluster: ClusterOptions
    @Argument(help: "The site's name.") var name: String

    func validate() throws { _ = try SecretTrust.site(name) }

    func run() async throws {
        let site = try SecretTrust.site(name)
        try await SecretTrust.run(cluster) { secrets in
            let was = try await secrets.remove(KeptTrust.name(of: site))
            Terminal.print(was ? "site \(site) is not trusted any more" : "site \(site) was not trusted")
        }
    }
}
