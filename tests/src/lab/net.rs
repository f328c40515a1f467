//! The lab's network: one namespace with three bridges, three taps a host.

use super::command::words;
use super::error::{Context as _, LabError, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

/// One of the three networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Clients and guests; 10.77.0.0/24, fd77::/64.
    Service,
    /// Between the hosts, for replication; 10.78.0.0/24, fd78::/64.
    Replication,
    /// The runner's own way into the hosts; 10.79.0.0/24.
    Management,
}

impl Link {
    /// All three, in the order of a host's network cards (eth0, eth1, eth2).
    pub const ALL: [Self; 3] = [Self::Service, Self::Replication, Self::Management];

    /// Name of the bridge in the namespace.
    #[must_use]
    pub const fn bridge(self) -> &'static str {
        match self {
            Self::Service => "svc",
            Self::Replication => "rep",
            Self::Management => "mgmt",
        }
    }

    const fn subnet(self) -> u8 {
        match self {
            Self::Service => 77,
            Self::Replication => 78,
            Self::Management => 79,
        }
    }

    /// Name of the tap of host `number` (1 or 2).
    #[must_use]
    pub fn tap(self, number: usize) -> String {
        format!("h{number}-{}", self.bridge())
    }

    /// Address of host `number` (1 or 2): 10.x.0.11 or 10.x.0.12.
    #[must_use]
    pub fn host_address(self, number: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet(), 0, if number == 1 { 11 } else { 12 })
    }

    /// Address of the namespace itself, where clients run: 10.x.0.1.
    #[must_use]
    pub const fn own_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet(), 0, 1)
    }

    /// MAC of host `number` on this link.
    #[must_use]
    pub fn mac(self, number: usize) -> String {
        format!("52:54:00:{}:00:1{number}", self.subnet())
    }
}

/// The namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace called `name`, which may not exist yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn file(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Whether it exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.file().exists()
    }

    fn ip(&self, line: &str) -> Result<()> {
        let mut all = vec!["ip", "-n", &self.name];
        all.extend(line.split(' '));
        words(&all).map(drop)
    }

    /// Creates the namespace, its bridges and all taps.
    ///
    /// # Errors
    /// When `ip` fails: no root, no tun device, a namespace of that name exists.
    pub fn create(&self) -> Result<()> {
        words(&["ip", "netns", "add", &self.name])?;
        self.ip("link set lo up")?;
        for link in Link::ALL {
            let bridge = link.bridge();
            // No snooping: without a querier it would, after a while, eat neighbour discovery.
            self.ip(&format!("link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"))?;
            self.ip(&format!("addr add {}/24 dev {bridge}", link.own_address()))?;
            self.ip(&format!("addr add fd{}::1/64 dev {bridge} nodad", link.subnet()))?;
            for number in [1, 2] {
                let tap = link.tap(number);
                self.ip(&format!("tuntap add dev {tap} mode tap"))?;
                self.ip(&format!("link set {tap} master {bridge} up"))?;
            }
            self.ip(&format!("link set {bridge} up"))?;
        }
        Ok(())
    }

    /// Removes the namespace with all that is in it. Nothing happens when there is none.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn remove(&self) -> Result<()> {
        if self.exists() { words(&["ip", "netns", "del", &self.name]).map(drop) } else { Ok(()) }
    }

    /// Processes in the namespace.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let output = words(&["ip", "netns", "pids", &self.name])?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(|l| l.trim().parse().ok()).collect())
    }

    /// Takes a host's tap out of its bridge: nothing passes any more, and neither side is told.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self, number: usize, link: Link) -> Result<()> {
        self.ip(&format!("link set {} nomaster", link.tap(number)))
    }

    /// Undoes [`Self::cut`].
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn heal(&self, number: usize, link: Link) -> Result<()> {
        self.ip(&format!("link set {} master {}", link.tap(number), link.bridge()))
    }

    /// Runs `f` on a thread of its own inside the namespace: sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// With the panic of `f`.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.file();
        let inside = || {
            let handle = File::open(&file).context(|| format!("open {}", file.display()))?;
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                .context(|| format!("enter the namespace {}", self.name))?;
            Ok(f())
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A command that will run inside the namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> std::process::Command {
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl std::str::FromStr for Link {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|l| l.bridge() == text).ok_or_else(|| LabError::Missing {
            what: format!("A link called `{text}`"),
            hint: "there are svc (service), rep (replication) and mgmt (management)".into(),
        })
    }
}
