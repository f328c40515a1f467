//! A record in words: as a line for people, as JSON for programs.

use std::fmt;
use std::net::IpAddr;

use llm_core::flow::{Body, Direction, FlowKey, NO_VLAN, Packet, flags};
use llm_core::log::{Carry, Cut, Note, RecordKind};
use serde::Serialize;

use crate::keptlog::{Kept, frame};

/// A record, described. What it does not have is left out of the JSON.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Line {
    pub(super) lsn: u64,
    /// Numbers missing before it.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) missing: u64,
    pub(super) offset: u64,
    pub(super) epoch: u64,
    /// On the primary's clock.
    pub(super) time_ns: u64,
    pub(super) vif: u16,
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "flow")]
    pub(super) flow: Option<FlowKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tcp: Option<Tcp>,
    /// What a packet is that is neither TCP nor UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) what: Option<String>,
    /// Bytes of TCP payload, or of what another packet carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) len: Option<u64>,
    /// Place of a note in the checkpoint stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<CutAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) carry: Option<Carried>,
    /// Why its bytes are not what its kind says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unreadable: Option<String>,
}

/// Numbers of a TCP segment.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Tcp {
    flags: Vec<&'static str>,
    seq: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<u32>,
    window: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u32>,
}

/// How far a checkpoint reaches.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct CutAt {
    epoch: u64,
    limit: u64,
}

/// A translation: what is added to what the guest counts.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Carried {
    seq: u32,
    timestamp: u32,
}

/// A flow for programs.
#[derive(Serialize)]
pub(super) struct Flow {
    protocol: u8,
    guest: IpAddr,
    guest_port: u16,
    peer: IpAddr,
    peer_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
}

impl Flow {
    /// `None` for what is no IP.
    pub(super) fn of(key: &FlowKey) -> Option<Self> {
        (key.version() != 0).then(|| Self {
            protocol: key.protocol(),
            guest: key.guest(),
            guest_port: key.guest_port(),
            peer: key.peer(),
            peer_port: key.peer_port(),
            vlan: (key.vlan() != NO_VLAN).then(|| key.vlan()),
        })
    }
}

fn flow<S: serde::Serializer>(key: &Option<FlowKey>, serializer: S) -> Result<S::Ok, S::Error> {
    key.as_ref().and_then(Flow::of).serialize(serializer)
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The kind of a record in a word.
pub(super) const fn kind(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Input => "input",
        RecordKind::Note => "note",
        RecordKind::Cut => "cut",
        RecordKind::Carry => "carry",
    }
}

impl Line {
    /// Describes a record.
    pub(super) fn of(kept: &Kept<'_>) -> Self {
        let entry = &kept.record.entry;
        let mut line = Self {
            lsn: kept.record.lsn,
            missing: kept.missing,
            offset: kept.offset,
            epoch: entry.epoch,
            time_ns: entry.time.as_nanos(),
            vif: entry.vif,
            kind: kind(entry.kind),
            ..Self::default()
        };
        let read = match entry.kind {
            RecordKind::Input => {
                line.input(frame::parts(entry).1);
                Ok(())
            }
            RecordKind::Note => Note::parse(entry.packet).map(|note| line.note(&note)),
            RecordKind::Cut => Cut::parse(entry.packet)
                .map(|cut| line.cut = Some(CutAt { epoch: cut.epoch(), limit: cut.limit() })),
            RecordKind::Carry => Carry::parse(entry.packet).map(|carry| {
                let translation = carry.translation();
                line.flow = Some(*carry.key());
                line.carry = Some(Carried { seq: translation.seq, timestamp: translation.timestamp });
            }),
        };
        line.unreadable = line.unreadable.or_else(|| read.err().map(|error| error.to_string()));
        line
    }

    fn input(&mut self, frame: &[u8]) {
        let Some(packet) = Packet::parse(frame) else {
            self.unreadable = Some(format!("frame of {} bytes is shorter than its header", frame.len()));
            return;
        };
        self.flow = Some(packet.key(Direction::ToGuest));
        self.len = Some(packet.content().len() as u64);
        match packet.body {
            Body::Tcp(segment) => {
                self.len = Some(segment.payload_len() as u64);
                self.tcp = Some(Tcp {
                    flags: flag_names(segment.flags),
                    seq: segment.seq,
                    ack: segment.has(flags::ACK).then_some(segment.ack),
                    window: segment.window,
                    timestamp: segment.timestamp.map(|timestamp| timestamp.value),
                });
            }
            Body::Udp { .. } => {}
            Body::Icmp { kind } => self.what = Some(format!("type {kind}")),
            Body::Arp { operation: 1 } => self.what = Some("arp request".into()),
            Body::Arp { operation: 2 } => self.what = Some("arp reply".into()),
            Body::Arp { operation } => self.what = Some(format!("arp operation {operation}")),
            Body::Other if packet.version != 0 => self.what = Some(format!("protocol {}", packet.protocol)),
            Body::Other => self.what = Some(format!("ethertype {:#06x}", packet.ethertype)),
        }
    }

    fn note(&mut self, note: &Note) {
        self.flow = Some(*note.key());
        self.len = Some(note.digest().len());
        self.mark = Some(note.mark());
        if note.key().is_tcp() {
            self.tcp = Some(Tcp {
                flags: flag_names(note.tcp_flags()),
                seq: note.seq(),
                ack: note.ack(),
                window: note.window(),
                timestamp: note.timestamp(),
            });
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, nanos) = (self.time_ns / 1_000_000_000, self.time_ns % 1_000_000_000);
        let Self { lsn, epoch, vif, kind, .. } = self;
        write!(f, "{lsn:>10} {epoch:>8} {secs:>8}.{nanos:09} {vif:>3} {kind:<5}")?;
        if let Some(flow) = &self.flow {
            write!(f, "  {flow}")?;
        }
        if let Some(Tcp { flags, seq, ack, .. }) = &self.tcp {
            write!(f, "  {} seq {seq}", flags.join("+"))?;
            if let Some(ack) = ack {
                write!(f, " ack {ack}")?;
            }
        }
        if let Some(what) = &self.what {
            write!(f, "  {what}")?;
        }
        if let Some(len) = self.len {
            write!(f, " len {len}")?;
        }
        if let Some(mark) = self.mark {
            write!(f, " mark {mark}")?;
        }
        match &self.carry {
            Some(Carried { seq: 0, timestamp: 0 }) => write!(f, "  not translated any more")?,
            Some(Carried { seq, timestamp }) => write!(f, "  seq +{seq} timestamp +{timestamp}")?,
            None => {}
        }
        if let Some(CutAt { epoch, limit }) = &self.cut {
            write!(f, "  what has a mark below {limit} was sent before the suspension of epoch {epoch}")?;
        }
        self.unreadable.as_ref().map_or(Ok(()), |why| write!(f, "  unreadable: {why}"))
    }
}

fn flag_names(bits: u8) -> Vec<&'static str> {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    names.into_iter().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0).map(|(_, name)| name).collect()
}
