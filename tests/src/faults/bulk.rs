//! A bulk transfer through the packet path while every packet waits for its commit.

use std::net::SocketAddr;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::{OPTIONS, Tour};
use crate::clients::download::{DownloadOptions, download as get};
use crate::clients::http::Digest;
use crate::clients::{Limits, Setup, Stop};
use crate::lab::{guest, pattern};
use crate::scenario::{Result, ensure};

/// Bytes downloaded: what emulated hosts manage in a minute or two, one window an epoch.
const BYTES: u64 = 8 << 20;

/// The pattern arrives whole.
pub(super) fn download(tour: &mut Tour<'_>) -> Result<()> {
    let host = tour.protected(OPTIONS)?;
    let options = DownloadOptions {
        addr: SocketAddr::from((guest::ADDRESS, pattern::HTTP_PORT)),
        path: format!("/{BYTES}"),
        expect: expected(BYTES),
        limits: Limits { run: Duration::from_secs(400), ..Limits::default() },
        setup: Setup::default(),
    };
    let got = tour.lab.in_netns(|| get(&options, &Stop::default()))??;
    ensure(got.right, || {
        format!("the download is not what it must be: {got:?}, expected {:?}", options.expect)
    })?;
    println!("{:<28} {} bytes in {:.1} s", "", got.got.len, got.took.as_secs_f64());
    tour.epochs_go_on(host, 2)
}

fn expected(len: u64) -> Digest {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        pattern::fill(at, &mut buffer[..count]);
        hash.update(&buffer[..count]);
        at += count as u64;
    }
    Digest { len, xxh3: hash.digest() }
}
