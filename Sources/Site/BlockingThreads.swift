internal import Dispatch

/// Threads for calls that wait for a disk.
enum BlockingThreads {
    static let queue = DispatchQueue(label: "godwit.blocking", attributes: .concurrent)
}
