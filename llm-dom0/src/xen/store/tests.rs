use std::os::unix::net::UnixStream;
use std::thread;

use super::wire::{Kind, Message, receive, request, strings};
use super::*;

/// Kind and payload of an answer.
type Answer = (Kind, &'static [u8]);

/// A XenStore that gives these answers in turn, each to the request with that kind and payload.
fn serve(turns: Vec<(Kind, &'static [u8], Vec<Answer>)>) -> XenStore<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        for (kind, payload, answers) in turns {
            let asked: Message = receive(&mut theirs).unwrap();
            assert_eq!((asked.kind, &asked.payload[..]), (kind, payload));
            for (kind, payload) in answers {
                let id = if kind == Kind::WATCH_EVENT { 0 } else { asked.request };
                theirs.write_all(&request(kind, id, 0, &[], Some(payload)).unwrap()).unwrap();
            }
        }
    });
    XenStore::over(ours)
}

#[test]
fn a_request_is_as_the_header_says() {
    let bytes = request(Kind::WRITE, 2, 3, &["/a"], Some(b"xyz")).unwrap();
    assert_eq!(bytes, b"\x0b\0\0\0\x02\0\0\0\x03\0\0\0\x06\0\0\0/a\0xyz");
    assert!(matches!(request(Kind::READ, 0, 0, &["a\0b"], None), Err(StoreError::Unfit(_))));
    assert!(request(Kind::WRITE, 0, 0, &["a"], Some(&[0; 4094])).is_ok());
    assert!(matches!(request(Kind::WRITE, 0, 0, &["a"], Some(&[0; 4095])), Err(StoreError::Unfit(_))));
    assert!(matches!(receive(&mut &[0xff; 16][..]), Err(StoreError::Malformed(_))));
    assert_eq!(strings(b"a\0\0b\0").unwrap(), ["a", "", "b"]);
    assert!(strings(b"").unwrap().is_empty() && strings(b"a").is_err() && strings(b"\xff\0").is_err());
}

#[test]
fn nodes_are_read_written_listed_and_removed() {
    let mut store = serve(vec![
        (Kind::READ, b"a/b\0", vec![(Kind::READ, b"1\0x")]),
        (Kind::READ, b"none\0", vec![(Kind::ERROR, b"ENOENT\0")]),
        (Kind::WRITE, b"a\0value", vec![(Kind::WRITE, b"OK\0")]),
        (Kind::WRITE, b"/\0", vec![(Kind::ERROR, b"EACCES\0")]),
        (Kind::DIRECTORY, b"a\0", vec![(Kind::DIRECTORY, b"b\0c\0")]),
        (Kind::RM, b"none\0", vec![(Kind::ERROR, b"ENOENT\0")]),
        (Kind::SET_PERMS, b"a\0n0\0r5\0", vec![(Kind::SET_PERMS, b"OK\0")]),
        (Kind::READ, b"a\0", vec![(Kind::WRITE, b"OK\0")]),
    ]);
    assert_eq!(store.read("a/b").unwrap().unwrap(), b"1\0x");
    assert_eq!(store.read("none").unwrap(), None);
    store.write("a", b"value").unwrap();
    let refused = store.write("/", b"").unwrap_err();
    assert_eq!(refused.to_string(), "XenStore refuses to write /: EACCES");
    assert_eq!(store.list("a").unwrap().unwrap(), ["b", "c"]);
    store.remove("none").unwrap();
    store.let_read("a", 0, 5).unwrap();
    assert!(matches!(store.read("a"), Err(StoreError::Malformed(_))));
}

#[test]
fn events_wait_while_a_call_is_answered() {
    let event: &[u8] = b"a/b\0token\0";
    let mut store = serve(vec![
        (Kind::WATCH, b"a\0token\0", vec![(Kind::WATCH_EVENT, event), (Kind::WATCH, b"OK\0")]),
        (Kind::UNWATCH, b"a\0token\0", vec![(Kind::UNWATCH, b"OK\0"), (Kind::WATCH_EVENT, event)]),
    ]);
    store.watch("a", "token").unwrap();
    let want = Event { path: "a/b".into(), token: "token".into() };
    assert_eq!(store.event().unwrap(), want);
    store.unwatch("a", "token").unwrap();
    assert_eq!(store.event().unwrap(), want);
    assert!(matches!(store.event(), Err(StoreError::Io(_))), "it is gone");
}

#[test]
fn a_disturbed_transaction_is_done_again() {
    let start = || (Kind::TRANSACTION_START, &b"\0"[..], vec![(Kind::TRANSACTION_START, &b"7\0"[..])]);
    let write = || (Kind::WRITE, &b"a\0x"[..], vec![(Kind::WRITE, &b"OK\0"[..])]);
    let end =
        |how: &'static [u8], kind, answer: &'static [u8]| (Kind::TRANSACTION_END, how, vec![(kind, answer)]);
    let mut store = serve(vec![
        start(),
        write(),
        end(b"T\0", Kind::ERROR, b"EAGAIN\0"),
        start(),
        write(),
        end(b"T\0", Kind::TRANSACTION_END, b"OK\0"),
        start(),
        end(b"F\0", Kind::TRANSACTION_END, b"OK\0"),
    ]);
    let mut tries = 0;
    store
        .transaction(|store| {
            tries += 1;
            assert_eq!(store.transaction, 7);
            store.write("a", b"x")
        })
        .unwrap();
    assert_eq!((tries, store.transaction), (2, 0));
    let failed: Result<(), _> = store.transaction(|_| Err(StoreError::Disturbed));
    assert!(matches!(failed, Err(StoreError::Disturbed)));
}
