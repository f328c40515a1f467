//! `cargo lab`: two real Xen hosts on this machine, for trying things out and for the tests.

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use llm_core::replication;
use llm_tests::lab::{self, Lab, Link, Llm, Options, State};
use llm_tests::{bench, demo, faults, replay_sim, suite};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Two real Xen hosts in QEMU (software emulation), with their network and a guest. Needs root and Debian 12.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
struct Args {
    /// Name of the lab and of its network namespace.
    #[arg(long, global = true, default_value = lab::DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The main job: a protected guest, its host killed, the clients' view; then stock `xl remus` beside it.
    Demo {
        /// Put this `llm` binary into the hosts instead of building it.
        #[arg(long, value_name = "FILE")]
        llm: Option<PathBuf>,
        /// Show this mode only.
        #[arg(long, value_enum)]
        mode: Option<Mode>,
        /// Time between two checkpoints in mode remus and of stock xl, in milliseconds.
        #[arg(long, default_value_t = 200)]
        interval: u64,
        /// Time between two checkpoints in mode llm, in milliseconds.
        #[arg(long, default_value_t = 2000)]
        llm_interval: u64,
        /// How long the clients are watched in each phase, in seconds.
        #[arg(long, default_value_t = 15)]
        watch: u64,
        /// Leave stock `xl remus` out.
        #[arg(long)]
        no_stock: bool,
        /// More options for each `llm protect`, such as `--protect '--encoder stubdom'`.
        #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
        protect: String,
    },
    /// Repeat the failover at different moments, back and forth between the hosts.
    Soak {
        /// How often.
        #[arg(short, default_value_t = 10)]
        n: u32,
        /// How the guest is protected.
        #[arg(long, value_enum, default_value = "remus")]
        mode: Mode,
        /// Time between two checkpoints, in milliseconds; 2000 in mode llm, 200 in mode remus.
        #[arg(long, value_name = "MS")]
        interval: Option<u64>,
        /// More options for each `llm protect`, such as `--protect '--encoder stubdom'`.
        #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
        protect: String,
        /// Put this `llm` binary into the hosts instead of building it.
        #[arg(long, value_name = "FILE")]
        llm: Option<PathBuf>,
    },
    /// Run the fault scenarios, one after the other, on one lab.
    Faults {
        /// Only those with this in their name.
        only: Option<String>,
        /// Put this `llm` binary into the hosts instead of building it.
        #[arg(long, value_name = "FILE", conflicts_with = "running")]
        llm: Option<PathBuf>,
        /// Use the lab that is up already, and leave it so.
        #[arg(long)]
        running: bool,
        /// More options for each `llm protect`, such as `--protect '--encoder stubdom'`.
        #[arg(
            long,
            value_name = "OPTIONS",
            default_value = "",
            allow_hyphen_values = true,
            conflicts_with = "running"
        )]
        protect: String,
    },
    /// All tests: packages, lints, cargo test, the unikernel on Xen, fuzzing, faults, the demo and a short soak.
    Test {
        /// Run this step only; may be given several times.
        #[arg(long, value_name = "STEP", value_parser = PossibleValuesParser::new(suite::step_names()))]
        only: Vec<String>,
        /// Leave the fuzzer out.
        #[arg(long)]
        skip_fuzz: bool,
        /// How long each fuzz target runs.
        #[arg(long, default_value_t = 40, value_name = "N")]
        fuzz_seconds: u64,
        /// Put this `llm` binary into the hosts instead of building it.
        #[arg(long, value_name = "FILE")]
        llm: Option<PathBuf>,
    },
    /// Simulate clients, a guest and both hosts, to try the replay: seed after seed. Needs neither root nor QEMU.
    Sim {
        /// How many seeds.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Go on behind a seed that fails, and tell of them all.
        #[arg(long)]
        keep_going: bool,
        /// This one alone, with a line per event.
        #[arg(long, conflicts_with_all = ["seeds", "from", "keep_going"])]
        seed: Option<u64>,
    },
    /// Measure, print tables, and write `target/lab/bench/NAME.json`.
    Bench {
        /// What is measured.
        #[command(subcommand)]
        what: bench::Command,
    },
    /// Boot both hosts and leave them running.
    Up {
        /// Put no `llm` binary into the hosts.
        #[arg(long, conflicts_with = "llm")]
        no_llm: bool,
        /// Put this `llm` binary into the hosts instead of building it.
        #[arg(long, value_name = "FILE")]
        llm: Option<PathBuf>,
        /// Memory of each host in MiB.
        #[arg(long, default_value_t = 2048)]
        memory: u32,
        /// Memory of each host's Dom0 in MiB.
        #[arg(long, default_value_t = 1024)]
        dom0_memory: u32,
    },
    /// Stop the hosts and remove the network.
    Down,
    /// Show what runs.
    Status,
    /// Run a shell command in a host's Dom0; ends with its exit code.
    Run {
        /// 1 or 2.
        host: HostNumber,
        /// The command; several words are joined by blanks.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Copy a file into a host.
    Put {
        /// 1 or 2.
        host: HostNumber,
        /// File of this machine.
        from: PathBuf,
        /// Path in the host.
        to: String,
    },
    /// Copy a file out of a host.
    Get {
        /// 1 or 2.
        host: HostNumber,
        /// Path in the host.
        from: String,
        /// File of this machine.
        to: PathBuf,
    },
    /// Connect to a host's console (a shell of its Dom0); Ctrl-C leaves.
    Console {
        /// 1 or 2.
        host: HostNumber,
    },
    /// Create a guest on a host and wait until it answers.
    Guest {
        /// 1 or 2.
        host: HostNumber,
        /// `guest`; `plain`, the same with a network script that knows nothing of llm; `tiny`, 4 MiB without a network.
        #[arg(default_value = lab::guest::NAME, value_parser = [lab::guest::NAME, lab::guest::PLAIN, lab::guest::TINY])]
        which: String,
    },
    /// Kill a host, as a power cut does.
    Kill {
        /// 1 or 2.
        host: HostNumber,
    },
    /// Start a host anew.
    Restart {
        /// 1 or 2.
        host: HostNumber,
    },
    /// Stop a host's clock.
    Freeze {
        /// 1 or 2.
        host: HostNumber,
    },
    /// Let a frozen host go on.
    Thaw {
        /// 1 or 2.
        host: HostNumber,
    },
    /// Take a host off a link.
    Cut {
        /// 1 or 2.
        host: HostNumber,
        /// svc, rep or mgmt.
        link: Link,
    },
    /// Put a host back on a link.
    Heal {
        /// 1 or 2.
        host: HostNumber,
        /// svc, rep or mgmt.
        link: Link,
    },
    /// Capture the service network into a pcap file until Ctrl-C.
    Capture {
        /// File to write.
        to: PathBuf,
    },
}

/// A mode of `llm protect` that clients can trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Llm,
    Remus,
}

/// A host as the user names it.
#[derive(Debug, Clone, Copy)]
struct HostNumber(usize);

impl std::str::FromStr for HostNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1" | "host1" => Ok(Self(0)),
            "2" | "host2" => Ok(Self(1)),
            other => Err(format!("There is no host `{other}`: say 1 or 2")),
        }
    }
}

fn main() -> ExitCode {
    match act(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn act(args: &Args) -> lab::Result<ExitCode> {
    let attach = || Lab::attach(&args.name);
    match &args.command {
        Action::Demo { llm, mode, interval, llm_interval, watch, no_stock, protect } => {
            lab::clean_on_exit(&args.name)?;
            let options = demo::Options {
                llm: llm.clone().map_or(Llm::Build, Llm::File),
                modes: [Mode::Llm, Mode::Remus]
                    .into_iter()
                    .filter(|m| mode.is_none_or(|only| only == *m))
                    .map(|m| match m {
                        Mode::Llm => (replication::Mode::Llm, Duration::from_millis(*llm_interval)),
                        Mode::Remus => (replication::Mode::Remus, Duration::from_millis(*interval)),
                    })
                    .collect(),
                interval: Duration::from_millis(*interval),
                watch: Duration::from_secs(*watch),
                stock: !no_stock,
                protect: protect.clone(),
                ..demo::Options::new(&args.name)
            };
            return Ok(verdict(demo::run(&options)));
        }
        Action::Soak { n, mode, interval, llm, protect } => {
            lab::clean_on_exit(&args.name)?;
            let mode = match mode {
                Mode::Llm => replication::Mode::Llm,
                Mode::Remus => replication::Mode::Remus,
            };
            let options = demo::Soak {
                name: args.name.clone(),
                llm: llm.clone().map_or(Llm::Build, Llm::File),
                times: *n,
                mode,
                interval: interval.map_or_else(|| demo::usual_interval(mode), Duration::from_millis),
                protect: protect.clone(),
            };
            let held = demo::soak(&options).map(|held| {
                println!("{held} of {n} failovers held");
                held == *n
            });
            return Ok(verdict(held));
        }
        Action::Faults { only, llm, running, protect } => {
            let lab = if *running {
                attach()?
            } else {
                lab::clean_on_exit(&args.name)?;
                let llm = llm.clone().map_or(Llm::Build, Llm::File);
                Lab::up(&Options {
                    name: args.name.clone(),
                    llm,
                    protect: protect.clone(),
                    ..Options::default()
                })?
            };
            let summary =
                faults::run(&lab, only.as_deref().map_or(faults::Pick::All, faults::Pick::Named), 1);
            println!("{} scenarios held, {} did not", summary.passed.len(), summary.failed.len());
            return Ok(verdict(Ok(summary.held())));
        }
        Action::Test { only, skip_fuzz, fuzz_seconds, llm } => {
            lab::clean_on_exit(&args.name)?;
            let held = suite::run(&suite::Options {
                name: args.name.clone(),
                llm: llm.clone().map_or(Llm::Build, Llm::File),
                only: only.clone(),
                skip_fuzz: *skip_fuzz,
                fuzz_time: Duration::from_secs(*fuzz_seconds),
            });
            return Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Action::Bench { what } => {
            return Ok(what.run(&args.name).map_or_else(
                |error| {
                    let source = error.source().map(|e| format!(": {e}")).unwrap_or_default();
                    eprintln!("{error}{source}");
                    ExitCode::FAILURE
                },
                |whole| if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            ));
        }
        Action::Sim { seeds, from, keep_going, seed } => {
            let all = seed.map_or(*from..from.saturating_add(*seeds), |seed| seed..seed.saturating_add(1));
            return Ok(simulate(all, *keep_going, seed.is_some()));
        }
        Action::Up { no_llm, llm, memory, dom0_memory } => {
            lab::clean_on_exit(&args.name)?;
            let llm = match llm {
                Some(file) => Llm::File(file.clone()),
                None if *no_llm => Llm::Without,
                None => Llm::Build,
            };
            let options = Options {
                name: args.name.clone(),
                llm,
                memory_mib: *memory,
                dom0_mib: *dom0_memory,
                ..Options::default()
            };
            Lab::up(&options)?.keep();
            println!(
                "Both hosts are ready. `cargo lab run 1 -- xl list`, `cargo lab guest 1`, `cargo lab down`"
            );
        }
        Action::Down => lab::take_down(&lab::Paths::new(&args.name))?,
        Action::Status => status(&args.name)?,
        Action::Run { host, command } => {
            let running = attach()?.host(host.0).spawn(&command.join(" "))?;
            let code = running.copy_to(&mut io::stdout(), &mut io::stderr())?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
        }
        Action::Put { host, from, to } => attach()?.host(host.0).put(from, to)?,
        Action::Get { host, from, to } => drop(attach()?.host(host.0).get(from, to)?),
        Action::Console { host } => console(&args.name, host.0 + 1)?,
        Action::Guest { host, which } => attach()?.create(host.0, which)?,
        Action::Kill { host } => attach()?.host(host.0).kill()?,
        Action::Restart { host } => attach()?.host(host.0).restart()?,
        Action::Freeze { host } => attach()?.host(host.0).freeze()?,
        Action::Thaw { host } => attach()?.host(host.0).thaw()?,
        Action::Cut { host, link } => attach()?.connect(host.0, *link, false)?,
        Action::Heal { host, link } => attach()?.connect(host.0, *link, true)?,
        Action::Capture { to } => capture(&args.name, to)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Success if what was promised held.
fn verdict(held: llm_tests::scenario::Result<bool>) -> ExitCode {
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(seeds: std::ops::Range<u64>, keep_going: bool, trace: bool) -> ExitCode {
    let options = replay_sim::Options { trace, ..replay_sim::Options::default() };
    let (mut sum, mut failed) = (replay_sim::Summary::default(), 0u64);
    for seed in seeds {
        match replay_sim::run(seed, &options) {
            Ok(summary) => sum += summary,
            Err(violation) => {
                failed += 1;
                eprintln!("{violation:?}; `cargo lab sim --seed {seed}` tells it in full");
                if !keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    println!("{sum:?}");
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{failed} seeds failed");
    ExitCode::FAILURE
}

fn status(name: &str) -> lab::Result<()> {
    let paths = lab::Paths::new(name);
    let Some(state) = State::load(&paths)? else {
        println!("{name}: down");
        return Ok(());
    };
    for (index, process) in state.hosts.iter().enumerate() {
        let number = index + 1;
        match process.filter(|p| p.alive()) {
            Some(process) => {
                let addresses = Link::ALL.map(|l| l.host_address(number).to_string()).join(" ");
                println!("host{number}: running, process {}, {addresses}", process.pid);
            }
            None => println!("host{number}: down"),
        }
        println!("  console log: {}", paths.console_log(number).display());
    }
    println!("clients: ip netns exec {name} ...; the guest is at {}", lab::guest::ADDRESS);
    Ok(())
}

fn console(name: &str, number: usize) -> lab::Result<()> {
    use lab::Context as _;
    let path = lab::Paths::new(name).socket(number, "console");
    let what = || format!("connect to {}", path.display());
    let mut socket = UnixStream::connect(&path).context(what)?;
    let mut keys = socket.try_clone().context(what)?;
    eprintln!("Console of host{number}; Ctrl-C leaves");
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            if keys.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    });
    io::copy(&mut socket, &mut io::stdout()).context(|| "read the console".to_owned()).map(drop)
}

fn capture(name: &str, to: &std::path::Path) -> lab::Result<()> {
    use lab::Context as _;
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .context(|| "set a signal handler".to_owned())?;
    let running = Lab::attach(name)?.capture(to)?;
    eprintln!("Capturing into {}; Ctrl-C ends", to.display());
    signals.forever().next();
    drop(running);
    Ok(())
}
