//! How `llm protect` gets the connections of a domain that `llm backup` has taken over on the same host.

use std::io;

use llm_core::flow::FlowKey;
use llm_core::log::Carry;
use llm_core::replay::Handed;
use serde::{Deserialize, Serialize};

use super::{ControlError, Request, Response, ask, backup_socket};

/// A connection whose numbers must be translated.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HandedConnection {
    /// Flow and differences as a record of the log has them, in hexadecimal digits.
    pub carry: String,
    /// See [`Handed::opened`].
    pub opened: Option<u32>,
    /// See [`Handed::closed`].
    pub closed: bool,
}

impl From<&Handed> for HandedConnection {
    fn from(handed: &Handed) -> Self {
        let carry = Carry::new(handed.key, handed.translation);
        let carry = carry.as_wire().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { carry, opened: handed.opened, closed: handed.closed }
    }
}

impl HandedConnection {
    /// None if it is not readable.
    fn read(&self) -> Option<Handed> {
        let digit = |at: usize| char::from(*self.carry.as_bytes().get(at)?).to_digit(16);
        let mut bytes = [0_u8; Carry::SIZE];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::try_from(digit(2 * at)? << 4 | digit(2 * at + 1)?).ok()?;
        }
        let carry = Carry::parse(&bytes).ok().filter(|_| self.carry.len() == 2 * Carry::SIZE)?;
        let key: FlowKey = *carry.key();
        Some(Handed { key, translation: carry.translation(), opened: self.opened, closed: self.closed })
    }
}

/// Has this host's `llm backup` let go of `domain`. None if there is none, or it has nothing to do with the domain.
///
/// # Errors
/// It does not, or gives no sound answer.
pub fn take_over_connections(domain: &str) -> Result<Option<Vec<Handed>>, ControlError> {
    let path = backup_socket();
    let answer = match ask(&path, Request::HandOver { domain: domain.into() }) {
        Err(ControlError::Connect { .. }) => return Ok(None),
        other => other?,
    };
    let unsound = |why: &str| ControlError::Answer {
        path: path.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, why),
    };
    match answer {
        Response::HandedOver { connections: None } => Ok(None),
        Response::HandedOver { connections: Some(connections) } => connections
            .iter()
            .map(|one| one.read().ok_or_else(|| unsound("a connection cannot be read")))
            .collect::<Result<_, _>>()
            .map(Some),
        Response::Error { reason } => Err(ControlError::Refused { path, reason }),
        _ => Err(unsound("the answer to another question")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_core::flow::{NO_VLAN, TCP, Translation};

    #[test]
    fn a_connection_is_read_as_it_was_written() {
        let key = FlowKey::new(6, TCP, NO_VLAN, ([1; 16], 80), ([2; 16], 4000));
        let translation = Translation { seq: 0xffff_fff0, timestamp: 9 };
        let handed = Handed { key, translation, opened: Some(7), closed: true };
        let written = HandedConnection::from(&handed);
        let line = serde_json::to_string(&written).expect("written");
        // As many as are carried fit into a line.
        assert!(4096 * (line.len() as u64 + 1) < super::super::LINE_MAX, "{line}");
        let read: HandedConnection = serde_json::from_str(&line).expect("read");
        assert_eq!(read.read(), Some(handed));
        for bad in ["", "00", &written.carry[1..], &format!("{}00", written.carry), &"g".repeat(96)] {
            assert_eq!(HandedConnection { carry: bad.into(), ..written.clone() }.read(), None, "{bad}");
        }
    }
}
