//! Asks for memory before it is needed, where the processor can be asked.

#![allow(unsafe_code)]

use super::Page;

/// Asks for these lines of a page: bit n is line n.
#[inline(always)]
pub(super) fn lines(page: &Page, mut lines: u64) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse"))]
    while lines != 0 {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = &page.as_chunks::<{ super::LINE }>().0[lines.trailing_zeros() as usize % super::LINES];
        lines &= lines - 1;
        // SAFETY: whoever runs this has SSE, as the target says. The instruction may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse")))]
    let _ = (page, &mut lines);
}
