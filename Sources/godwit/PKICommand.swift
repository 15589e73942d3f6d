internal import ArgumentParser
internal import Foundation
internal import SiteIdentity
internal import VolumeModel

/// `godwit pki …`
struct PKICommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pki", abstract: "Make a site's keys and exchange trust with other sites.",
        discussion: """
            On each side: 'godwit pki init' once, then give the output of 'godwit pki show' to the other, who \
            runs 'godwit pki trust' with it. If somebody might change it on its way, compare the fingerprints \
            over another channel. Both sides must trust each other.

            A site of several nodes has keys and trust of the Secrets that 'kubectl godwit init' and 'kubectl godwit \
            trust' make; what is told here of such a node is its own directory alone.

            Example, at london and then at sydney:
              godwit pki init --site london
              godwit pki show --address 203.0.113.7:7443 | ssh sydney godwit pki trust -
            """,
        subcommands: [Init.self, Show.self, Trust.self, Peers.self, Distrust.self, Renew.self])

    static func directory(_ options: SiteOptions) -> String { options.stateDirectory + "/pki" }

    static func load(_ options: SiteOptions) throws -> SiteIdentity {
        try SiteIdentity(loading: directory(options))
    }

    static func site(named name: String) throws -> SiteID {
        guard let site = SiteID(site: name) else {
            throw ValidationError("a site's name is 1 to 63 of a–z, 0–9 and '-', not '\(name)'")
        }
        return site
    }

    struct Init: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make the keys of this site. Done already, it changes nothing.",
            discussion: "Example: godwit pki init --site london")

        @OptionGroup var options: SiteOptions
        @Option(name: .customLong("site"), help: "The site's name: a–z, 0–9 and '-'.") var name: String

        func run() async throws {
            let site = try PKICommand.site(named: name)
            try await reporting {
                try FileManager.default.createDirectory(
                    atPath: options.stateDirectory, withIntermediateDirectories: true,
                    attributes: [.posixPermissions: 0o700])
                _ = try SiteIdentity.create(site: site, in: PKICommand.directory(options))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print what other sites need to trust this one. It holds no secret.",
            discussion: "Example: godwit pki show --address 203.0.113.7:7443 > london.trust")

        @OptionGroup var options: SiteOptions
        @Option(help: "Where peers reach this site, as host:port.") var address: String?

        func run() async throws {
            try await reporting {
                print(try PKICommand.load(options).trustDocument(address: address), terminator: "")
            }
        }
    }

    struct Trust: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Trust the site of a document that its 'godwit pki show' printed.",
            discussion: "Example: godwit pki trust sydney.trust")

        @OptionGroup var options: SiteOptions
        @Argument(help: "The document's file; '-' for standard input.") var file: String
        @Flag(help: "Accept other keys for a site that is trusted already.") var replace = false
        @Flag(help: "Print JSON, an object.") var json = false

        func run() async throws {
            try await reporting {
                let text = try PKICommand.read(file)
                let peer = try PKICommand.load(options).trust(text, replacing: replace)
                print(
                    json
                        ? PKICommand.json(peer).text
                        : "site \(peer.site) is trusted, fingerprint \(peer.fingerprint)")
            }
        }
    }

    struct Peers: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the sites that are trusted here.", discussion: "Example: godwit pki peers --json")

        @OptionGroup var options: SiteOptions
        @Flag(help: "Print JSON, an array.") var json = false

        func run() async throws {
            try await reporting {
                let identity = try PKICommand.load(options)
                let peers = try identity.peers()
                if json {
                    print("[" + peers.map { PKICommand.json($0).text }.joined(separator: ",\n ") + "]")
                } else {
                    let rows = peers.map {
                        [$0.site.description, $0.address ?? "-", $0.expiry.ISO8601Format(), $0.fingerprint]
                    }
                    print(Text.table([["SITE", "ADDRESS", "EXPIRES", "FINGERPRINT"]] + rows))
                }
                for (site, reason) in try identity.damagedPeers() {
                    let line = "godwit: site \(site) is not trusted, its document is damaged: \(reason)\n"
                    FileHandle.standardError.write(Data(line.utf8))
                }
            }
        }
    }

    struct Distrust: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End the trust in a site.", discussion: "Example: godwit pki distrust sydney")

        @OptionGroup var options: SiteOptions
        @Argument(help: "The site's name.") var name: String

        func run() async throws {
            let site = try PKICommand.site(named: name)
            try await reporting { try PKICommand.load(options).distrust(site) }
        }
    }

    struct Renew: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a new certificate for this site, valid for 90 days from now.",
            discussion: """
                A site that runs takes it up within seconds, and renews it by itself a month before its end. Peers
                need to do nothing.

                Example: godwit pki renew
                """)

        @OptionGroup var options: SiteOptions

        func run() async throws {
            try await reporting { try SiteIdentity.renewLeaf(in: PKICommand.directory(options)) }
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

    private static func json(_ peer: SiteIdentity.Peer) -> JSONObject {
        var object = JSONObject()
        object.add("site", peer.site.description)
        object.add("address", peer.address ?? "")
        object.add("fingerprint", peer.fingerprint)
        object.add("expires", peer.expiry.ISO8601Format())
        return object
    }
}
