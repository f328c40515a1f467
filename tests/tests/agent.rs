//! The agent: its pipe carries what has come at once, also while nothing more comes; and it tells the time.

use llm_tests::lab::wire;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Twice in a row: what is written first must not wait for what is written next, in either direction.
#[test]
fn a_pipe_passes_on_what_it_has() {
    for _ in 0..20 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let mut agent = Command::new(env!("CARGO_BIN_EXE_lab-agent"))
            .args(["pipe", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the agent");
        let (mut peer, _) = listener.accept().expect("its connection");
        let mut output = agent.stdout.take().expect("piped");
        let mut input = agent.stdin.take().expect("piped");
        let (tell, told) = channel();
        let reader = std::thread::spawn(move || {
            let mut banner = [0; 6];
            while output.read_exact(&mut banner).is_ok() && tell.send(banner).is_ok() {}
        });
        for word in [b"banner", b"second"] {
            peer.write_all(word).expect("write");
            let got = told.recv_timeout(Duration::from_secs(30)).expect("what the peer has said");
            assert_eq!(&got, word);
            input.write_all(word).expect("write");
            let mut back = [0; 6];
            peer.read_exact(&mut back).expect("what xl has said");
            assert_eq!(&back, word);
        }
        drop((input, peer));
        assert!(agent.wait().expect("its end").success());
        reader.join().expect("no panic");
    }
}

/// The same connection is asked again and again, and the clock goes forward.
#[test]
fn the_time_is_told_as_often_as_asked() {
    // Some port that is free now.
    let address = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let mut agent =
        Command::new(env!("CARGO_BIN_EXE_lab-agent")).arg(address.to_string()).spawn().expect("the agent");
    let mut connection = (0..100)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(50));
            TcpStream::connect(address).ok()
        })
        .expect("the agent to listen");
    let mut last = 0;
    for _ in 0..3 {
        wire::write_frame(&mut connection, wire::CLOCK, &[]).expect("ask");
        let (kind, told) = wire::read_frame(&mut connection).expect("read").expect("an answer");
        let told = u64::from_le_bytes(told.try_into().expect("eight bytes"));
        assert!(kind == wire::CLOCK && told > last, "{told} after {last}");
        last = told;
    }
    agent.kill().and_then(|()| agent.wait()).expect("its end");
}
