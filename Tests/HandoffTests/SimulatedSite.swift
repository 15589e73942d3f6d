import VolumeModel

@testable import Handoff

/// One site of the simulation: the record on its disk and in its memory, and a model of its data.
///
/// The data is, for each head, a log of numbered writes (below 64, so that a set of them is one word). The log
/// stands for the catalog, `resident` for the bytes. A head that was given away is kept apart from the one that
/// follows, and goes at once when the record does not name it any more.
struct SimulatedSite {
    struct Head {
        var log: [UInt8] = []
        var resident: UInt64 = 0
        /// Whose log it is: `HandoffSimulation.world(of:)`.
        var world: UInt64 = 0

        var missing: UInt64 { mask(log) & ~resident }
    }

    struct Write {
        let number: UInt8
        let epoch: Epoch
    }

    let id: SiteID

    // On disk.
    var durable: HeadRecord
    var present = Head()
    /// By the reign of ours under which they began.
    var kept: [Epoch: Head] = [:]
    /// What the disk refused, though it may have it: nobody knows before a restart.
    var doubtful: HeadRecord?

    // In memory; all of it goes in a crash.
    /// nil while the site is down.
    var memory: HeadRecord?
    /// Applied but not yet on disk, with what is to follow.
    var staged: (record: HeadRecord, actions: [Action])?
    var actions: [Action] = []
    var results: [Event] = []
    var mounted: Epoch?
    var begun: [Write] = []
    var committed: [Write] = []

    init(_ record: HeadRecord) {
        id = record.site
        durable = record
        memory = record
    }

    mutating func crash() {
        memory = nil
        staged = nil
        actions = []
        results = []
        mounted = nil
        begun = []
        committed = []
    }

    /// - Parameter findsDoubtful: whether what was refused is on the disk.
    mutating func restart(findsDoubtful: Bool) {
        if let doubtful, findsDoubtful { persist(doubtful) }
        doubtful = nil
        memory = durable
        actions = durable.actionsAfterRestart()
    }

    var isIdle: Bool { memory != nil && staged == nil }
    var canStep: Bool { staged != nil || !actions.isEmpty || !results.isEmpty }

    /// Takes a record to disk, and does with the heads what it says.
    mutating func persist(_ record: HeadRecord) {
        doubtful = nil
        if durable.hasOwnHead && !record.hasOwnHead {
            // Given away: whatever comes next is another head.
            kept[durable.headReign] = present
            present = Head()
        }
        if !durable.hasOwnHead, record.hasOwnHead, let head = kept[record.headReign] {
            // By force: a head of ours goes on where it was sealed.
            present = head
        }
        durable = record
        let named = Set(record.retentions.map(\.headReign) + record.divergences.map(\.headReign))
        kept = kept.filter { named.contains($0.key) }
    }

    /// The head of one of our reigns: the present one or a kept one.
    func head(of reign: Epoch) -> Head? {
        durable.hasOwnHead && durable.headReign == reign ? present : kept[reign]
    }

    /// Bytes have come for the head of a reign.
    mutating func add(_ bytes: UInt64, toHeadOf reign: Epoch) {
        if durable.hasOwnHead && durable.headReign == reign {
            present.resident |= bytes & mask(present.log)
        } else if let log = kept[reign]?.log {
            kept[reign]?.resident |= bytes & mask(log)
        }
    }
}

func mask(_ writes: [UInt8]) -> UInt64 {
    writes.reduce(0) { $0 | 1 << UInt64($1) }
}

func owns(_ record: HeadRecord) -> Bool {
    if case .owning = record.role { true } else { false }
}

/// A small generator with a seed (SplitMix64), so that a schedule can be replayed.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    /// 0 ..< bound; not exactly uniform, but quick.
    mutating func below(_ bound: Int) -> Int { Int(truncatingIfNeeded: next() >> 33) % bound }
    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
}
