internal import CHeap

/// How the C library's heap grows in a process that lives long.
enum Heap {
    /// By default each thread gets an arena of its own, and what passes through it leaves holes that no other uses: a
    /// search through a million files then keeps four times the memory that is in use.
    static func bound() {
        mallopt(Int32(M_ARENA_MAX), 2)
        // Fixed, or the first large block that is freed raises them: then tables of many MiB would lie in the arenas too.
        mallopt(Int32(M_MMAP_THRESHOLD), 4 << 20)
        mallopt(Int32(M_TRIM_THRESHOLD), 8 << 20)
    }
}
