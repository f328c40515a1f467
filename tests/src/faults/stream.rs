//! What real `xl` saves, through the engine.

use std::fs;

use llm_dom0::checkpoint::encode::{Encoder, EpochSummary, Output};
use llm_dom0::checkpoint::rebuild::{EpochCheck, Rebuilder};

use super::{Tour, here};
use crate::lab::guest;
use crate::scenario::{Result, ScenarioError, ensure};

/// Pages of which both sides keep a copy: less than the guest has, so that some go without.
const SHADOW_PAGES: u32 = 20_000;

/// `xl save` of the running guest, encoded and rebuilt, is the same file, and Xen's own checker accepts it.
pub(super) fn saved(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.unprotected()?;
    let lab = tour.lab;
    lab.host(host).check(&format!("xl save -c {} /tmp/saved", guest::NAME))?;
    let mut saved = Vec::new();
    let got = lab.host(host).get_into("/tmp/saved", &mut saved);
    lab.host(host).check("rm -f /tmp/saved")?;
    got?;

    let (mut encoder, mut rebuilder) = (Encoder::new(SHADOW_PAGES), Rebuilder::new(SHADOW_PAGES));
    let mut rebuilt = Vec::with_capacity(saved.len());
    let (mut epochs, mut wrong): (Vec<EpochSummary>, Option<String>) = (Vec::new(), None);
    for piece in saved.chunks(1 << 20) {
        let fed = encoder.feed(piece, |output| {
            let result = match output {
                Output::Batch(batch) => rebuilder.apply(batch, |bytes| rebuilt.extend_from_slice(bytes)),
                Output::Epoch(epoch) => {
                    epochs.push(epoch.clone());
                    rebuilder.finish_epoch(EpochCheck {
                        stream_bytes: epoch.stream_bytes,
                        digest: epoch.digest,
                        pages: epoch.pages,
                    })
                }
                Output::Mark(_) => Ok(()),
            };
            if let Err(error) = result {
                wrong.get_or_insert_with(|| error.to_string());
            }
        });
        fed.map_err(|e| ScenarioError::Broken(format!("what xl saved is not understood: {e}")))?;
    }
    ensure(wrong.is_none(), || format!("what xl saved cannot be rebuilt: {wrong:?}"))?;
    ensure(rebuilt == saved, || {
        let differs = rebuilt.iter().zip(&saved).position(|(a, b)| a != b);
        format!("{} bytes rebuilt of {}, the first difference at {differs:?}", rebuilt.len(), saved.len())
    })?;
    let whole = matches!(&epochs[..], [one] if one.last && u64::from(one.pages) * 4096 > (64 << 20));
    ensure(whole, || format!("not one whole memory: {epochs:?}"))?;

    let tools = lab.paths().root().join("usr/lib/xen-4.17");
    let file = lab.paths().cache.join("rebuilt.save");
    let check = |bytes: &[u8]| {
        here("write the rebuilt file", fs::write(&file, bytes))?;
        let mut command = std::process::Command::new("python3");
        command.env("PYTHONPATH", tools.join("lib/python")).arg(tools.join("bin/verify-stream-v2"));
        let output = here("run verify-stream-v2", command.args(["-f", "xl", "-i"]).arg(&file).output());
        here("remove the rebuilt file", fs::remove_file(&file))?;
        output
    };
    let good = check(&rebuilt)?;
    ensure(good.status.success(), || format!("refused: {}", String::from_utf8_lossy(&good.stderr)))?;
    // The last record's type.
    let at = rebuilt.len().saturating_sub(8);
    rebuilt[at] = 0x7f;
    ensure(!check(&rebuilt)?.status.success(), || "the checker accepts anything".into())
}
