//! `llm log export --pcap`.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use llm_core::log::RecordKind;

use super::{Trouble, about, ended, open};
use crate::cli::args;
use crate::cli::exit::{Exit, Failure};
use crate::keptlog::pcapng::PcapNg;
use crate::keptlog::{Reader, frame};

/// What became of the records.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    packets: u64,
    left_out: u64,
}

pub(super) fn run(args: &args::Export) -> Result<Exit, Failure> {
    let (file, pcap) = (&args.file, &args.pcap);
    let mut reader = open(file)?;
    let to_stdout = pcap.as_os_str() == "-";
    let out: Box<dyn Write> =
        if to_stdout { Box::new(io::stdout().lock()) } else { Box::new(create(pcap, file)?) };
    let mut counts = Counts::default();
    let result = export(&mut reader, BufWriter::new(out), &mut counts);
    let Counts { packets, left_out } = counts;
    let say =
        format!("{packets} packets; {left_out} records without bytes left out, `llm log inspect` shows them");
    if to_stdout {
        eprintln!("{say}");
    } else {
        println!("{}: {say}", pcap.display());
    }
    ended(result, file, pcap)
}

/// Packets hold what clients have sent: nobody else may read them.
fn create(pcap: &Path, file: &Path) -> Result<fs::File, Failure> {
    let id = |path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    if id(pcap).is_some_and(|pcap| id(file) == Some(pcap)) {
        return Err(Failure::new(Exit::Usage, "--pcap names the log itself, which would be lost"));
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(pcap).map_err(|e| about(pcap, e))
}

fn export(reader: &mut Reader<impl Read>, out: impl Write, counts: &mut Counts) -> Result<(), Trouble> {
    let header = reader.header();
    let comment = format!(
        "Packets that went into domain {}, session {:016x}, committed epoch {}. Times are on the primary's clock, \
         which starts when the host boots.",
        header.domain, header.session, header.committed
    );
    let mut pcap = PcapNg::new(out, &header.domain, &comment)?;
    let end = loop {
        match reader.next_record() {
            Ok(None) => break Ok(()),
            Ok(Some(kept)) if kept.record.entry.kind == RecordKind::Input => {
                let (lsn, entry) = (kept.record.lsn, &kept.record.entry);
                let comment = format!("lsn {lsn}, epoch {}", entry.epoch);
                pcap.inbound(entry.vif, entry.time, &frame::plain(entry), &comment)?;
                counts.packets += 1;
            }
            Ok(Some(_)) => counts.left_out += 1,
            Err(error) => break Err(error.into()),
        }
    };
    pcap.finish()?;
    end
}
