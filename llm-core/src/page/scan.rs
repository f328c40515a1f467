//! Finds what changed between two versions of a page, and turns it into the parts of a diff.
//!
//! There is a file for each width of registers. The portable one is the reference: the others
//! must give the same parts, and so the same record.

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod avx2;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod avx512;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod nibbles;
mod portable;
mod seen;

use super::sections::{Filled, Sections};
use super::{Kind, MAX_RECORD, Next, Page};

/// Which registers and instructions the codec may use.
///
/// All give the same records and pages; only their speed differs. The program that knows the processor chooses;
/// [`Features::PORTABLE`] runs on any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(Width);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Portable,
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    Avx2(avx2::Avx2),
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    Avx512(Avx512),
}

impl Features {
    /// What every processor has.
    pub const PORTABLE: Self = Self(Width::Portable);

    /// `portable`, `avx2` or `avx512`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Width::Portable => "portable",
            #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
            Width::Avx2(_) => "avx2",
            #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
            Width::Avx512(_) => "avx512",
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
pub(super) use avx512::{Avx512, Wide, all, load, store};

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
impl Features {
    /// That the processor has AVX-512, if it is to be used.
    pub(super) const fn has_avx512(self) -> Option<Avx512> {
        match self.0 {
            Width::Avx512(avx512) => Some(avx512),
            _ => None,
        }
    }
}

impl Default for Features {
    fn default() -> Self {
        Self::PORTABLE
    }
}

/// The diff of two versions of a page, in parts.
#[inline]
pub(super) fn collect<const DENSE: bool>(
    features: Features,
    old: &Page,
    new: &Page,
    next: Option<Next<'_>>,
    sections: &mut Sections,
) -> Filled {
    match features.0 {
        Width::Portable => portable::collect::<DENSE>(old, new, sections),
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        Width::Avx2(avx2) => avx2.collect::<DENSE>(old, new, next, sections),
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        Width::Avx512(avx512) => avx512.collect::<DENSE>(old, new, next, sections),
    }
}

/// Makes a record of what [`collect`] found: `None` if it is no shorter than a raw one.
#[inline]
pub(super) fn finish(
    features: Features,
    filled: &Filled,
    kind: Kind,
    new: &Page,
    next: Option<Next<'_>>,
    sections: &mut Sections,
    out: &mut [u8; MAX_RECORD],
) -> Option<usize> {
    match features.0 {
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        Width::Avx2(avx2) => avx2.finish(filled, kind, sections, out),
        #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
        Width::Avx512(avx512) => avx512.finish(filled, kind, new, next, sections, out),
        Width::Portable => sections.finish(filled, kind, out),
    }
}

/// Asks for these lines of a page before they are needed, where a processor can be asked: bit n is line n.
#[inline(always)]
pub(super) fn ask_for(page: &Page, lines: u64) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    avx2::ask_for(page, lines);
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    let _ = (page, lines);
}

/// Whether every byte of the page is zero.
pub(super) fn is_zero(page: &Page) -> bool {
    portable::is_zero(page)
}

/// The widths that this machine has, for tests; the portable one is among them.
#[cfg(test)]
pub(super) fn widths() -> std::vec::Vec<Features> {
    let mut widths = std::vec![Features::PORTABLE];
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    widths.extend(avx2::detected().into_iter().chain(avx512::detected()));
    widths
}
