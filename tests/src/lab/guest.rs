//! The lab's guests: their `xl` configurations and how to tell that they answer.

use super::error::{LabError, Result};
use super::host::Host;
use super::net::Namespace;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Name of the service guest's domain.
pub const NAME: &str = "guest";
/// The same guest for the stock toolstack: with a plain network script. It has the same address, so only one can run.
pub const PLAIN: &str = "plain";
/// Name of the smallest guest.
pub const TINY: &str = "tiny";
/// The service guest's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
/// Its IPv6 address.
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x50);
/// Its MAC.
pub const MAC: &str = "00:16:3e:77:00:50";
/// Port of nginx: `/`, `/64k`, `/download`.
pub const HTTP: u16 = 80;
/// Port of redis.
pub const REDIS: u16 = 6379;

/// A guest's configuration, present on both hosts under `/lab/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Name of the domain and, with `.cfg`, of the file.
    pub name: &'static str,
    memory_mib: u32,
    boot: &'static str,
    script: Option<&'static str>,
}

impl Config {
    /// Path of the file in the host.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/lab/{}.cfg", self.name)
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { name, memory_mib, boot, script } = self;
        let vif = script.map_or_else(String::new, |script| {
            format!("vif = [ \"mac={MAC},bridge=xenbr0,script={script}\" ]\n")
        });
        format!(
            "name = \"{name}\"\ntype = \"pvh\"\n{boot}memory = {memory_mib}\nmaxmem = {memory_mib}\nvcpus = 1\n{vif}\
             on_poweroff = \"destroy\"\non_reboot = \"destroy\"\non_crash = \"destroy\"\n"
        )
    }
}

/// The domain that sends records back, for `cargo lab bench ring`: Linux with [`ADDRESS`], and an image that is put beside.
pub const RING: Config = Config {
    name: "ring",
    memory_mib: 128,
    boot: "kernel = \"/lab/vmlinuz\"\nramdisk = \"/lab/ring.cpio\"\nextra = \"console=hvc0 loglevel=4 rdinit=/init net.ifnames=0\"\n",
    script: Some("lab-vif"),
};

const LINUX: &str = "kernel = \"/lab/vmlinuz\"\nramdisk = \"/lab/guest.cpio\"\n\
    extra = \"console=hvc0 loglevel=4 rdinit=/init net.ifnames=0\"\n";

/// The guests there are: `guest` (its vif made by the script that `llm` ships, where there is one), `plain` (the same with the
/// lab's own script, for the stock toolstack) and `tiny` (4 MiB, no devices; see [`create_tiny`]).
#[must_use]
pub fn configs(shipped_script: bool) -> [Config; 3] {
    let script = if shipped_script { "llm-vif" } else { "lab-vif" };
    let guest = Config { name: NAME, memory_mib: 128, boot: LINUX, script: Some(script) };
    let plain = Config { name: PLAIN, script: Some("lab-vif"), ..guest };
    let tiny = Config { name: TINY, memory_mib: 4, boot: "kernel = \"/lab/tiny.elf\"\n", script: None };
    [guest, plain, tiny]
}

/// Creates the smallest guest: a unikernel that dirties 32 pages one after the other, a page each 10 ms. It can be saved,
/// restored and checkpointed within a second or two.
///
/// # Errors
/// When `xl create` fails.
pub fn create_tiny(host: &Host) -> Result<()> {
    host.check(&format!("xl create -q /lab/{TINY}.cfg"))?;
    // It has no xenbus: Dom0 tells the toolstack its event channel for suspend requests.
    host.check(&format!("xenstore-write /local/domain/$(xl domid {TINY})/device/suspend/event-channel 3"))
        .map(drop)
}

/// Creates the guest `name` on a host and returns when its servers answer.
///
/// # Errors
/// When `xl create` fails, or nothing answers in time.
pub fn create(host: &Host, namespace: &Namespace, name: &str, timeout: Duration) -> Result<()> {
    host.check(&format!("xl create -q /lab/{name}.cfg"))?;
    wait_ready(namespace, timeout).map_err(|error| match error {
        LabError::Timeout { what, seconds, detail } => {
            let console = host.run(&format!("tail -n 20 /var/log/xen/console/guest-{name}.log"));
            let console = console.map(|o| o.text()).unwrap_or_default();
            LabError::Timeout { what, seconds, detail: format!("{detail}; its console:\n{console}") }
        }
        other => other,
    })
}

/// Waits until HTTP and redis answer in the namespace.
///
/// # Errors
/// [`LabError::Timeout`] with the last reason.
pub fn wait_ready(namespace: &Namespace, timeout: Duration) -> Result<()> {
    namespace.enter(|| {
        let start = Instant::now();
        loop {
            let asked = ask(HTTP, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200")
                .and_then(|()| ask(REDIS, b"PING\r\n", b"+PONG"))
                .and_then(|()| ask(super::pattern::ECHO_PORT, b"echo", b"echo"));
            match asked {
                Ok(()) => return Ok(()),
                Err(e) if start.elapsed() > timeout => {
                    return Err(LabError::Timeout {
                        what: format!("the guest at {ADDRESS} to answer"),
                        seconds: timeout.as_secs(),
                        detail: format!(": {e}"),
                    });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    })?
}

fn ask(port: u16, question: &[u8], answer: &[u8]) -> io::Result<()> {
    let address = SocketAddr::new(IpAddr::V4(ADDRESS), port);
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(question)?;
    let mut got = vec![0; answer.len()];
    connection.read_exact(&mut got)?;
    if got == answer {
        Ok(())
    } else {
        Err(io::Error::other(format!("port {port} gave an unexpected answer")))
    }
}
