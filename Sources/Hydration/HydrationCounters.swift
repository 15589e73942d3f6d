internal import Synchronization
package import VolumeModel

/// What all hydrators of a site have done since its process started: unlike a head's own figures these outlive the head.
package final class HydrationCounters: Sendable {
    package struct Counts: Hashable, Sendable {
        /// Bytes received, before decompression, zeros left out.
        package var receivedByteCount: UInt64 = 0
        /// Bytes taken from copies kept here instead.
        package var savedByteCount: UInt64 = 0
        /// Faults that were served, by how long they took.
        package var faults = TimeHistogram(bounds: TimeHistogram.faultBounds)
        /// Faults that ended with an error for the application.
        package var failedFaultCount: UInt64 = 0
    }

    private let state = Mutex(Counts())

    package init() {}

    package var counts: Counts { state.withLock { $0 } }

    func change(_ body: (inout Counts) -> Void) { state.withLock { body(&$0) } }
}
