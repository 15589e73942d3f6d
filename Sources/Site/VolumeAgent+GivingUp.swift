internal import Handoff
internal import Logging
internal import VolumeModel

/// What this process knows of wishes to own a volume here.
struct OwningWishes {
    /// When one was last uttered, or renewed.
    var lastUttered = ContinuousClock.now
    /// How often they were given up: who waits for one meanwhile begins no other.
    var givenUpCount = 0
}

/// The end of a wish to own the volume that has not come to its end.
///
/// A hand-over that was begun goes on by itself, also when whoever began it was told of an error. Until this site owns the
/// volume it can be given up: by a person, or when nobody has asked for it for long. What is given up is declined for good,
/// durably and before anybody is told: an owner that has sealed goes on when it hears of it, and no other way.
extension VolumeAgent {
    /// After this a wish that nobody has renewed is given up. Kubernetes asks again every five minutes at least while a
    /// pod waits, and a migration of a claim every few seconds.
    static let wishPatience: Duration = .seconds(3600)

    /// Gives up what was begun here: asking for the volume, or, where it is sealed here for another site, wanting it back.
    /// It is durable when this returns, whether or not the other site could be told. May be repeated.
    ///
    /// - Throws: `.precondition` when it is too late, or nothing of the kind.
    func giveUp() async throws {
        try checkServed()
        // Also of who is only about to ask.
        wishes.givenUpCount += 1
        guard try isWished() else { return }
        let before = record.head.role
        do {
            try await apply(.abort)
        } catch {
            guard record.head.role != before else { throw error }
            logger.debug("the other site will be told later: \(error)")
        }
        // The last that it waited for may have come just before.
        if try !isWished() { logger.notice("given up: \(before)") }
    }

    /// Gives up what nobody has asked for since.
    func giveUpIfForgotten(after patience: Duration = wishPatience) async {
        switch record.head.role {
        case .acquiring, .receiving: break
        // At home it harms nobody.
        case .reclaiming, .following, .declining, .owning, .sealing, .sealed, .retired, .fenced: return
        }
        guard !isAskingOwner, ContinuousClock.now - wishes.lastUttered >= patience else { return }
        do {
            try await giveUp()
        } catch {
            logger.debug("given up later: \(error)")
        }
    }

    /// - Throws: `.precondition` when something has been given up since.
    func checkNotGivenUp(since count: Int) throws {
        guard wishes.givenUpCount == count else {
            throw SiteError.precondition(
                "volume '\(record.name)' is not taken over: that was given up at site \(context.site)")
        }
    }

    /// Whether there is a wish to give up; it may have been.
    private func isWished() throws -> Bool {
        switch record.head.role {
        case .acquiring, .receiving, .reclaiming: return true
        case .following, .declining, .retired, .sealed: return false
        case .owning(let epoch, _):
            throw SiteError.precondition(
                "volume '\(record.name)' is owned here, at epoch \(epoch): that cannot be given up any more, only handed "
                    + "on ('godwit migrate')")
        case .sealing(_, let heir):
            throw SiteError.precondition(
                "volume '\(record.name)' is being handed to \(heir): mount it here to have it back, or give "
                    + "it up there")
        case .fenced(let epoch, let by, _): throw HandoffError.overruled(under: epoch, by: by)
        }
    }
}

extension Role {
    /// Whether the site waits for another one, to own the volume.
    var isWish: Bool {
        switch self {
        case .acquiring, .receiving, .reclaiming: true
        case .following, .declining, .owning, .sealing, .sealed, .retired, .fenced: false
        }
    }
}
