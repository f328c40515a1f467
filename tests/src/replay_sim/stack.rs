//! A host's network stack: smoltcp behind a [`Nic`], on a clock that is handed in.

use super::nic::Nic;
use super::{MS, Nanos};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Address};
use std::collections::VecDeque;

#[derive(Debug, Default)]
struct Wire {
    rx: Option<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
    mtu: usize,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        self.rx.take().map(|packet| (Rx(packet), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// How a host is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// The last byte of its address.
    pub(super) address: u8,
    pub(super) secret: u64,
    pub(super) mtu: usize,
    /// Checksums are left to the wire.
    pub(super) partial: bool,
    /// Acknowledgements may wait for data.
    pub(super) delayed_ack: bool,
    pub(super) timestamps: bool,
}

pub(super) struct Stack {
    setup: Setup,
    wire: Wire,
    iface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) nic: Nic,
}

pub(super) const fn address(last: u8) -> Ipv4Address {
    Ipv4Address::new(10, 0, 0, last)
}

fn instant(clock: Nanos) -> Instant {
    Instant::from_micros(i64::try_from(clock / 1000).expect("a short time"))
}

impl Stack {
    pub(super) fn new(setup: Setup) -> Self {
        let mut wire = Wire { mtu: setup.mtu, ..Wire::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = setup.secret;
        let mut iface = Interface::new(config, &mut wire, Instant::ZERO);
        iface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address(setup.address).into(), 24)).expect("room for one");
        });
        let nic = Nic::new(setup.address, setup.secret, setup.partial);
        Self { setup, wire, iface, sockets: SocketSet::new(Vec::new()), nic }
    }

    pub(super) fn add_socket(&mut self, buffer: usize) -> SocketHandle {
        let room = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut socket = tcp::Socket::new(room(), room());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    /// Options that a socket loses when it is reset.
    fn options(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.set_ack_delay(self.setup.delayed_ack.then(|| Duration::from_millis(10)));
        // The value is put in at the boundary.
        socket.set_tsval_generator(self.setup.timestamps.then_some(|| 1));
        socket
    }

    pub(super) fn listen(&mut self, handle: SocketHandle, port: u16) {
        self.options(handle).listen(port).expect("a closed socket");
    }

    pub(super) fn connect(&mut self, handle: SocketHandle, from: u16, to: (Ipv4Address, u16)) {
        self.options(handle);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.iface.context(), to, from).expect("a closed socket");
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A packet from the wire.
    pub(super) fn receive(&mut self, packet: &[u8], clock: Nanos) {
        self.wire.rx = self.nic.incoming(packet);
        if self.wire.rx.is_some() {
            self.iface.poll_ingress_single(instant(clock), &mut self.wire, &mut self.sockets);
        }
    }

    /// What it has to send.
    pub(super) fn send(&mut self, clock: Nanos) -> Vec<Vec<u8>> {
        while self.iface.poll_egress(instant(clock), &mut self.wire, &mut self.sockets) != PollResult::None {}
        self.wire.tx.drain(..).map(|ip| self.nic.outgoing(&ip, clock)).collect()
    }

    /// When it has something to do although nothing comes.
    pub(super) fn wake_at(&mut self, clock: Nanos) -> Option<Nanos> {
        let at = self.iface.poll_at(instant(clock), &self.sockets)?;
        let at = u64::try_from(at.total_micros()).expect("a time to come") * 1000;
        Some(at.max(clock + MS / 10))
    }
}
