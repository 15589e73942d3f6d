package import Glibc

/// A value that one thread at a time uses, for what many threads want at once and hold for moments.
///
/// Everywhere else `Synchronization.Mutex` is right. That one waits in a loop before it sleeps, which takes the processor from who
/// holds it, and is then given to the thread that has slept longest while that sleeps still (futex(2), FUTEX_LOCK_PI): nobody
/// waits for ever behind one who syncs again and again, but where two threads want it all the time each use takes a change of
/// threads. This one is pthread_mutex_lock(3): who waits sleeps, and who runs takes it.
package final class Lock<Value>: @unchecked Sendable {
    @usableFromInline let mutex: UnsafeMutablePointer<pthread_mutex_t>
    @usableFromInline let value: UnsafeMutablePointer<Value>

    package init(_ value: sending Value) {
        mutex = .allocate(capacity: 1)
        mutex.initialize(to: pthread_mutex_t())
        var attributes = pthread_mutexattr_t()
        pthread_mutexattr_init(&attributes)
        #if DEBUG
            pthread_mutexattr_settype(&attributes, Int32(PTHREAD_MUTEX_ERRORCHECK))
        #endif
        pthread_mutex_init(mutex, &attributes)
        pthread_mutexattr_destroy(&attributes)
        self.value = .allocate(capacity: 1)
        self.value.initialize(to: value)
    }

    deinit {
        value.deinitialize(count: 1)
        value.deallocate()
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// For what has to hold several at once.
    @inlinable
    package func lock() {
        let code = pthread_mutex_lock(mutex)
        assert(code == 0, "a lock within itself")
    }

    /// By the thread that holds it.
    @inlinable
    package func unlock() {
        let code = pthread_mutex_unlock(mutex)
        assert(code == 0, "unlocked by another thread")
    }

    /// Runs something that uses the value, when no other thread does. Not to be called within itself.
    @inlinable
    package func withLock<Result, Failure: Error>(
        _ body: (inout sending Value) throws(Failure) -> sending Result
    ) throws(Failure) -> sending Result {
        lock()
        defer { unlock() }
        return try body(&value.pointee)
    }
}
