//! Who encodes a stream: this process, or a domain of its own.

use std::time::Duration;

use llm_core::service::Request;

use super::driver::error_chain;
use super::stream::StreamConfig;
use crate::checkpoint::encode::Encoder;
use crate::checkpoint::offload::{Line, LineError, Offload, PATIENCE};
use crate::messages::Messages;
use crate::xen::unikernel::Unikernel;

/// The encoder of a stream, and in words who it is: a domain of its own if one is wanted and to be had.
pub(super) fn make_encoder(config: &StreamConfig) -> (Encoder, String) {
    let pages = config.shadow_pages;
    let Some(domain) = &config.encoder else { return (Encoder::new(pages), "dom0".into()) };
    let offload = || -> Result<Offload, LineError> {
        let unikernel = domain.connect(pages)?;
        let messages = Messages::new(domain.name(), domain.kernel());
        Ok(Offload::begin(Box::new(EncoderLine { unikernel, messages }), pages, PATIENCE)?)
    };
    match offload() {
        Ok(offload) => {
            tracing::info!(domain = domain.name(), "a domain of its own encodes");
            (Encoder::with_offload(pages, offload), format!("stubdom {}", domain.name()))
        }
        Err(error) => {
            let why = error_chain(&*error);
            tracing::warn!(error = why, "there is no domain that encodes: encoding in Dom0");
            (Encoder::new(pages), format!("dom0: {why}"))
        }
    }
}

/// The way to a domain that encodes.
#[derive(Debug)]
struct EncoderLine {
    unikernel: Unikernel,
    messages: Messages,
}

impl Line for EncoderLine {
    fn send(&mut self, request: &Request<'_>) -> Result<bool, LineError> {
        Ok(self.unikernel.send(request)?)
    }

    fn show(&mut self) -> Result<(), LineError> {
        Ok(self.unikernel.show()?)
    }

    fn answer(&mut self, into: &mut [u8]) -> Result<Option<usize>, LineError> {
        Ok(self.unikernel.answer(into)?)
    }

    fn wait(&mut self, room: bool, patience: Duration) -> Result<bool, LineError> {
        Ok(self.unikernel.wait(room, patience)?)
    }

    fn message(&mut self, message: &[u8]) {
        self.messages.take(message);
    }

    fn is_there(&mut self) -> Result<bool, LineError> {
        Ok(self.unikernel.is_connected()?)
    }
}
