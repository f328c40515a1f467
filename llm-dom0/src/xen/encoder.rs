//! The domain that encodes for a protected one: made by `xl`, found again after a crash of ours, and taken away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::toolstack::{ToolstackError, Xl};
use super::unikernel::{self, Unikernel, UnikernelError};

/// Time that a new domain has for each step: a busy host boots it slowly.
const BOOT: Duration = Duration::from_secs(20);
/// The same for one that runs already.
const REJOIN: Duration = Duration::from_secs(5);
const PAGES_PER_MIB: u64 = 256;
/// Longest name of a domain.
const NAME_MAX: usize = 64;

/// Why there is no domain that encodes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// Its configuration cannot be written.
    #[error("Cannot write {}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `xl` does not make it.
    #[error("Cannot make the encoder's domain")]
    Toolstack(#[from] ToolstackError),
    /// It is there, and of no use.
    #[error("The encoder's domain cannot be used")]
    Unikernel(#[from] UnikernelError),
    /// Its number does not fit.
    #[error("The number {0} of the encoder's domain is out of range")]
    Domid(u32),
}

/// A domain that encodes, to be made when it is needed.
#[derive(Clone, Debug)]
pub struct EncoderDomain {
    xl: Xl,
    name: String,
    kernel: PathBuf,
    /// For `xl`.
    file: PathBuf,
    guest_mib: u64,
}

impl EncoderDomain {
    /// For the domain called `domain`, of `guest_mib` MiB; its configuration is written to the folder `run`.
    #[must_use]
    pub fn new(xl: Xl, domain: &str, kernel: &Path, guest_mib: u64, run: &Path) -> Self {
        let mut name = format!("llm-enc-{domain}");
        // Names of domains that can be protected are ASCII.
        name.truncate(NAME_MAX);
        let file = run.join(format!("{name}.cfg"));
        Self { xl, name, kernel: kernel.to_owned(), file, guest_mib }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel that it is made from.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// Connects to the domain with room for `copies` pages, or all of the guest's if these are less; makes it first if there is none that can be used.
    ///
    /// # Errors
    /// [`EncoderError`].
    pub fn connect(&self, copies: u32) -> Result<Unikernel, EncoderError> {
        let guest = u32::try_from(self.guest_mib.saturating_mul(PAGES_PER_MIB)).unwrap_or(u32::MAX);
        let copies = copies.min(guest);
        if let Some(number) = self.xl.domid(&self.name)? {
            // Left by an earlier session, or by a driver that was killed.
            match connect(number, REJOIN) {
                Ok(unikernel) if unikernel.copies() >= copies => return Ok(unikernel),
                Ok(unikernel) => {
                    tracing::info!(have = unikernel.copies(), copies, "the encoder's domain is too small");
                }
                Err(error) => tracing::info!(%error, "the encoder's domain is of no use any more"),
            }
            self.xl.destroy(&self.name)?;
        }
        let config = unikernel::config(&self.name, &self.kernel, self.guest_mib);
        fs::write(&self.file, config)
            .map_err(|source| EncoderError::Config { path: self.file.clone(), source })?;
        self.xl.create(&self.file)?;
        let number = self.xl.domid(&self.name)?.ok_or_else(|| ToolstackError::NoDomain(self.name.clone()))?;
        connect(number, BOOT).inspect_err(|_| self.destroy())
    }

    /// Takes the domain away, if it is there.
    pub fn destroy(&self) {
        match self.xl.domid(&self.name) {
            Ok(Some(_)) => {
                if let Err(error) = self.xl.destroy(&self.name) {
                    tracing::warn!(%error, "the encoder's domain stays; `xl destroy {}` takes it away", self.name);
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot tell whether the encoder's domain is there"),
        }
        // It may never have been written.
        let _ = fs::remove_file(&self.file);
    }
}

fn connect(number: u32, patience: Duration) -> Result<Unikernel, EncoderError> {
    let domid = u16::try_from(number).map_err(|_| EncoderError::Domid(number))?;
    Ok(Unikernel::connect(domid, patience)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeXl;
    use super::*;

    #[test]
    fn a_domain_that_cannot_be_made_is_an_error_with_the_words_of_xl() {
        let fake = FakeXl::new(
            "case $1 in domid) echo 'domain does not exist' >&2; exit 1;; create) cat \"$2\" >$0.log; \
             echo 'not enough memory' >&2; exit 3;; esac",
        );
        let run = fake.program().parent().expect("a folder").to_owned();
        let xl = Xl::new(fake.program(), Duration::from_secs(30));
        let domain = EncoderDomain::new(xl, "web1", Path::new("/k"), 128, &run);
        let Err(EncoderError::Toolstack(error)) = domain.connect(1000) else { panic!("no error") };
        assert!(error.to_string().contains("not enough memory"), "{error}");
        assert!(fake.side("log").contains("name = \"llm-enc-web1\""), "{}", fake.side("log"));
        domain.destroy();
        assert!(!run.join("llm-enc-web1.cfg").exists());
    }
}
