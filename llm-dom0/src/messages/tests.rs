//! Tables made by hand; that of a real kernel is read in `tests/tests/stubdom_boot.rs`.

use super::table::{Format, format};
use super::*;
use llm_core::service::MAX_MESSAGE;
use proptest::prelude::*;

const KNOWN: [(&str, u64); 2] = [("\"_defmt_version_ = 4\"", 0), ("_defmt_encoding_ = raw", 10)];

fn table() -> Table {
    let symbols = [
        ("info", "plain, {{ and }}", 1),
        ("warn", "why: {=str}", 2),
        ("error", "{=u8} {=u16} {=u32} {=u64} {=i8} {=i16} {=i32} {=i64} {=bool}", 3),
        ("debug", "{=istr} of {=u32:#x} and {=usize}", 4),
        ("trace", "{1=u8} {0=str} {1=u8}", 5),
        ("str", "a name", 9),
        ("prim", "{=?}", 6),
        ("timestamp", "{=u64:us}", 11),
    ];
    let symbols = symbols.map(|(tag, data, place)| {
        (format!(r#"{{"package":"p","tag":"defmt_{tag}","data":"{data}"}}"#), place)
    });
    let all = symbols.iter().map(|(name, place)| (&**name, *place)).chain(KNOWN).chain([("main", 1)]);
    Table::from_symbols(all).expect("a good table")
}

fn message(place: u16, arguments: &[u8]) -> Vec<u8> {
    [&place.to_le_bytes()[..], &12_034_567_u64.to_le_bytes(), arguments].concat()
}

fn text(place: u16, arguments: &[u8]) -> Result<String, BadMessage> {
    table().decode(&message(place, arguments)).map(|message| message.text)
}

#[test]
fn messages_are_decoded() {
    let plain = Message { level: Level::Info, time: "12.034567".into(), text: "plain, { and }".into() };
    assert_eq!(table().decode(&message(1, &[])), Ok(plain));
    assert_eq!(text(2, b"\x05\0\0\0a b c").as_deref(), Ok("why: a b c"));
    let numbers = [
        &[200, 0x34, 0x12, 1, 0, 0, 0x80][..],
        &u64::MAX.to_le_bytes(),
        &[0xff, 0, 0x80, 0xfe, 0xff, 0xff, 0xff],
        &i64::MIN.to_le_bytes(),
        &[1],
    ];
    let shown = "200 4660 2147483649 18446744073709551615 -1 -32768 -2 -9223372036854775808 true";
    assert_eq!(text(3, &numbers.concat()).as_deref(), Ok(shown));
    assert_eq!(text(4, &[9, 0, 255, 0, 0, 0, 7, 0, 0, 0]).as_deref(), Ok("a name of 0xff and 7"));
    assert_eq!(text(5, b"\x01\0\0\0a\x07").as_deref(), Ok("7 a 7"));
}

#[test]
fn what_is_no_message_is_refused() {
    assert_eq!(text(7, &[]), Err(BadMessage::Statement(7)));
    assert_eq!(text(9, &[]), Err(BadMessage::Statement(9)), "a name is no statement");
    assert_eq!(text(1, &[0]), Err(BadMessage::Rest(1)));
    assert_eq!(text(2, &[4, 0, 0]), Err(BadMessage::Short));
    assert_eq!(text(2, b"\xff\xff\xff\xffabc"), Err(BadMessage::Short));
    assert_eq!(text(2, b"\x01\0\0\0\xff"), Err(BadMessage::Argument), "no UTF-8");
    assert_eq!(text(3, &[2; 31]), Err(BadMessage::Argument), "no truth");
    assert_eq!(text(4, &[8; 10]), Err(BadMessage::Argument), "no name");
    assert_eq!(table().decode(&[1]), Err(BadMessage::Short));
    assert_eq!(table().decode(&[1, 0, 5]), Err(BadMessage::Short));
    assert_eq!(text(2, &[b'a'; MAX_MESSAGE]), Err(BadMessage::TooLong(MAX_MESSAGE + 10)));
}

#[test]
fn a_text_cannot_pass_for_another_line() {
    let hostile = "a\nb\x1b[31m\u{202e}\"";
    let arguments = [&(hostile.len() as u32).to_le_bytes()[..], hostile.as_bytes()].concat();
    assert_eq!(text(2, &arguments).as_deref(), Ok("why: a\\nb\\u{1b}[31m\\u{202e}\""));
}

#[test]
fn types_that_nest_or_grow_are_not_taken() {
    for bad in ["{}", "{=?}", "{=[?]}", "{=[u8]}", "{=[?; 3]}", "{=u128}", "{=0..4}", "{=char}", "{=f32}"] {
        assert_eq!(format(bad), None, "{bad}");
    }
    assert_eq!(format("{=u8"), None, "no format string");
    assert_eq!(format("{1=u8}"), None, "an argument that is not shown");
    assert_eq!(format("{0=u8} {0=u16}"), None, "one argument of two types");
    assert_eq!(format(""), Some(Format { arguments: Vec::new(), pieces: Vec::new() }));
}

#[test]
fn other_versions_and_statements_are_refused() {
    let table = |symbols: &[(&'static str, u64)]| {
        Table::from_symbols(symbols.iter().copied()).map_err(|error| error.to_string())
    };
    assert!(table(&KNOWN).is_ok());
    assert!(table(&[KNOWN[0]]).unwrap_err().contains("no table of messages"));
    let other = table(&[KNOWN[0], ("_defmt_encoding_ = rzcobs", 1)]).unwrap_err();
    assert!(other.contains("version 4 in encoding rzcobs"), "{other}");
    for (bad, place) in [
        (r#"{"tag":"defmt_info","data":"{=?}"}"#, 1),
        (r#"{"tag":"defmt_info"}"#, 1),
        (r#"{"tag":"defmt_info","data":""}"#, 1 << 16),
        ("{", 1),
    ] {
        assert!(table(&[KNOWN[0], KNOWN[1], (bad, place)]).unwrap_err().contains(bad), "{bad}");
    }
}

/// A kernel of nothing but the statement `{=u8}` with the place 3; behind a byte that is the fuzz target's.
const KERNEL: &[u8] = include_bytes!("../../../fuzz/corpus/messages/kernel");

#[test]
fn a_table_is_found_in_a_file() {
    let kernel = &KERNEL[1..];
    let told = Table::parse(kernel).expect("a table").decode(&[3, 0, 77]);
    assert_eq!(told, Ok(Message { level: Level::Info, time: String::new(), text: "77".into() }));
    let without = |name: &[u8]| {
        let at = kernel.windows(name.len()).position(|bytes| bytes == name).expect("there");
        let mut other = kernel.to_vec();
        other[at + 1] = b'x';
        Table::parse(&other)
    };
    assert!(matches!(without(b".defmt\0"), Err(TableError::None)));
    assert!(matches!(without(b"_defmt_version_ = "), Err(TableError::None)));
    assert!(matches!(Table::parse(b"no kernel"), Err(TableError::Elf(_))));
    assert!(matches!(Table::read(Path::new("/nonexistent")), Err(TableError::Read { .. })));
}

#[test]
fn so_many_messages_pass_in_a_second() {
    let (mut limit, start) = (Limit::default(), Instant::now());
    let passed = (0..1000).filter(|_| limit.admit(start).is_some()).count();
    assert_eq!(passed, SHOWN_MAX as usize);
    assert_eq!(limit.admit(start + WINDOW / 2), None);
    assert_eq!(limit.admit(start + WINDOW), Some(1001 - u64::from(SHOWN_MAX)));
    assert_eq!(limit.admit(start + WINDOW), Some(0), "told once");
}

proptest! {
    #[test]
    fn no_message_is_too_bad(place in 0..12_u16, rest in prop::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..300)) {
        let bytes = [&place.to_le_bytes()[..], &rest].concat();
        if let Ok(message) = table().decode(&bytes) {
            // Each byte of a text makes ten letters at most.
            prop_assert!(message.text.len() <= 100 + 10 * MAX_MESSAGE && !message.text.contains(char::is_control));
        }
    }

    #[test]
    fn no_file_is_too_bad(file in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Table::parse(&[b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0", &file[..]].concat());
    }
}
