//! The packet path on real interfaces. Needs root: without it the tests say so and pass, unless `LLM_REQUIRE_ROOT=1`.

#[path = "net/handover.rs"]
mod handover;
#[path = "net/hotplug.rs"]
mod hotplug;
#[path = "net/lab.rs"]
mod lab;
#[path = "net/throughput.rs"]
mod throughput;
#[path = "net/traffic.rs"]
mod traffic;

use lab::{BRIDGE, GUEST_MAC, Lab, RawSocket, TAP, VIF, ip, run_in, skip_without_root, wait_for};
use llm_core::time::Instant;
use llm_dom0::clock;
use llm_dom0::net::{
    Announcement, HOLDING_BRIDGE, Joint, JointConfig, Learnt, NetError, NetEvent, announce, bridge_of, rejoin,
};
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const FOR_EVER: Instant = Instant::from_nanos(u64::MAX);
const QUIET: Duration = Duration::from_millis(200);
/// For what must come: long, since other tests may have the CPUs.
const SOON: Duration = Duration::from_secs(10);

/// A joint with the test's hand on its mark and its events.
struct Joined {
    joint: Joint,
    mark: Arc<AtomicU64>,
    events: Receiver<NetEvent>,
}

fn config(soft_bytes: usize) -> JointConfig {
    JointConfig { vif: VIF.into(), bridge: BRIDGE.into(), tap: TAP.into(), mac: Some(GUEST_MAC), soft_bytes }
}

fn start(lab: &Lab, soft_bytes: usize) -> Joined {
    let mark = Arc::new(AtomicU64::new(1));
    let (tx, events) = channel();
    let m = Arc::clone(&mark);
    let joint = run_in(&lab.host(), move || {
        let mark = move || m.load(Ordering::SeqCst);
        let events = move |e| {
            let _ = tx.send(e);
        };
        Joint::start(&config(soft_bytes), None, mark, events).unwrap()
    });
    Joined { joint, mark, events }
}

/// A joint that lets everything through.
fn start_open(lab: &Lab) -> Joined {
    let joined = start(lab, 64 << 20);
    joined.joint.lease(FOR_EVER);
    joined.joint.release(u64::MAX);
    joined
}

impl Joined {
    /// Sends the numbers and waits until the joint has them, under the mark of now.
    fn send(&self, from: &RawSocket, numbers: std::ops::Range<u32>) {
        let before = self.joint.stats().egress_packets;
        let wanted = before + u64::from(numbers.end - numbers.start);
        numbers.for_each(|n| from.send_number(n));
        wait_for("the joint reads what was sent", || {
            let s = self.joint.stats();
            s.egress_packets >= wanted && s.held_packets + s.released_packets + s.dropped_full >= wanted
        });
    }

    fn events(&self) -> Vec<NetEvent> {
        self.events.try_iter().filter(|e| *e != NetEvent::AddressesChanged).collect()
    }
}

#[test]
fn tcp_and_udp_of_both_families_pass_unharmed_both_ways() {
    if skip_without_root() {
        return;
    }
    const BYTES: u64 = 50_000_000;
    let lab = Lab::new();
    let joined = start_open(&lab);
    for (guest, client) in [("10.77.0.2:7000", "10.77.0.3:7000"), ("[fd77::2]:7000", "[fd77::3]:7000")] {
        traffic::udp_echo(&lab, client);
        traffic::tcp(&lab.guest(), &lab.client(), client, BYTES);
        traffic::tcp(&lab.client(), &lab.guest(), guest, BYTES);
    }
    // The host's own stack, behind the bridge.
    traffic::tcp(&lab.guest(), &lab.host(), "10.77.0.1:7001", 1_000_000);

    let stats = joined.joint.stats();
    println!("{stats:?}");
    assert!(stats.egress_bytes > 2 * BYTES && stats.ingress_bytes > 2 * BYTES);
    // Half of the packets are acknowledgements; segments of an MTU would stay below 1514 bytes.
    assert!(stats.egress_bytes / stats.egress_packets > 1600, "segmentation offload does not reach the TAP");
    assert!(
        stats.ingress_bytes / stats.ingress_packets > 1600,
        "segmentation offload does not reach the vif"
    );
    assert_eq!((stats.dropped_unreadable, stats.dropped_egress), (0, 0));

    let (mac, addresses) = joined.joint.addresses();
    assert_eq!(mac, Some(GUEST_MAC));
    for want in ["10.77.0.2", "fd77::2"] {
        let want = Learnt::from(want.parse::<IpAddr>().unwrap());
        assert!(addresses.contains(&want), "{addresses:?} lacks {want:?}");
    }
}

#[test]
fn held_output_in_epochs_is_only_late() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let joined = start(&lab, 64 << 20);
    joined.joint.lease(FOR_EVER);
    let (guest, client) = (lab.guest(), lab.client());
    let transfer = std::thread::spawn(move || traffic::tcp(&guest, &client, "10.77.0.3:7000", 10_000_000));
    let mut epoch = 1;
    while !transfer.is_finished() {
        std::thread::sleep(Duration::from_millis(10));
        epoch += 1;
        joined.mark.store(epoch, Ordering::SeqCst);
        joined.joint.release(epoch);
    }
    transfer.join().unwrap();
    let stats = joined.joint.stats();
    assert!(stats.held_peak_bytes > 0 && stats.dropped_full == 0, "{stats:?}");
    assert!(epoch > 5, "the transfer never waited");
}

#[test]
fn nothing_leaves_before_its_epoch_and_order_is_kept() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let (guest, client) = (lab.guest_socket(), lab.client_socket());
    let joined = start(&lab, 1 << 20);
    joined.joint.lease(FOR_EVER);
    joined.send(&guest, 0..10);
    joined.mark.store(2, Ordering::SeqCst);
    joined.send(&guest, 10..20);
    assert_eq!(client.receive(QUIET), None);
    joined.joint.release(1);
    assert_eq!(client.receive(QUIET), None);
    joined.joint.release(2);
    client.expect(0..=9);
    joined.send(&guest, 20..250);
    joined.joint.release(3);
    client.expect(10..=249);
    let stats = joined.joint.stats();
    assert_eq!((stats.held_packets, stats.held_bytes), (0, 0));

    // A lower limit holds again.
    joined.joint.release(0);
    joined.send(&guest, 250..251);
    assert_eq!(client.receive(QUIET), None);
}

#[test]
fn a_full_hold_asks_for_a_checkpoint_and_then_drops_the_newest() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let (guest, client) = (lab.guest_socket(), lab.client_socket());
    // Header of 10 bytes and frame of 60: at most 28 packets fit into twice the limit.
    let joined = start(&lab, 1000);
    joined.joint.lease(FOR_EVER);
    joined.send(&guest, 0..14);
    assert_eq!(joined.events(), []);
    joined.send(&guest, 14..28);
    // How many are read at once, before the first look at the limit, is up to the kernel.
    let events = joined.events();
    assert!(matches!(events[..], [NetEvent::Pressure { held: 1000..=1960 }]), "{events:?}");
    joined.send(&guest, 28..40);
    assert_eq!(joined.events(), [NetEvent::Dropping]);
    let stats = joined.joint.stats();
    assert_eq!((stats.held_packets, stats.dropped_full, stats.held_peak_bytes), (28, 12, 1960));
    joined.joint.release(2);
    client.expect(0..=27);
    assert_eq!(joined.events(), [NetEvent::Relieved]);
}

#[test]
fn nothing_leaves_after_the_lease() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let (guest, client) = (lab.guest_socket(), lab.client_socket());
    let joined = start(&lab, 1 << 20);
    joined.joint.release(u64::MAX);
    joined.send(&guest, 0..1);
    assert_eq!(client.receive(QUIET), None, "no lease was given yet");
    joined.joint.lease(clock::now() + Duration::from_secs(1));
    client.expect(0..=0);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(joined.events(), [NetEvent::LeaseOver]);
    joined.send(&guest, 1..3);
    assert_eq!(client.receive(QUIET), None);
    assert_eq!(joined.events(), [NetEvent::LeaseOver]);
    joined.joint.lease(clock::now() + Duration::from_secs(20));
    client.expect(1..=2);
    let stats = joined.joint.stats();
    assert_eq!((stats.lease_waits, stats.sent_late), (2, 0));
}

#[test]
fn tags_and_partial_checksums_survive_together_both_ways() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let joined = start_open(&lab);
    for (from, to, source) in
        [(lab.guest(), lab.client(), GUEST_MAC), (lab.client(), lab.guest(), [2, 0, 0, 0, 0, 9])]
    {
        let receiver = run_in(&to, || RawSocket::open_with_offload("eth0").unwrap());
        let sender = run_in(&from, || RawSocket::open_with_offload("eth0").unwrap());
        let (ip_header, udp) = traffic::udp_with_partial_checksum();
        // The checksum is to be filled in 6 bytes behind 38: Ethernet 14, tag 4, IPv4 20.
        let header: Vec<u8> = [[1, 0], [0; 2], [0; 2], 38_u16.to_ne_bytes(), 6_u16.to_ne_bytes()].concat();
        let tag = [0x81, 0, 0x20, 5];
        sender.send(&[&header[..], &[0xff; 6], &source, &tag, &[8, 0], &ip_header, &udp].concat());
        let (got, tag) = receiver.receive_tagged(SOON).expect("the frame arrives");
        assert_eq!(tag, Some((0x8100, 0x2005)));
        let header: Vec<u8> = [[1, 0], [0; 2], [0; 2], 34_u16.to_ne_bytes(), 6_u16.to_ne_bytes()].concat();
        assert_eq!(got, [&header[..], &[0xff; 6], &source, &[8, 0], &ip_header, &udp].concat());
    }
    assert_eq!(joined.joint.stats().dropped_unreadable, 0);
}

#[test]
fn rejoin_returns_the_guest_to_its_bridge_and_stop_isolates_it() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let (guest, client) = (lab.guest_socket(), lab.client_socket());
    let joined = start_open(&lab);
    assert!(lab.host_link(VIF).contains(HOLDING_BRIDGE));
    assert_eq!(run_in(&lab.host(), || bridge_of(VIF).unwrap()), None);
    joined.joint.stop(true).unwrap();
    assert_eq!(lab.host_link(TAP), "");
    assert_eq!(run_in(&lab.host(), || bridge_of(VIF).unwrap()).as_deref(), Some(BRIDGE));
    guest.send_number(1);
    client.expect(1..=1);

    start_open(&lab).joint.stop(false).unwrap();
    assert_eq!(lab.host_link(TAP), "");
    guest.send_number(2);
    assert_eq!(client.receive(QUIET), None);
    // From there it can be joined again, or returned.
    let again = start_open(&lab);
    again.send(&guest, 3..4);
    client.expect(3..=3);
    drop(again);
    run_in(&lab.host(), || rejoin(VIF, BRIDGE).unwrap());
    guest.send_number(4);
    client.expect(4..=4);
}

#[test]
fn the_first_packet_after_the_start_is_not_lost_even_with_a_spanning_tree() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    // In hundredths of a second; two is the least that the kernel takes.
    let stp = ["type", "bridge", "stp_state", "1", "forward_delay", "200"];
    ip(&[&["-n", &lab.host(), "link", "set", BRIDGE][..], &stp].concat());
    for port in [VIF, "c0"] {
        wait_for("the ports forward again", || lab.host_link(port).contains("state forwarding"));
    }
    let (guest, client) = (lab.guest_socket(), lab.client_socket());
    let joined = start_open(&lab);
    joined.send(&guest, 0..1);
    client.expect(0..=0);
}

#[test]
fn tcp_goes_on_across_start_and_rejoin() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let (guest, client) = (lab.guest(), lab.client());
    let transfer = std::thread::spawn(move || traffic::tcp(&guest, &client, "10.77.0.3:7000", 400_000_000));
    let mut rounds = 0;
    while !transfer.is_finished() {
        let joined = start_open(&lab);
        std::thread::sleep(Duration::from_millis(100));
        joined.joint.stop(true).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        rounds += 1;
    }
    transfer.join().unwrap();
    assert!(rounds > 0);
}

#[test]
fn a_killed_driver_leaves_the_guest_isolated() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let (guest, client) = (lab.guest_socket(), lab.client_socket());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "driver_to_be_killed", "--nocapture"])
        .env("LLM_TEST_NETNS", lab.host())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().ends_with("joined")));
    guest.send_number(1);
    client.expect(1..=1);
    assert!(lab.host_link(TAP).contains(BRIDGE));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the TAP vanishes", || lab.host_link(TAP).is_empty());
    guest.send_number(2);
    assert_eq!(client.receive(QUIET), None);
    assert!(lab.host_link(VIF).contains(HOLDING_BRIDGE));
}

/// The process that the test above kills; alone it does nothing.
#[test]
fn driver_to_be_killed() {
    let Ok(ns) = std::env::var("LLM_TEST_NETNS") else { return };
    run_in(&ns, || {
        let joint = Joint::start(&config(1 << 20), None, || 1, |_| {}).unwrap();
        joint.lease(FOR_EVER);
        joint.release(u64::MAX);
        println!("joined");
        std::thread::sleep(Duration::from_secs(60));
    });
}

#[test]
fn a_vif_that_goes_is_reported_and_its_packets_still_leave() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let (guest, client) = (lab.guest_socket(), lab.client_socket());
    let joined = start(&lab, 1 << 20);
    joined.joint.lease(FOR_EVER);
    joined.send(&guest, 0..3);
    ip(&["-n", &lab.host(), "link", "del", VIF]);
    let gone = || joined.events().contains(&NetEvent::VifGone);
    wait_for("the loss is reported", gone);
    joined.joint.release(2);
    client.expect(0..=2);
    joined.joint.stop(true).unwrap_err();
}

#[test]
fn the_hosts_own_stack_does_not_answer_the_isolated_guest() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let arp = run_in(&lab.guest(), || RawSocket::open("eth0", 0x0806).unwrap());
    let joined = start(&lab, 1 << 20);
    let mut request = llm_dom0::net::gratuitous_arp(GUEST_MAC, [10, 77, 0, 2].into(), None, false);
    request[38..42].copy_from_slice(&[10, 77, 0, 1]);
    arp.send(&request);
    assert_eq!(arp.receive(QUIET), None, "an answer while everything is held");
    joined.joint.lease(FOR_EVER);
    joined.joint.release(u64::MAX);
    let reply = arp.receive(SOON).expect("the bridge answers once the request has left");
    assert_ne!(reply[22..28], [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(arp.receive(QUIET), None, "one answer only");
}

#[test]
fn what_the_host_sends_by_the_vif_is_no_output_of_the_guest() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let (guest, client) = (lab.guest_socket(), lab.client_socket());
    let joined = start_open(&lab);
    run_in(&lab.host(), || RawSocket::open(VIF, lab::TEST_TYPE).unwrap()).send_number(1);
    guest.expect(1..=1);
    assert_eq!(client.receive(QUIET), None);
    assert_eq!(joined.joint.stats().egress_packets, 0);
}

#[test]
fn an_announcement_moves_the_guest_to_its_port() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let client = lab.client_socket();
    let arp = run_in(&lab.client(), || RawSocket::open("eth0", 0x0806).unwrap());
    // The guest was heard from elsewhere before.
    client.send_number(0);
    let fdb = || {
        let out = Command::new("bridge").args(["-n", &lab.host(), "fdb", "show"]).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let line = text.lines().find(|l| l.starts_with("00:16:3e:00:00:01")).unwrap_or_default();
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    };
    assert_eq!(fdb(), "c0");
    let frames = run_in(&lab.host(), || {
        announce(&Announcement {
            vif: VIF.into(),
            bridge: BRIDGE.into(),
            mac: GUEST_MAC,
            addresses: vec![
                Learnt::from(IpAddr::from([10, 77, 0, 2])),
                Learnt::from("fd77::2".parse::<IpAddr>().unwrap()),
            ],
        })
        .unwrap()
    });
    assert_eq!(frames, 4);
    assert_eq!(fdb(), VIF);
    let got = arp.receive(SOON).expect("a gratuitous ARP reaches the client");
    assert_eq!((&got[6..12], &got[28..32]), (&GUEST_MAC[..], &[10, 77, 0, 2][..]));
}

#[test]
fn what_cannot_be_joined_is_refused_and_left_alone() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::quiet();
    let attempt = |change: fn(&mut JointConfig)| {
        run_in(&lab.host(), move || {
            let mut c = config(1 << 20);
            change(&mut c);
            Joint::start(&c, None, || 0, |_| {}).unwrap_err()
        })
    };
    assert!(matches!(attempt(|c| c.vif = "vif9.0".into()), NetError::NoInterface { .. }));
    assert!(matches!(attempt(|c| c.bridge = "c0".into()), NetError::NotABridge { .. }));
    assert!(matches!(attempt(|c| c.tap = "a name".into()), NetError::BadName { .. }));
    let busy = attempt(|c| c.tap = "c0".into()).to_string();
    assert!(busy.contains("TAP c0"), "{busy}");
    ip(&["-n", &lab.host(), "link", "add", "br1", "type", "bridge"]);
    assert!(matches!(attempt(|c| c.bridge = "br1".into()), NetError::OtherBridge { .. }));
    // Not every kernel has bridges with VLANs.
    if lab::try_ip(&["-n", &lab.host(), "link", "set", BRIDGE, "type", "bridge", "vlan_filtering", "1"]) {
        assert!(matches!(attempt(|_| {}), NetError::VlanFiltering { .. }));
    }
    assert!(lab.host_link(VIF).contains(&format!("master {BRIDGE}")));
    assert_eq!(lab.host_link(TAP), "");
}
