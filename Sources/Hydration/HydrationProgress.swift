package import VolumeModel

/// How far a head is with fetching its bytes, for people and programs.
package struct HydrationProgress: Hashable, Sendable {
    package enum Phase: Hashable, Sendable {
        /// Every byte is here and recorded; the origin is no longer needed.
        case complete
        case streaming
        /// Waiting for the source, the disk or a person; `reason` says which and why.
        case waiting(reason: String)
    }

    package var phase: Phase
    /// Bytes of all files that may hold data.
    package var totalByteCount: UInt64
    package var missingByteCount: UInt64
    /// Bytes received since the process started, before decompression, zeros left out.
    package var receivedByteCount: UInt64
    /// Bytes that were taken from a copy kept here instead.
    package var savedByteCount: UInt64 = 0
    /// Bytes that came because somebody was waiting for them.
    package var neededByteCount: UInt64 = 0
    package var faultCount: UInt64
    package var faultLatency: LatencyHistogram

    /// Bytes that are here.
    package var residentByteCount: UInt64 { totalByteCount - min(totalByteCount, missingByteCount) }
}
