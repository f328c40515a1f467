//! XBZRLE, the page encoding of QEMU, from its published grammar: `page = zrun nzrun | zrun nzrun page`, a run is
//! a LEB128 length (and, if of changed bytes, those bytes); the last run of equal bytes is left out.

use llm_core::page::{PAGE, Page};

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Encodes into `out`: the length, or `None` if the page would be as short as it is.
pub(super) fn encode(old: &Page, new: &Page, out: &mut [u8; PAGE]) -> Option<usize> {
    let (mut at, mut len) = (0, 0);
    loop {
        let equal = run(old, new, at, |x| x != 0, |x| x != 0);
        if equal == PAGE {
            return Some(len);
        }
        let end = run(old, new, equal, has_zero, |x| x == 0);
        let changed = &new[equal..end];
        if len + 4 + changed.len() > PAGE {
            return None;
        }
        len += length(equal - at, &mut out[len..]);
        len += length(changed.len(), &mut out[len..]);
        out[len..len + changed.len()].copy_from_slice(changed);
        len += changed.len();
        at = end;
    }
}

/// Whether a byte is zero.
fn has_zero(x: u64) -> bool {
    x.wrapping_sub(LOW) & !x & HIGH != 0
}

/// The end of a run from `at` on: words are skipped until one has the end, which is looked for by bytes.
fn run(
    old: &Page,
    new: &Page,
    mut at: usize,
    word_ends: impl Fn(u64) -> bool,
    ends: impl Fn(u8) -> bool,
) -> usize {
    while at < PAGE && !at.is_multiple_of(8) {
        if ends(old[at] ^ new[at]) {
            return at;
        }
        at += 1;
    }
    let words = old[at..].as_chunks::<8>().0.iter().zip(new[at..].as_chunks::<8>().0);
    for (o, n) in words {
        if word_ends(u64::from_ne_bytes(*o) ^ u64::from_ne_bytes(*n)) {
            break;
        }
        at += 8;
    }
    while at < PAGE && !ends(old[at] ^ new[at]) {
        at += 1;
    }
    at
}

/// At most 4096: one byte or two.
fn length(value: usize, out: &mut [u8]) -> usize {
    if value < 0x80 {
        out[0] = value.to_le_bytes()[0];
        1
    } else {
        out[0] = value.to_le_bytes()[0] | 0x80;
        out[1] = (value >> 7).to_le_bytes()[0];
        2
    }
}

/// Decodes onto the old copy; false if the runs do not fit.
pub(super) fn decode(mut bytes: &[u8], page: &mut Page) -> bool {
    let mut at = 0;
    while !bytes.is_empty() {
        let Some(equal) = read(&mut bytes) else { return false };
        let Some(changed) = read(&mut bytes) else { return false };
        let Some((new, rest)) = bytes.split_at_checked(changed) else { return false };
        at += equal;
        let Some(to) = page.get_mut(at..at + changed) else { return false };
        to.copy_from_slice(new);
        at += changed;
        bytes = rest;
    }
    true
}

fn read(bytes: &mut &[u8]) -> Option<usize> {
    let (&low, rest) = bytes.split_first()?;
    *bytes = rest;
    if low < 0x80 {
        return Some(low.into());
    }
    let (&high, rest) = rest.split_first()?;
    *bytes = rest;
    (high < 0x80).then_some(usize::from(low & 0x7f) | usize::from(high) << 7)
}
