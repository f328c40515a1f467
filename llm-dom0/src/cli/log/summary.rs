//! `llm log inspect --summary`: totals by kind and by flow.

use std::collections::HashMap;
use std::io::Write;

use llm_core::flow::FlowKey;
use llm_core::log::{HEADER, RecordKind};
use serde::Serialize;

use super::Trouble;
use super::describe::{Flow, Line, kind};
use super::inspect::json_line;
use crate::keptlog::Kept;

/// Flows counted one by one: a file may name any number of them.
const FLOWS_MAX: usize = 1 << 16;
/// The kinds, in the order in which they are shown.
const KINDS: [RecordKind; 4] = [RecordKind::Input, RecordKind::Note, RecordKind::Cut, RecordKind::Carry];

/// Records of a kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Total {
    records: u64,
    /// With their headers.
    bytes: u64,
}

/// Packets of a flow.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct FlowTotal {
    inputs: u64,
    input_len: u64,
    notes: u64,
    note_len: u64,
}

impl FlowTotal {
    fn add(&mut self, kind: RecordKind, len: u64) {
        match kind {
            RecordKind::Input => {
                self.inputs += 1;
                self.input_len += len;
            }
            RecordKind::Note => {
                self.notes += 1;
                self.note_len += len;
            }
            RecordKind::Cut | RecordKind::Carry => {}
        }
    }
}

/// First and last of something that only grows.
#[derive(Clone, Copy, Debug, Serialize)]
struct Span {
    first: u64,
    last: u64,
}

impl Span {
    fn extend(span: &mut Option<Self>, to: u64) {
        let first = span.map_or(to, |span| span.first);
        *span = Some(Self { first, last: to });
    }
}

/// Totals of a log.
#[derive(Debug, Default)]
pub(super) struct Summary {
    lsn: Option<Span>,
    epoch: Option<Span>,
    time_ns: Option<Span>,
    missing: u64,
    unreadable: u64,
    kinds: [Total; KINDS.len()],
    flows: HashMap<FlowKey, FlowTotal>,
    /// What belongs to no flow that is counted.
    others: FlowTotal,
}

impl Summary {
    /// Counts a record, which `line` describes.
    pub(super) fn add(&mut self, kept: &Kept<'_>, line: &Line) {
        let entry = &kept.record.entry;
        Span::extend(&mut self.lsn, line.lsn);
        Span::extend(&mut self.epoch, line.epoch);
        Span::extend(&mut self.time_ns, line.time_ns);
        self.missing += kept.missing;
        self.unreadable += u64::from(line.unreadable.is_some());
        for (total, kind) in self.kinds.iter_mut().zip(KINDS) {
            if kind == entry.kind {
                total.records += 1;
                total.bytes += (HEADER + entry.packet.len()) as u64;
            }
        }
        if let Some(key) = line.flow {
            let counted =
                key.version() != 0 && (self.flows.len() < FLOWS_MAX || self.flows.contains_key(&key));
            let total = if counted { self.flows.entry(key).or_default() } else { &mut self.others };
            total.add(entry.kind, line.len.unwrap_or(0));
        }
    }

    /// Most bytes first.
    fn sorted(&self) -> Vec<(FlowKey, FlowTotal)> {
        let mut flows: Vec<_> = self.flows.iter().map(|(key, total)| (*key, *total)).collect();
        flows.sort_by_cached_key(|(key, total)| {
            (std::cmp::Reverse(total.input_len.saturating_add(total.note_len)), key.to_string())
        });
        flows
    }

    pub(super) fn write(&self, out: &mut impl Write, json: bool) -> Result<(), Trouble> {
        if json {
            return json_line(out, &self.to_json());
        }
        if let (Some(lsn), Some(epoch), Some(time)) = (self.lsn, self.epoch, self.time_ns) {
            writeln!(out, "records    {} to {}, {} of them missing", lsn.first, lsn.last, self.missing)?;
            writeln!(out, "epochs     {} to {}", epoch.first, epoch.last)?;
            let ns = time.last.saturating_sub(time.first);
            writeln!(out, "time       {}.{:03} s", ns / 1_000_000_000, ns / 1_000_000 % 1000)?;
        }
        if self.unreadable != 0 {
            writeln!(out, "unreadable {}", self.unreadable)?;
        }
        writeln!(out, "\n{:<8} {:>10} {:>12}", "kind", "records", "bytes")?;
        for (total, name) in self.kinds.iter().zip(KINDS) {
            writeln!(out, "{:<8} {:>10} {:>12}", kind(name), total.records, total.bytes)?;
        }
        writeln!(out, "\n{:>8} {:>12} {:>8} {:>12}  flow", "inputs", "payload", "notes", "payload")?;
        let others = Some(("all others".to_owned(), self.others)).filter(|(_, o)| o.inputs + o.notes > 0);
        for (name, t) in self.sorted().into_iter().map(|(key, t)| (key.to_string(), t)).chain(others) {
            let FlowTotal { inputs, input_len, notes, note_len } = t;
            writeln!(out, "{inputs:>8} {input_len:>12} {notes:>8} {note_len:>12}  {name}")?;
        }
        Ok(())
    }

    fn to_json(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct OneFlow {
            flow: Option<Flow>,
            #[serde(flatten)]
            total: FlowTotal,
        }
        #[derive(Serialize)]
        struct All {
            lsn: Option<Span>,
            epoch: Option<Span>,
            time_ns: Option<Span>,
            missing: u64,
            unreadable: u64,
            kinds: HashMap<&'static str, Total>,
            flows: Vec<OneFlow>,
            others: FlowTotal,
        }
        All {
            lsn: self.lsn,
            epoch: self.epoch,
            time_ns: self.time_ns,
            missing: self.missing,
            unreadable: self.unreadable,
            kinds: KINDS.into_iter().map(kind).zip(self.kinds).collect(),
            flows: self
                .sorted()
                .into_iter()
                .map(|(key, total)| OneFlow { flow: Flow::of(&key), total })
                .collect(),
            others: self.others,
        }
    }
}
