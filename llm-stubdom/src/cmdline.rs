//! Options on the kernel command line: words `KEY=VALUE`, separated by blanks.
//!
//! | option | what it does |
//! |---|---|
//! | `fault=digest` | a byte of the decoded test page is flipped: the self-test must fail |
//! | `fault=panic` | the kernel panics: it must say so and crash the domain |
//! | `fault=null` | address 0 is read: Xen must crash the domain |
//! | `fault=stack` | the page below the stack is read: Xen must crash the domain |
//! | `fault=ring` | in the middle of its work it writes nonsense into a ring: its driver must see it and go on without it |
//!
//! Xen may add words of its own for a first domain, so unknown ones are passed over.

use core::fmt;

/// A fault made on purpose, to show that its guard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A flipped byte, before digests are compared.
    Digest,
    /// A panic.
    Panic,
    /// A read through a null pointer.
    Null,
    /// A read beyond the end of the stack.
    Stack,
    /// A ring whose index jumps.
    Ring,
}

/// The options understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The fault to make, if any.
    pub fault: Option<Fault>,
}

/// A command line that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownValue<'a> {
    /// The option.
    pub key: &'a str,
    /// What it was set to.
    pub value: &'a str,
}

impl fmt::Display for UnknownValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Kernel option {}={} is unknown: use digest, panic, null, ring or stack",
            self.key, self.value
        )
    }
}

impl core::error::Error for UnknownValue<'_> {}

impl Options {
    /// Reads a command line. The last of equal keys counts.
    ///
    /// # Errors
    /// [`UnknownValue`] for a known key with a value it does not have.
    pub fn parse(line: &str) -> Result<Self, UnknownValue<'_>> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            if let Some((key @ "fault", value)) = word.split_once('=') {
                options.fault = Some(match value {
                    "digest" => Fault::Digest,
                    "panic" => Fault::Panic,
                    "null" => Fault::Null,
                    "ring" => Fault::Ring,
                    "stack" => Fault::Stack,
                    _ => return Err(UnknownValue { key, value }),
                });
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_words_and_passes_over_others() {
        assert_eq!(Options::parse(""), Ok(Options::default()));
        assert_eq!(Options::parse("llm-stubdom console=hvc0 fault"), Ok(Options::default()));
        assert_eq!(Options::parse(" acpi=off fault=null").map(|o| o.fault), Ok(Some(Fault::Null)));
        assert_eq!(Options::parse("fault=null\tfault=stack").map(|o| o.fault), Ok(Some(Fault::Stack)));
    }

    #[test]
    fn refuses_a_value_it_does_not_know() {
        assert_eq!(Options::parse("fault=all"), Err(UnknownValue { key: "fault", value: "all" }));
        assert_eq!(Options::parse("fault="), Err(UnknownValue { key: "fault", value: "" }));
    }
}
