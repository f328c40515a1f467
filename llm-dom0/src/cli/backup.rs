//! `llm backup`.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::args::{self, Common};
use super::config::{BackupConfig, File};
use super::exit::{Exit, Failure, OrExit};
use super::protect::busy_or_failed;
use super::{host, logging};
use crate::control::{self, HandedConnection, Request, Response, Status};
use crate::session::backup::{self, BackupError, Service};
use llm_core::replay::OnDivergence;

pub(super) fn run(common: &Common, args: &args::Backup) -> Result<Exit, Failure> {
    logging::start(common)?;
    let file = File::load(common.config.as_deref()).or_exit(Exit::Usage)?;
    let config = BackupConfig::new(&args.settings, &file).or_exit(Exit::Usage)?;
    host::check()?;
    host::raise_priority();

    let service = Service::bind(backup::BackupConfig {
        listen: config.listen,
        shadow_pages_max: u64::from(host::pages(config.shadow_limit)),
        buffer_limit: config.buffer_limit,
        keep_log: config.keep_log,
        on_divergence: match config.on_divergence {
            args::OnDivergence::Reset => OnDivergence::Reset,
            args::OnDivergence::Serve => OnDivergence::Serve,
            args::OnDivergence::Ignore => OnDivergence::Ignore,
        },
        state_dir: config.state_dir,
    })
    .map_err(|error| {
        let code = match error {
            BackupError::State { .. } => Exit::Usage,
            BackupError::Listen { .. } => Exit::Busy,
        };
        Failure::new(code, error)
    })?;
    let handle = service.handle();
    let answers = handle.clone();
    let _server = control::serve(&control::backup_socket(), "The role of backup", move |r| match r {
        Request::Status => Response::Status(Box::new(Status::Backup(answers.status()))),
        Request::HandOver { domain } => match answers.hand_over(&domain) {
            Ok(handed) => Response::HandedOver {
                connections: handed.map(|handed| handed.iter().map(HandedConnection::from).collect()),
            },
            Err(reason) => Response::Error { reason },
        },
        Request::Release { .. } => {
            Response::Error { reason: "A domain is released on its primary: llm release DOMAIN".into() }
        }
    })
    .map_err(|e| Failure::new(busy_or_failed(&e), e))?;
    let mut signals = Signals::new([SIGTERM, SIGINT]).or_exit(Exit::Failed)?;
    std::thread::Builder::new().name("serve".into()).spawn(move || service.run()).or_exit(Exit::Failed)?;
    host::notify_ready("listening");
    tracing::info!("ready to receive domains");
    signals.forever().next();
    tracing::info!("asked to end: telling the primaries, dropping the copies");
    host::notify_stopping();
    handle.shut_down();
    Ok(Exit::Done)
}
