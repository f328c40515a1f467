//! The unpacker of log records on any bytes, and on packed records that were damaged.

use llm_core::log::{Entry, Flags, LogError, Packer, Record, RecordKind, SEAL, Unpacked, Unpacker};
use llm_core::time::Instant;

use super::Input;

/// An odd first byte: the rest is packed records. An even one: it says how to build some.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.u8();
    let piece = 1 + usize::from(input.u8());
    if mode & 1 == 1 {
        check(input.0, piece);
    } else {
        built(&mut input, piece);
    }
}

/// A record with a packet of its own.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    lsn: u64,
    epoch: u64,
    time: u64,
    vif: u16,
    flags: u16,
    kind: RecordKind,
    packet: Vec<u8>,
}

impl Owned {
    fn of(record: &Record<'_>) -> Self {
        let Entry { kind, epoch, time, vif, flags, packet } = record.entry;
        let (time, flags, packet) = (time.as_nanos(), flags.bits(), packet.to_vec());
        Self { lsn: record.lsn, epoch, time, vif, flags, kind, packet }
    }

    fn record(&self) -> Record<'_> {
        let flags = Flags::from_bits(self.flags).expect("read by the same code");
        let time = Instant::from_nanos(self.time);
        let entry =
            Entry { kind: self.kind, epoch: self.epoch, time, vif: self.vif, flags, packet: &self.packet };
        Record { lsn: self.lsn, entry }
    }
}

/// Reading piece by piece finds what reading the whole finds; and what was found can be packed again.
fn check(bytes: &[u8], piece: usize) -> Found {
    let whole = unpack(bytes, bytes.len().max(1));
    assert_eq!(whole, unpack(bytes, piece));
    for pair in whole.found.windows(2) {
        assert_eq!(pair[1].lsn, pair[0].lsn + 1);
        assert!(pair[1].epoch >= pair[0].epoch);
    }
    let again = unpack(&pack(&whole.found), piece);
    assert_eq!((&again.found, again.sealed, again.error), (&whole.found, whole.found.len(), None));
    whole
}

/// What was found, how much of it is sealed, and what ended it.
#[derive(Debug, PartialEq)]
struct Found {
    found: Vec<Owned>,
    sealed: usize,
    error: Option<LogError>,
}

fn unpack(bytes: &[u8], piece: usize) -> Found {
    let mut unpacker = Box::new(Unpacker::new());
    let (mut found, mut sealed, mut done, mut have) = (Vec::new(), 0, 0, 0);
    loop {
        let mut rest = &bytes[done..have];
        loop {
            let before = rest.len();
            match unpacker.take(&mut rest) {
                Ok(Some(Unpacked::Record(record))) => found.push(Owned::of(&record)),
                Ok(Some(Unpacked::Seal)) => sealed = found.len(),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.offset, (have - before) as u64);
                    return Found { found, sealed, error: Some(error) };
                }
            }
            assert!(rest.len() < before, "nothing was taken");
        }
        done = have - rest.len();
        assert_eq!(unpacker.offset(), done as u64);
        if have == bytes.len() {
            return Found { found, sealed, error: None };
        }
        have = bytes.len().min(have + piece);
    }
}

/// With a seal behind every few of them, and at the end.
fn pack(records: &[Owned]) -> Vec<u8> {
    let mut packer = Box::new(Packer::new());
    let mut all = Vec::new();
    for few in records.chunks(3) {
        for record in few {
            let mut out = vec![0; Packer::room(record.packet.len())];
            let len = packer.pack(&record.record(), &mut out).expect("room");
            all.extend(&out[..len]);
        }
        let mut out = [0; SEAL];
        let len = packer.seal(&mut out).expect("room");
        all.extend(&out[..len]);
    }
    all
}

fn built(input: &mut Input<'_>, piece: usize) {
    let (damage, mut records) = (input.u64(), Vec::new());
    let (mut lsn, mut epoch, mut time) = (input.u64() / 2, 0, 0_u64);
    // A packet of each of few flows, changed a little each time.
    let mut flows = [[0_u8; 160], [1; 160], [2; 160], [3; 160]];
    while !input.is_empty() && records.len() < 64 {
        let op = input.u8();
        let packet = &mut flows[usize::from(op & 3)];
        for _ in 0..op >> 6 {
            packet[usize::from(input.u8()) % 160] = input.u8();
        }
        let len = 60 + usize::from(input.u8()) % 100;
        time = time.wrapping_add(u64::from(input.u16()) << (op & 31));
        epoch += u64::from(op & 60 == 4);
        let kind = if op & 60 == 8 { RecordKind::Note } else { RecordKind::Input };
        let vif = u16::from(op & 60 == 12);
        let packet = packet[..len].to_vec();
        records.push(Owned { lsn, epoch, time, vif, flags: u16::from(op & 4 == 0), kind, packet });
        lsn += 1;
    }
    let mut bytes = pack(&records);
    let whole = check(&bytes, piece);
    assert_eq!((&whole.found, whole.sealed, whole.error), (&records, records.len(), None));
    if bytes.is_empty() {
        return;
    }
    // Whatever one flipped bit hits, nothing that did not go in is sealed.
    let at = (damage >> 3) as usize % bytes.len();
    bytes[at] ^= 1 << (damage & 7);
    let damaged = check(&bytes, piece);
    assert!(damaged.sealed <= records.len() && damaged.found[..damaged.sealed] == records[..damaged.sealed]);
}
