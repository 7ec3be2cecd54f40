//! How this process deals with the buffers that blocks pass through: a MiB at a time, thousands a second.

/// Memory that freed buffers may leave with the process, in bytes, for each of the allocator's arenas.
const KEPT: libc::c_int = 64 << 20;

/// Has the allocator keep what was freed, up to a bound, instead of giving it to the kernel and having it back, page by page and
/// filled with zeros: that was a third of what receiving cost. Called once, at the start.
pub fn keep_buffers() {
    // Buffers of up to this size are cut from the arenas.
    for (setting, value) in [(libc::M_MMAP_THRESHOLD, 32 << 20), (libc::M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: it only sets a number inside the allocator. An allocator that knows no such setting says so by returning 0, and
        // then goes on as it did.
        unsafe { libc::mallopt(setting, value) };
    }
}
