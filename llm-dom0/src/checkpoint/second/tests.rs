use llm_core::frame::{CONTENT_MAX, CompressedHead, Method};
use proptest::prelude::*;

use super::pack::Packer;
use super::unpack::{UnpackError, Unpacker};
use super::*;

fn pack(level: Level, batches: &[Vec<u8>]) -> Option<Vec<u8>> {
    Packer::new().expect("memory").pack(level, batches.iter().map(Vec::as_slice))
}

fn unpack(payload: &[u8], features: u64) -> Result<Vec<Vec<u8>>, UnpackError> {
    let mut unpacker = Unpacker::default();
    unpacker.unpack(payload, features).map(|batches| batches.map(<[u8]>::to_vec).collect())
}

/// A frame's bytes of a vector: its fence's second word is its name.
fn vector(name: &str) -> Vec<u8> {
    let document = include_str!("../../../../docs/wire-format.md");
    let fence = format!("```vector {name}\n");
    let block = document.split_once(&fence).expect("the vector").1.split_once("```").expect("its end").0;
    let bytes = block.split_whitespace().flat_map(|word| {
        let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
        let byte = u8::from_str_radix(digits, 16).expect("hex digits");
        std::iter::repeat_n(byte, times.parse().expect("a number"))
    });
    bytes.collect()
}

/// The batches that the document tells of.
fn told() -> [Vec<u8>; 2] {
    [vec![0, 3, 1, 2, 3], [&[0, 60][..], &[7; 60]].concat()]
}

#[test]
fn the_vectors_of_the_document_are_read() {
    for name in ["compressed-lz4", "compressed-zstd"] {
        assert_eq!(unpack(&vector(name), 3).expect(name), told(), "{name}");
    }
}

#[test]
fn what_does_not_get_shorter_is_left_alone() {
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..1000).map(|_| random()).collect();
    for level in Level::ALL {
        assert_eq!(pack(level, std::slice::from_ref(&noise)), None);
        assert_eq!(pack(level, &[]), None);
        assert_eq!(pack(level, &vec![vec![0; 100]; 65]), None, "too many batches");
        assert_eq!(pack(level, &[vec![0; CONTENT_MAX - 3]]), None, "too many bytes");
        assert!(pack(level, &[vec![0; CONTENT_MAX - 4]]).is_some());
    }
}

#[test]
fn a_lying_payload_is_refused_by_what_is_wrong_with_it() {
    for level in Level::ALL {
        let batches = vec![vec![1; 5000], vec![2; 3000]];
        let good = pack(level, &batches).expect("shorter");
        assert_eq!(unpack(&good, 3).expect("sound"), batches);
        let with_head = |change: fn(&mut CompressedHead)| {
            let (mut head, rest) = CompressedHead::parse(&good).expect("a head");
            change(&mut head);
            [&head.to_bytes(), rest].concat()
        };
        let other = 3 ^ level.method().feature();
        assert!(matches!(unpack(&good, other), Err(UnpackError::NotAgreed(m)) if m == level.method()));
        assert!(matches!(unpack(&good[..7], 3), Err(UnpackError::Head(_))));
        assert!(matches!(unpack(&good[..good.len() - 1], 3), Err(UnpackError::Broken { .. })));
        let longer = unpack(&with_head(|head| head.content += 1), 3);
        assert!(matches!(longer, Err(UnpackError::Length { got: 8008, said: 8009 })), "{longer:?}");
        assert!(matches!(unpack(&with_head(|head| head.content -= 1), 3), Err(UnpackError::Broken { .. })));
        let fewer = unpack(&with_head(|head| head.batches = 1), 3);
        assert!(matches!(fewer, Err(UnpackError::Lengths { batches: 1, content: 8008 })), "{fewer:?}");
    }
}

#[test]
fn features_are_those_of_the_choice() {
    assert_eq!([Compress::Auto, Compress::Never].map(Compress::features), [3, 0]);
    assert_eq!(Method::ALL.map(|method| Compress::By(method).features()), [1, 2]);
}

proptest! {
    #[test]
    fn batches_come_back(
        batches in prop::collection::vec((any::<u8>(), 0..9000_usize, 1..40_usize), 1..=20),
        level in 0..3_usize,
    ) {
        let batches: Vec<Vec<u8>> =
            batches.iter().map(|(seed, len, period)| (0..*len).map(|i| seed.wrapping_add((i % period) as u8)).collect()).collect();
        if let Some(payload) = pack(Level::ALL[level], &batches) {
            prop_assert!(payload.len() < batches.iter().map(Vec::len).sum());
            prop_assert_eq!(unpack(&payload, 3).unwrap(), batches);
        }
    }

    #[test]
    fn damage_is_no_panic(at in 0..300_usize, bit in 0..8_u32, level in 0..3_usize) {
        let batches = vec![(0..600_u16).map(|i| (i % 97) as u8).collect(), vec![3; 900]];
        let mut payload = pack(Level::ALL[level], &batches).expect("shorter");
        let at = at % payload.len();
        payload[at] ^= 1 << bit;
        // The frame's digest finds such damage; what the decompressor makes of it need only be bounded.
        if let Ok(batches) = unpack(&payload, 3) {
            prop_assert!(batches.iter().map(Vec::len).sum::<usize>() <= CONTENT_MAX);
        }
    }
}
