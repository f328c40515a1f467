//! Pairs of pages, by number: made by rule, drawn by chance from the number alone, and of guests.

use core::fmt;
use llm_core::page::{PAGE, Page};

const LINE: usize = 64;
const LINES: usize = PAGE / LINE;
const WORDS: usize = PAGE / 8;

/// A word in each place of a line, for each mask of bytes that changed and each of bytes that are not zero: 256 of
/// them in a page, four in a line, which are too few for a literal.
const BY_MASK: u32 = 8 * 65536 / 256;
/// Of each kind by chance.
const EACH: u32 = 128;
/// Pages of guests: each against what became of it, and against other ones.
const REAL: u32 = (GUEST_PAIRS * OTHERS) as u32;
const OTHERS: usize = 8;

/// Pairs there are.
pub const COUNT: u32 = BY_MASK + EACH * CHANCES.len() as u32 + REAL;

static GUEST: &[u8] = include_bytes!("../../../llm-core/testdata/dirty-pages.bin");
const GUEST_PAIRS: usize = 24;

/// The committed pairs of pages of guests.
#[must_use]
pub fn of_guests() -> &'static [[Page; 2]] {
    GUEST.as_chunks::<PAGE>().0.as_chunks::<2>().0
}

/// Two versions of a page.
#[derive(Clone, Debug)]
pub struct Pair {
    /// As it was.
    pub old: Page,
    /// As it is.
    pub new: Page,
}

impl Pair {
    /// Two pages of zeros.
    pub const ZERO: Self = Self { old: [0; PAGE], new: [0; PAGE] };

    /// Becomes pair `number`; tells its kind.
    pub fn make(&mut self, number: u32) -> Kind {
        let mut random = Random(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        if number < BY_MASK {
            self.by_mask(number, &mut random);
            return Kind("masks");
        }
        let number = number - BY_MASK;
        if let Some((name, make)) = CHANCES.get((number / EACH) as usize) {
            make(self, number % EACH, &mut random);
            return Kind(name);
        }
        let number = (number - EACH * CHANCES.len() as u32) as usize;
        let (guests, at) = (of_guests(), number / OTHERS);
        self.old = guests[at % guests.len()][0];
        self.new = guests[(at + number % OTHERS) % guests.len()][1];
        Kind("guests")
    }

    fn by_mask(&mut self, number: u32, random: &mut Random) {
        *self = Self::ZERO;
        // The other words are zeros in every other page: without an old one, few words are new then.
        if number.is_multiple_of(2) {
            random.fill(&mut self.old);
            self.new = self.old;
        }
        let first = (number / 256) as usize;
        for (at, both) in (0..256).zip(number % 256 * 256..) {
            let [changed, set, ..] = both.to_le_bytes();
            let (values, others) = (random.next().to_le_bytes(), random.next().to_le_bytes());
            let start = LINE * (at / 4) + 8 * ((first + 2 * (at % 4)) % 8);
            for byte in 0..8 {
                let value = if set >> byte & 1 != 0 { values[byte] | 0x80 } else { 0 };
                let other = if changed >> byte & 1 != 0 { others[byte] | 1 } else { 0 };
                (self.old[start + byte], self.new[start + byte]) = (value ^ other, value);
            }
        }
    }

    fn words(&mut self) -> (&mut [[u8; 8]], &mut [[u8; 8]]) {
        (self.old.as_chunks_mut().0, self.new.as_chunks_mut().0)
    }
}

/// The kind of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(&'static str);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

type Make = fn(&mut Pair, u32, &mut Random);

/// Kinds of pairs by chance.
const CHANCES: [(&str, Make); 12] = [
    ("whole pages", whole),
    ("bytes", bytes),
    ("words", words),
    ("runs", runs),
    ("zeros", zeros),
    ("repeated words", repeated),
    ("words from afar", from_afar),
    ("masks of lines", line_masks),
    ("numbers of lines", line_numbers),
    ("small numbers", small),
    ("nearly literal lines", nearly_literal),
    ("edges", edges),
];

fn base(pair: &mut Pair, random: &mut Random) {
    // Pages of guests have many zeros.
    let zeros = random.below(4);
    for word in pair.old.as_chunks_mut::<8>().0 {
        *word = if random.below(4) < zeros { [0; 8] } else { random.next().to_le_bytes() };
    }
    pair.new = pair.old;
}

/// Equal ones, noise, and pages of zeros.
fn whole(pair: &mut Pair, number: u32, random: &mut Random) {
    random.fill(&mut pair.old);
    random.fill(&mut pair.new);
    match number % 5 {
        0 => pair.new = pair.old,
        1 => pair.new = [0; PAGE],
        2 => pair.old = [0; PAGE],
        3 => *pair = Pair::ZERO,
        _ => {}
    }
}

fn bytes(pair: &mut Pair, number: u32, random: &mut Random) {
    base(pair, random);
    for _ in 0..=number {
        pair.new[random.below(PAGE)] = random.byte();
    }
}

/// Some words of some lines: some of their bytes, each zero or not.
fn words(pair: &mut Pair, number: u32, random: &mut Random) {
    base(pair, random);
    let lines = random.next() | if number.is_multiple_of(2) { random.next() } else { 0 };
    let share = 1 + random.below(8);
    for line in (0..LINES).filter(|line| lines >> line & 1 != 0) {
        for word in 0..8 {
            if random.below(8) >= share {
                continue;
            }
            let (changed, set) = (random.byte(), random.byte() | random.byte());
            for byte in (0..8).filter(|byte| changed >> byte & 1 != 0) {
                let value = if set >> byte & 1 != 0 { random.byte() } else { 0 };
                pair.new[LINE * line + 8 * word + byte] = value;
            }
        }
    }
}

fn runs(pair: &mut Pair, number: u32, random: &mut Random) {
    base(pair, random);
    for _ in 0..=number % 16 {
        let start = random.below(PAGE);
        let len = (1 << random.below(10)) + random.below(8);
        let value = random.byte();
        for byte in pair.new[start..].iter_mut().take(len) {
            *byte = if number.is_multiple_of(2) { random.byte() } else { value };
        }
    }
}

/// Lines that become zeros, as a whole or nearly.
fn zeros(pair: &mut Pair, number: u32, random: &mut Random) {
    random.fill(&mut pair.old);
    pair.new = pair.old;
    for line in pair.new.as_chunks_mut::<LINE>().0 {
        match random.below(3) {
            0 => {}
            1 => *line = [0; LINE],
            _ => {
                *line = [0; LINE];
                line[random.below(LINE)] = random.byte();
            }
        }
    }
    if number.is_multiple_of(2) {
        core::mem::swap(&mut pair.old, &mut pair.new);
    }
}

/// Words of a few values, so that neighbours are equal, in the line and from line to line.
fn repeated(pair: &mut Pair, number: u32, random: &mut Random) {
    let values: [u64; 8] = core::array::from_fn(|_| random.next());
    let few = 1 + number as usize % values.len();
    let still = random.below(4);
    let (old, new) = pair.words();
    for (old, new) in old.iter_mut().zip(new) {
        *new = values[random.below(few)].to_le_bytes();
        *old = if random.below(4) < still { *new } else { random.next().to_le_bytes() };
    }
}

/// Words that equal another one, as far away as a code reaches and further.
fn from_afar(pair: &mut Pair, number: u32, random: &mut Random) {
    base(pair, random);
    let share = 1 + number as usize % 4;
    let (_, new) = pair.words();
    for at in 1..WORDS {
        if random.below(4) >= share {
            continue;
        }
        let near = [1, 2, 3, 8, 9, 255, 256, 257, 258, 259, 511];
        let away =
            if random.below(2) == 0 { near[random.below(near.len())] } else { 1 + random.below(WORDS) };
        new[at] = match at.checked_sub(away) {
            Some(other) => new[other],
            None => random.next().to_le_bytes(),
        };
    }
}

/// Each mask of words that changed, in a line of its own.
fn line_masks(pair: &mut Pair, number: u32, random: &mut Random) {
    base(pair, random);
    for line in 0..LINES {
        let [mask, ..] = (number * 64 + line as u32).to_le_bytes();
        for word in (0..8).filter(|word| mask >> word & 1 != 0) {
            pair.new[LINE * line + 8 * word + random.below(8)] ^= random.byte() | 1;
        }
    }
}

/// Every number of changed lines, which are taken by eights.
fn line_numbers(pair: &mut Pair, number: u32, random: &mut Random) {
    base(pair, random);
    let mut left = number as usize % (LINES + 1);
    for line in 0..LINES {
        if random.below(LINES - line) < left {
            left -= 1;
            for _ in 0..=random.below(8) {
                pair.new[LINE * line + random.below(LINE)] ^= random.byte() | 1;
            }
        }
    }
}

/// Numbers of few bytes over others.
fn small(pair: &mut Pair, number: u32, random: &mut Random) {
    let still = number as usize % 4;
    let (old, new) = pair.words();
    for (old, new) in old.iter_mut().zip(new) {
        *old = (random.next() >> (8 * random.below(8))).to_le_bytes();
        let other = random.next() >> (8 * random.below(8)) << (8 * random.below(8));
        *new = if random.below(4) < still { *old } else { other.to_le_bytes() };
    }
}

/// Lines whose words take about as much as the line.
fn nearly_literal(pair: &mut Pair, _: u32, random: &mut Random) {
    random.fill(&mut pair.old);
    pair.new = pair.old;
    for line in pair.new.as_chunks_mut::<LINE>().0 {
        for word in line.as_chunks_mut::<8>().0 {
            let len = 5 + random.below(4);
            for byte in &mut word[..len] {
                *byte ^= random.byte() | 1;
            }
        }
        // And one that is shorter.
        if random.below(2) == 0 {
            let word = random.below(8);
            line[8 * word..][..8].copy_from_slice(&(random.next() >> (8 * random.below(8))).to_le_bytes());
        }
    }
}

/// A byte, a word or a line at either end, also with all lines before the last one.
fn edges(pair: &mut Pair, number: u32, random: &mut Random) {
    base(pair, random);
    if number & 1 != 0 {
        (pair.new[0], pair.new[1]) = (!pair.old[0], random.byte());
    }
    if number & 2 != 0 {
        pair.new[PAGE - 1] = !pair.old[PAGE - 1];
    }
    if number & 4 != 0 {
        random.fill(&mut pair.new[..LINE]);
    }
    if number & 8 != 0 {
        random.fill(&mut pair.new[PAGE - LINE..]);
    }
    if number & 16 != 0 {
        pair.new[..8].fill(0);
    }
    if number & 32 != 0 {
        // The last words refer to the first ones, or to what would be before them.
        pair.new.copy_within(..LINE, PAGE - LINE);
    }
    if number & 64 != 0 {
        random.fill(&mut pair.new[..PAGE - LINE]);
    }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.as_chunks_mut::<8>().0 {
            *word = self.next().to_le_bytes();
        }
    }
}
