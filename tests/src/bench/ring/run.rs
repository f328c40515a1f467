//! A host with both domains, and the peers in turn.

use std::time::{Duration, SystemTime};

use super::load::Figures;
use super::table::{Row, median, table};
use super::{Options, SIZES};
use crate::lab::{self, Host, Lab, Llm, Paths, Progress, RingFiles, build_ring, guest};
use crate::report::utc;
use crate::scenario::{Result, ScenarioError};
use crate::stubdom::{self, Profile};
use llm_dom0::xen::unikernel;

/// The host that is used; the other one is ended, so that it takes no processor.
const HOST: usize = 0;
/// What is left to the domains to come up.
const PATIENCE: Duration = Duration::from_secs(90);
/// Pages of the made-up guest that the unikernel would encode, in MiB. It has none here.
const UNIKERNEL_MIB: u64 = 8;
const UNIKERNEL: &str = "echoes";

/// The peers in the order in which they are measured and shown, with what measures each in Dom0.
fn peers(ring: u32, unikernel: u32) -> [(&'static str, String); 5] {
    let ours = |way: &str, to: &str| format!("/lab/ring-peer measure {way} {to}");
    [
        ("llm", ours("ring", &ring.to_string())),
        ("libxenvchan", format!("/lab/vchan-peer measure {ring}")),
        ("tcp", ours("tcp", &format!("{}:7", guest::ADDRESS))),
        ("llm, unikernel", ours("unikernel", &unikernel.to_string())),
        ("memcpy", ours("memcpy", "-")),
    ]
}

/// Boots a lab of its own, measures all peers, prints the tables and writes `bench/ring.json`. Whether every figure could be taken.
///
/// # Errors
/// When something cannot be built, or the lab or a domain fails.
pub fn run(options: &Options) -> Result<bool> {
    let progress = Progress::new();
    let files = build_ring(&Paths::new(&options.name), &SIZES, &progress)?;
    let kernel = stubdom::build(Profile::Release).map_err(|e| ScenarioError::Broken(e.to_string()))?;
    let lab = Lab::up(&lab::Options::of(&options.name, &Llm::Without, progress))?;
    lab.host(1 - HOST).kill()?;
    let host = lab.host(HOST);
    host.put(&kernel, "/lab/llm-stubdom")?;
    let commands = start(host, &files)?;
    let mut taken: Vec<Vec<Figures>> = vec![Vec::new(); commands.len()];
    let mut whole = true;
    for round in 1..=options.rounds {
        for ((peer, command), taken) in commands.iter().zip(&mut taken) {
            let step = progress.step(format!("Round {round} of {}: {peer}", options.rounds));
            match measure(host, command, options.time) {
                Ok(figures) => {
                    taken.extend(figures);
                    step.done("measured");
                }
                // The others are worth their figures all the same.
                Err(error) => {
                    whole = false;
                    step.done(&format!("failed: {error}"));
                }
            }
        }
    }
    let rows: Vec<Row> = commands
        .iter()
        .zip(&taken)
        .flat_map(|((peer, _), taken)| SIZES.map(|size| Row::new(peer, size, median(taken, size))))
        .collect();
    println!("\n{}\n{}", utc(SystemTime::now()), table(&rows));
    let file = super::super::write("ring", &rows).map_err(|e| ScenarioError::Broken(e.to_string()))?;
    println!("Written: {}", file.display());
    Ok(whole && rows.iter().all(Row::is_whole))
}

/// Makes both domains, and returns what measures each peer.
fn start(host: &Host, files: &RingFiles) -> Result<[(&'static str, String); 5]> {
    host.put(&files.ring_peer, "/lab/ring-peer")?;
    host.put(&files.vchan_peer, "/lab/vchan-peer")?;
    host.put(&files.image, "/lab/ring.cpio")?;
    host.check("chmod +x /lab/ring-peer /lab/vchan-peer")?;
    host.put_bytes(guest::RING.text().as_bytes(), 0o644, &guest::RING.path())?;
    let config = unikernel::config(UNIKERNEL, std::path::Path::new("/lab/llm-stubdom"), UNIKERNEL_MIB);
    host.put_bytes(config.as_bytes(), 0o644, &format!("/lab/{UNIKERNEL}.cfg"))?;
    let mut domids = [0; 2];
    for (name, domid) in [guest::RING.name, UNIKERNEL].into_iter().zip(&mut domids) {
        host.check(&format!("xl create -q /lab/{name}.cfg"))?;
        let text = host.check(&format!("xl domid {name}"))?.text();
        *domid = text.parse().map_err(|_| ScenarioError::Broken(format!("xl domid {name}: {text}")))?;
    }
    let [ring, unikernel] = domids;
    // Its last service, which all others come before.
    let offered = format!("xenstore-read /local/domain/{ring}/data/vchan/{}/ring-ref", SIZES[0]);
    host.wait_for(&offered, PATIENCE)?;
    host.wait_for(&format!("ping -c 1 -W 1 {}", guest::ADDRESS), PATIENCE)?;
    Ok(peers(ring, unikernel))
}

/// Measures one peer with all sizes.
fn measure(host: &Host, command: &str, time: Duration) -> Result<Vec<Figures>> {
    let sizes = SIZES.map(|size| size.to_string()).join(" ");
    let output = host.check(&format!("{command} {} {sizes}", time.as_millis()))?.text();
    let bad = |e: serde_json::Error| ScenarioError::Broken(format!("`{command}` printed {output:?}: {e}"));
    output.lines().map(|line| serde_json::from_str(line).map_err(bad)).collect()
}
