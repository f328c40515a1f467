//! Descriptors and mappings of the shared-memory layer are released on every path. One test, as others in the same
//! process would be counted too. On Xen, `unikernel-driver` looks at the same after it has left the unikernel.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use llm_core::ring::{self, Consumer, Producer};
use llm_dom0::embedded::eventfd::Eventfds;
use llm_dom0::embedded::memfd::MemfdPages;
use llm_dom0::embedded::pass;
use llm_dom0::shared::{EventChannel as _, Mapping, Part, SharedPages as _};
use llm_tests::held::{Held, held};

const DATA: usize = 4;

/// A ring and a channel, used and dropped.
fn whole_life() -> io::Result<()> {
    let pages = MemfdPages::new(DATA)?;
    let copy = MemfdPages::from_peer(pages.as_fd().try_clone_to_owned()?, DATA)?.once();
    let memory = pages.map()?;
    ring::format(&memory).expect("room for a ring");
    let mut producer = Producer::attach(memory, 100).expect("a ring");
    let mut consumer = Consumer::attach(copy.map()?, 100).expect("a ring");
    let (a, b) = Eventfds::pair()?;
    producer.reserve(8).expect("a record").expect("room").commit();
    assert!(held()?.mappings > 0, "mappings are not seen, so that nothing is tested");
    let _ = producer.publish();
    a.notify()?;
    assert!(b.wait(None)?);
    assert_eq!(consumer.next().expect("sound").map(|record| record.len()), Some(8));
    Ok(())
}

/// Every way to fail, each behind something that was had already.
fn failures() -> io::Result<()> {
    let pages = MemfdPages::new(DATA)?;
    let fd = pages.as_fd();
    assert!(MemfdPages::from_peer(fd.try_clone_to_owned()?, DATA + 1).is_err(), "another size");
    let none = Part { fd, offset: 0, pages: 0 };
    assert!(Mapping::ring(&[none], 0, false).is_err(), "no pages");
    // The second part fails when the first is mapped: no such offset, and a descriptor that cannot be mapped.
    let first = || Part { fd, offset: 0, pages: 1 };
    let odd = Part { fd, offset: 1, pages: DATA };
    assert!(Mapping::ring(&[first(), odd], DATA, false).is_err(), "an odd offset");
    let (socket, other) = UnixStream::pair()?;
    let socket_part = Part { fd: socket.as_fd(), offset: 0, pages: DATA };
    assert!(Mapping::ring(&[first(), socket_part], DATA, false).is_err(), "a socket");
    // A ring that is none, and records that never fit.
    let memory = pages.map()?;
    ring::format(&memory).expect("room for a ring");
    assert!(Producer::attach(memory, 1 << 20).is_err(), "too long a record");
    assert!(Consumer::attach(MemfdPages::new(1)?.map()?, 8).is_err(), "not formatted");
    // Descriptors that came, but too few or too many.
    let (a, _b) = Eventfds::pair()?;
    pass::send(&socket, &a.fds())?;
    assert!(pass::receive::<1>(&other).is_err(), "two came");
    pass::send(&socket, &a.fds())?;
    assert!(pass::receive::<3>(&other).is_err(), "two came");
    Ok(())
}

#[test]
fn nothing_is_left_open_or_mapped() -> io::Result<()> {
    // What a first use sets up for good is not counted.
    whole_life()?;
    failures()?;
    let before: Held = held()?;
    for _ in 0..50 {
        whole_life()?;
        failures()?;
    }
    assert_eq!(held()?, before);
    Ok(())
}
