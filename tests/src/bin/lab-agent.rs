//! The agent in each host of the lab: runs commands and moves files for the runner.
//!
//! Started by the host's init as `lab-agent ADDRESS:PORT`, on the management network only. The protocol is in
//! `llm_tests::lab::wire`. As `lab-agent pipe ADDRESS:PORT` it carries stdin and stdout over a connection: what stock
//! `xl` is given to reach the other host (busybox' `nc` moves a kilobyte at a time and would make it look slow).

use llm_tests::lab::wire;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long output is still collected after the command's end, when something it left behind holds the pipe.
const LINGER: Duration = Duration::from_millis(300);

type Shared = Arc<Mutex<TcpStream>>;

fn main() -> io::Result<()> {
    let usage = || io::Error::other("Usage: lab-agent ADDRESS:PORT | lab-agent pipe ADDRESS:PORT");
    let mut arguments = std::env::args().skip(1);
    let mut address = arguments.next().ok_or_else(usage)?;
    if address == "pipe" {
        address = arguments.next().ok_or_else(usage)?;
        return pipe(&TcpStream::connect(&address)?);
    }
    let listener = TcpListener::bind(&address)?;
    for connection in listener.incoming() {
        let Ok(connection) = connection else { continue };
        thread::spawn(move || {
            if let Err(e) = serve(&connection) {
                let _ = wire::write_frame(&mut &connection, wire::ERROR, e.to_string().as_bytes());
            }
            let _ = connection.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

/// Until the peer ends; the end of stdin is passed on.
fn pipe(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut to = connection.try_clone()?;
    thread::spawn(move || {
        let _ = carry(&mut io::stdin().lock(), &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    // Without std's line buffer: what the peer says is no text.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    carry(&mut &*connection, &mut out)
}

/// As `io::copy`, but without splice(2), which that uses here: Linux 6.1 holds the lock of a pipe while it waits for
/// the socket to have something for it, and nobody can read what is in the pipe already.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(buffer.get(..count).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn serve(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let Some((kind, payload)) = wire::read_frame(&mut &*connection)? else { return Ok(()) };
    match kind {
        wire::RUN => run(connection, &payload),
        wire::PUT => put(connection, &payload),
        wire::GET => get(connection, &payload),
        wire::CLOCK => clock(connection),
        other => Err(io::Error::other(format!("Unknown request {other:#04x}"))),
    }
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(io::Error::other)
}

fn put(connection: &TcpStream, payload: &[u8]) -> io::Result<()> {
    let (mode, path) =
        payload.split_first_chunk::<4>().ok_or_else(|| io::Error::other("Short put request"))?;
    let path = Path::new(text(path)?);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Written beside and renamed: a program that is running can be replaced.
    let part = path.with_extension("lab-part");
    let mut file = File::create(&part)?;
    loop {
        match wire::read_frame(&mut &*connection)? {
            Some((wire::DATA, data)) => file.write_all(&data)?,
            Some((wire::END, _)) => break,
            _ => return Err(io::Error::other("The file did not come whole")),
        }
    }
    file.set_permissions(fs::Permissions::from_mode(u32::from_le_bytes(*mode)))?;
    drop(file);
    fs::rename(&part, path)?;
    wire::write_frame(&mut &*connection, wire::END, &[])
}

fn get(connection: &TcpStream, payload: &[u8]) -> io::Result<()> {
    let mut file = File::open(text(payload)?)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return wire::write_frame(&mut &*connection, wire::END, &[]);
        }
        wire::write_frame(&mut &*connection, wire::DATA, &buffer[..count])?;
    }
}

/// Until the runner has asked often enough. Without a process of its own, which takes seconds on a busy host.
fn clock(connection: &TcpStream) -> io::Result<()> {
    loop {
        let now = llm_dom0::clock::now().as_nanos();
        wire::write_frame(&mut &*connection, wire::CLOCK, &now.to_le_bytes())?;
        match wire::read_frame(&mut &*connection)? {
            Some((wire::CLOCK, _)) => {}
            _ => return Ok(()),
        }
    }
}

fn run(connection: &TcpStream, payload: &[u8]) -> io::Result<()> {
    let (flags, command) = payload.split_first().ok_or_else(|| io::Error::other("Short run request"))?;
    let detach = flags & wire::FLAG_DETACH != 0;
    let mut child = Command::new("/bin/bash")
        .args(["-c", text(command)?])
        .stdin(Stdio::null())
        .stdout(if detach { Stdio::null() } else { Stdio::piped() })
        .stderr(if detach { Stdio::null() } else { Stdio::piped() })
        .process_group(0)
        .spawn()?;
    let out: Shared = Arc::new(Mutex::new(connection.try_clone()?));
    send(&out, wire::PID, &child.id().to_le_bytes())?;
    if detach {
        // The runner reads the pid and goes; the thread stays to reap.
        drop(out);
        connection.shutdown(Shutdown::Both)?;
        child.wait()?;
        return Ok(());
    }
    watch(connection, &child)?;
    let readers = [
        child.stdout.take().map(|from| forward(from, wire::STDOUT, &out)),
        child.stderr.take().map(|from| forward(from, wire::STDERR, &out)),
    ];
    let status = child.wait()?;
    let end = Instant::now() + LINGER;
    while readers.iter().flatten().any(|r| !r.is_finished()) && Instant::now() < end {
        thread::sleep(Duration::from_millis(2));
    }
    let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
    send(&out, wire::EXIT, &code.to_le_bytes())
}

/// Kills the command and all it started in its group once the runner closes the connection.
fn watch(connection: &TcpStream, child: &Child) -> io::Result<()> {
    let mut from = connection.try_clone()?;
    let pid = Pid::from_child(child);
    thread::spawn(move || {
        let mut byte = [0; 1];
        // At the command's own end `serve` shuts the connection down, which ends this read too: the group is
        // then gone, or holds only what the command left in the background on purpose.
        while matches!(from.read(&mut byte), Ok(1..)) {}
        if !finished(pid) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    });
    Ok(())
}

fn finished(pid: Pid) -> bool {
    !Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

fn forward(mut from: impl Read + Send + 'static, kind: u8, out: &Shared) -> thread::JoinHandle<()> {
    let out = Arc::clone(out);
    thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 || send(&out, kind, &buffer[..count]).is_err() {
                break;
            }
        }
    })
}

fn send(out: &Shared, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    wire::write_frame(&mut *out, kind, payload)
}
