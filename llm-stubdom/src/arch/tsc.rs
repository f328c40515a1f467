//! The processor's time stamp counter.

/// Its value. Xen lets a domain read it, or reads it for the domain.
#[must_use]
pub fn read() -> u64 {
    // SAFETY:
    // - Every x86-64 has the instruction; it changes nothing but its result's registers.
    unsafe { core::arch::x86_64::_rdtsc() }
}
