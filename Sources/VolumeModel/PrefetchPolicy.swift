/// What of a volume's bytes that are elsewhere is fetched before anybody reads it. Names always are.
package enum PrefetchPolicy: String, CaseIterable, Sendable, Codable {
    /// What the application reads when it starts, then all the rest.
    case all
    /// Only what the application reads when it starts, as far as that is known or can be guessed.
    case start
    /// Nothing, but what follows a read in the same file.
    case nothing = "none"
}
