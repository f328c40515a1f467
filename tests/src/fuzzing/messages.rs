//! Messages of a unikernel that is not trusted, and kernels that are no kernels.

use std::sync::OnceLock;

use llm_core::service::MAX_MESSAGE;
use llm_dom0::messages::{BadMessage, Table};

use super::Input;

/// Statements with arguments of all types that are taken, as symbols of a kernel.
const SYMBOLS: [(&str, u64); 7] = [
    ("_defmt_version_ = 4", 0),
    ("_defmt_encoding_ = raw", 9),
    (r#"{"tag":"defmt_timestamp","data":"{=u64:us}"}"#, 8),
    (r#"{"tag":"defmt_info","data":"{=str} and {=bool}, {=str}"}"#, 1),
    (r#"{"tag":"defmt_warn","data":"{=u8:#x} {=u16} {=u32} {=u64} {=i8} {=i16} {=i32} {=i64}"}"#, 2),
    (r#"{"tag":"defmt_error","data":"{1=istr} of {0=usize}"}"#, 3),
    (r#"{"tag":"defmt_str","data":"a name"}"#, 4),
];

/// An odd first byte: the rest is a kernel. An even one: it is a message.
pub fn run(data: &[u8]) {
    static TABLE: OnceLock<Table> = OnceLock::new();
    let mut input = Input(data);
    if input.u8() & 1 == 1 {
        // Whether it is one or not.
        let _ = Table::parse(input.0);
        return;
    }
    let table = TABLE.get_or_init(|| Table::from_symbols(SYMBOLS).expect("a good table"));
    match table.decode(input.0) {
        Ok(message) => {
            assert!(input.0.len() <= MAX_MESSAGE);
            assert!(
                message.text.chars().chain(message.time.chars()).all(|c| c == ' ' || c.is_ascii_graphic())
            );
            // A byte of a text becomes six letters at most.
            assert!(message.text.len() <= 100 + 6 * MAX_MESSAGE);
        }
        Err(BadMessage::TooLong(len)) => assert_eq!(len, input.0.len()),
        Err(BadMessage::Rest(len)) => assert!(len < input.0.len()),
        Err(_) => {}
    }
}
