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
            runs 'godwit pki trust' with it. Compare the fingerprints over another channel if the way is not safe.
            """,
        subcommands: [Init.self, Show.self, Trust.self, Peers.self, Distrust.self, Renew.self])

    static func directory(_ options: SiteOptions) -> String { options.stateDirectory + "/pki" }

    struct Init: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make the keys of this site. Done already, it changes nothing.",
            discussion: "Example: godwit pki init --site london")

        @OptionGroup var site: SiteOptions
        @Option(name: .customLong("site"), help: "The site's name: a–z, 0–9 and '-'.") var name: String

        func run() async throws {
            guard let id = SiteID(name) else {
                throw ValidationError("a site's name is 1 to 63 of a–z, 0–9 and '-', not '\(name)'")
            }
            try await reporting {
                try FileManager.default.createDirectory(
                    atPath: site.stateDirectory, withIntermediateDirectories: true,
                    attributes: [.posixPermissions: 0o700])
                _ = try SiteIdentity.create(site: id, in: PKICommand.directory(site))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print what other sites need to trust this one. It holds no secret.",
            discussion: "Example: godwit pki show --address 203.0.113.7:7443 > london.trust")

        @OptionGroup var site: SiteOptions
        @Option(help: "Where peers reach this site, as host:port.") var address: String?

        func run() async throws {
            try await reporting {
                let identity = try SiteIdentity(loading: PKICommand.directory(site))
                print(try identity.trustDocument(address: address), terminator: "")
            }
        }
    }

    struct Trust: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Trust the site of a document that its 'godwit pki show' printed.",
            discussion: "Example: godwit pki trust sydney.trust")

        @OptionGroup var site: SiteOptions
        @Argument(help: "The document's file; '-' for standard input.") var file: String
        @Flag(help: "Accept other keys for a site that is trusted already.") var replace = false

        func run() async throws {
            try await reporting {
                let data =
                    file == "-"
                    ? FileHandle.standardInput.readDataToEndOfFile()
                    : try Data(contentsOf: URL(fileURLWithPath: file))
                let identity = try SiteIdentity(loading: PKICommand.directory(site))
                let peer = try identity.trust(String(decoding: data, as: UTF8.self), replacing: replace)
                print("site \(peer.site) is trusted, fingerprint \(peer.fingerprint)")
            }
        }
    }

    struct Peers: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the sites that are trusted here.", discussion: "Example: godwit pki peers --json")

        @OptionGroup var site: SiteOptions
        @Flag(help: "Print JSON, an array.") var json = false

        func run() async throws {
            try await reporting {
                let peers = try SiteIdentity(loading: PKICommand.directory(site)).peers()
                if json {
                    let objects = peers.map { peer in
                        var object = JSONObject()
                        object.add("site", peer.site.description)
                        object.add("address", peer.address ?? "")
                        object.add("fingerprint", peer.fingerprint)
                        object.add("expires", peer.expiry.ISO8601Format())
                        return object.text
                    }
                    print("[" + objects.joined(separator: ",\n ") + "]")
                    return
                }
                let rows = peers.map {
                    [$0.site.description, $0.address ?? "-", $0.expiry.ISO8601Format(), $0.fingerprint]
                }
                print(Text.table([["SITE", "ADDRESS", "EXPIRES", "FINGERPRINT"]] + rows))
            }
        }
    }

    struct Distrust: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End the trust in a site.", discussion: "Example: godwit pki distrust sydney")

        @OptionGroup var site: SiteOptions
        @Argument(help: "The site's name.") var name: String

        func run() async throws {
            guard let id = SiteID(name) else { throw ValidationError("'\(name)' is no name of a site") }
            try await reporting { try SiteIdentity(loading: PKICommand.directory(site)).distrust(id) }
        }
    }

    struct Renew: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a new certificate for this site, valid for 90 days from now.",
            discussion: "The site takes it up when it is started again. Peers need to do nothing.")

        @OptionGroup var site: SiteOptions

        func run() async throws {
            try await reporting { try SiteIdentity(loading: PKICommand.directory(site)).renewLeaf() }
        }
    }
}
