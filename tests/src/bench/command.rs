//! `cargo lab bench NAME`.

use std::path::PathBuf;
use std::time::Duration;

use super::{codec, counts, encoder, frame, fresh, link, llm, packet, pictures, ring, stream};
use crate::lab::{self, Llm};

/// What is measured.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Mode llm beside the unprotected guest and mode remus, on two Xen hosts; needs root and ten minutes.
    Llm {
        /// How long each measure takes, in seconds.
        #[arg(long, default_value_t = 15, value_name = "N")]
        seconds: u64,
        /// Put this `llm` binary into the hosts instead of building it.
        #[arg(long, value_name = "FILE")]
        llm: Option<PathBuf>,
    },
    /// Encoding in Dom0 beside encoding in a domain of its own, on two Xen hosts; needs root and five minutes.
    Encoder {
        /// How long the guest writes memory, for each of them, in seconds.
        #[arg(long, default_value_t = 30, value_name = "N")]
        seconds: u64,
        /// Put this `llm` binary into the hosts instead of building it.
        #[arg(long, value_name = "FILE")]
        llm: Option<PathBuf>,
    },
    /// The packet path without Xen, in network namespaces, beside the kernel's bridge; needs root and three minutes.
    Packet {
        /// How long each measure takes, in seconds.
        #[arg(long, default_value_t = 3.0, value_name = "N")]
        seconds: f64,
        /// Connections of the load with many flows.
        #[arg(long, default_value_t = packet::FLOWS, value_name = "N")]
        flows: usize,
        /// These modes only, with the bridge in any case.
        #[arg(long, value_name = "NAME")]
        mode: Vec<String>,
        /// These loads only.
        #[arg(long, value_name = "NAME")]
        load: Vec<String>,
    },
    /// The ring between Dom0 and another domain, beside libxenvchan, TCP and memcpy; needs root and five minutes.
    Ring {
        /// How long each measure takes, in seconds.
        #[arg(long, default_value_t = 1.0, value_name = "N")]
        seconds: f64,
        /// How often all is measured; the medians count.
        #[arg(long, default_value_t = 3, value_name = "N")]
        rounds: usize,
    },
    /// The page codec, beside others.
    Codec {
        /// Folder with dirty pages of guests, `NAME-x.zst`; without it, a few committed ones are used.
        #[arg(long, env = "LLM_CORPUS", value_name = "DIR")]
        corpus: Option<PathBuf>,
        /// How often everything is measured; the best counts.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
        /// This kind of work only, such as `encode` or `second-64`.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// Frames, checksums and log records, beside others.
    Frame {
        /// Folder with packets and dirty pages of guests, `NAME.pkts.zst` and `NAME-x.zst`; without it, made packets and a few
        /// committed pages are used.
        #[arg(long, env = "LLM_CORPUS", value_name = "DIR")]
        corpus: Option<PathBuf>,
        /// How often everything is measured; the best counts.
        #[arg(long, default_value_t = 15)]
        rounds: usize,
    },
    /// First copies of guests, as `xl save` writes them: pages that are zero, or equal to one ahead.
    Fresh {
        /// What `xl save` wrote.
        #[arg(required = true, value_name = "FILE")]
        copies: Vec<PathBuf>,
    },
    /// Pictures of the newest figures of the others, into `docs/pictures`.
    Pictures,
    /// What is compressed while it waits: checkpoint streams over shaped links; needs root and some minutes.
    Link {
        /// Folder with dirty pages of guests, `NAME-x.zst`; without it, a few committed ones are used.
        #[arg(long, env = "LLM_CORPUS", value_name = "DIR")]
        corpus: Option<PathBuf>,
        /// These workloads only.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Rates of the links.
        #[arg(long, value_name = "RATE", value_parser = link::parse_link, default_values = ["100mbit", "1gbit", "10gbit"])]
        link: Vec<u64>,
        /// Epochs of each round.
        #[arg(long, default_value_t = 50, value_name = "N")]
        epochs: usize,
        /// Pages of an epoch.
        #[arg(long, default_value_t = 2048, value_name = "N")]
        pages: usize,
        /// How often everything is measured; all counts.
        #[arg(long, default_value_t = 2)]
        rounds: usize,
    },
    /// Instructions of the core's hot paths, held against the committed baseline; installs Valgrind.
    Counts {
        /// Make what is counted the baseline.
        #[arg(long)]
        renew: bool,
    },
    /// The checkpoint pipe: a stream as fast as it goes through primary and backup, beside what only copies it.
    Stream {
        /// Measure nothing: boot the lab, record what `xl remus` writes of its guest with the demo's clients, and end; needs root
        /// and some minutes. Compressed if FILE ends in `.zst`.
        #[arg(long, value_name = "FILE", conflicts_with = "stream")]
        record: Option<PathBuf>,
        /// Epochs to record, the first copy included.
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        epochs: u64,
        /// What `xl` waits between two checkpoints that are recorded, in milliseconds.
        #[arg(long, default_value_t = 200, value_name = "MS")]
        interval: u64,
        /// A recording to measure with; it may be compressed by zstd.
        #[arg(long, value_name = "FILE")]
        stream: Vec<PathBuf>,
        /// Folder with dirty pages of guests, `NAME-x.zst`; without it and without recordings, a few committed ones are used.
        #[arg(long, env = "LLM_CORPUS", value_name = "DIR")]
        corpus: Option<PathBuf>,
        /// These workloads only.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Size of each stream that is made, in MiB.
        #[arg(long, default_value_t = 1024, value_name = "N")]
        size: u64,
        /// What may wait between two threads of `llm`, in MiB.
        #[arg(long, default_value_t = 8, value_name = "N")]
        buffer: u64,
        /// How often everything is measured; the quickest counts.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
}

impl Command {
    /// Runs it; `name` is the lab's. False if a figure could not be taken.
    ///
    /// # Errors
    /// What kept it from running.
    pub fn run(&self, name: &str) -> Result<bool, Box<dyn std::error::Error>> {
        match self {
            Self::Llm { seconds, llm } => {
                lab::clean_on_exit(name)?;
                let options = llm::Options {
                    llm: llm.clone().map_or(Llm::Build, Llm::File),
                    time: Duration::from_secs(*seconds),
                    ..llm::Options::new(name)
                };
                Ok(llm::run(&options)?)
            }
            Self::Encoder { seconds, llm } => {
                lab::clean_on_exit(name)?;
                let llm = llm.clone().map_or(Llm::Build, Llm::File);
                let time = Duration::from_secs(*seconds);
                Ok(encoder::run(&encoder::Options { name: name.into(), llm, time })?)
            }
            Self::Packet { seconds, flows, mode, load } => Ok(packet::run(&packet::Options {
                time: Duration::from_secs_f64(*seconds),
                flows: *flows,
                modes: mode.clone(),
                loads: load.clone(),
            })?),
            Self::Ring { seconds, rounds } => {
                lab::clean_on_exit(name)?;
                let time = Duration::from_secs_f64(*seconds);
                Ok(ring::run(&ring::Options { name: name.into(), time, rounds: *rounds })?)
            }
            Self::Codec { corpus, rounds, only } => {
                codec::run(&codec::Options { corpus: corpus.clone(), rounds: *rounds, only: only.clone() })?;
                Ok(true)
            }
            Self::Frame { corpus, rounds } => {
                frame::run(&frame::Options { corpus: corpus.clone(), rounds: *rounds })?;
                Ok(true)
            }
            Self::Fresh { copies } => {
                fresh::run(copies)?;
                Ok(true)
            }
            Self::Pictures => {
                pictures::run()?;
                Ok(true)
            }
            Self::Link { corpus, only, link, epochs, pages, rounds } => {
                link::run(&link::Options {
                    corpus: corpus.clone(),
                    only: only.clone(),
                    links: link.clone(),
                    epochs: *epochs,
                    pages: *pages,
                    rounds: *rounds,
                })?;
                Ok(true)
            }
            Self::Counts { renew } => {
                let counted = counts::run(*renew)?;
                for complaint in &counted.complaints {
                    eprintln!("{complaint}");
                }
                Ok(counted.complaints.is_empty())
            }
            Self::Stream { record: Some(file), epochs, interval, .. } => {
                lab::clean_on_exit(name)?;
                stream::record::run(&stream::record::Options {
                    name: name.into(),
                    file: file.clone(),
                    epochs: *epochs,
                    interval: Duration::from_millis(*interval),
                })?;
                Ok(true)
            }
            Self::Stream { stream, corpus, only, size, buffer, rounds, .. } => {
                stream::run(&stream::Options {
                    recorded: stream.clone(),
                    corpus: corpus.clone(),
                    only: only.clone(),
                    stream_bytes: size << 20,
                    buffer: buffer << 20,
                    rounds: *rounds,
                })?;
                Ok(true)
            }
        }
    }
}
