internal import ArgumentParser
internal import Site

/// How much each other site may leave here of what it offers.
struct OfferOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "How many volumes each other site may offer that were never owned here.", valueName: "count"))
    var offeredVolumes = OfferLimits().volumeCount
    @Option(
        help: ArgumentHelp(
            "What the names, parameters and claims of these may take in the registry, of each site, at least 1Mi.",
            valueName: "size"))
    var offeredRecords = ByteCount(bytes: UInt64(OfferLimits().recordByteCount))
    @Option(
        help: ArgumentHelp(
            "What the names of their files may take on the disk, of each site (for example 10Gi); a quarter of the disk "
                + "if not given.", valueName: "size"))
    var offeredNames: ByteCount?

    func validate() throws {
        guard (1...1_000_000).contains(offeredVolumes) else {
            throw ValidationError("--offered-volumes is 1 to 1000000")
        }
        guard (1 << 20...1 << 40).contains(offeredRecords.bytes) else {
            throw ValidationError("--offered-records is a size such as 32Mi, at least 1Mi and at most 1Ti")
        }
    }

    var limits: OfferLimits {
        var limits = OfferLimits()
        limits.volumeCount = offeredVolumes
        limits.recordByteCount = Int(clamping: offeredRecords.bytes)
        limits.replicaByteCount = offeredNames?.bytes
        return limits
    }
}
