//! The backup's process: the real service, with what stands for `xl` in the search path.

use std::io;
use std::path::PathBuf;

use llm_core::replay::OnDivergence;
use llm_dom0::session::backup::{BackupConfig, Service};

/// Serves until it is killed.
///
/// # Errors
/// The address or the directory cannot be used.
pub fn run(listen: String, state_dir: PathBuf) -> io::Result<()> {
    let config = BackupConfig {
        listen,
        shadow_pages_max: 1 << 20,
        buffer_limit: 256 << 20,
        on_divergence: OnDivergence::Reset,
        keep_log: false,
        state_dir,
    };
    Service::bind(config).map_err(io::Error::other)?.run();
    Ok(())
}
