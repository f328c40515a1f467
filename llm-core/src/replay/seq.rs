//! Arithmetic of sequence numbers (RFC 9293, 3.4) and of timestamps (RFC 7323), which wrap around.

/// Whether `a` is `b` or comes after it.
pub(super) const fn at_least(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() >= 0
}

/// Whether `a` comes after `b`.
pub(super) const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// The later of two.
pub(super) const fn later(a: u32, b: u32) -> u32 {
    if after(b, a) { b } else { a }
}

/// The earlier of two.
pub(super) const fn earlier(a: u32, b: u32) -> u32 {
    if after(b, a) { a } else { b }
}

/// Moves `known` forward to `value`, never back.
pub(super) fn newer(known: &mut Option<u32>, value: u32) {
    *known = Some(known.map_or(value, |known| later(known, value)));
}
