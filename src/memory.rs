//! What the allocator keeps of what was freed.

/// Gives memory back to the machine that nobody uses: the allocator does so only as it is asked for more, and after a burst
/// nobody asks. Blocks for some milliseconds.
pub fn give_back() {
    // SAFETY: may be called at any time from any thread, also of a program that has another allocator.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
