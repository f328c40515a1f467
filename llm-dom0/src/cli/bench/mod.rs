//! `llm bench`: what this host, and the link to another one, can carry.

mod advice;
mod codec;
mod link;

use std::fmt::Write as _;
use std::net::TcpListener;

use serde::Serialize;

use super::args;
use super::exit::{Exit, Failure, OrExit};
use advice::Advice;
use codec::Codec;
use link::Link;

/// Least and most pages: fewer would stay in the caches, more than this is 8 GiB of memory.
const PAGES: std::ops::RangeInclusive<u32> = 1024..=1 << 20;

/// All that was measured, and what follows from it.
#[derive(Clone, Debug, Serialize)]
struct Report {
    codec: Codec,
    /// None without `--peer`.
    link: Option<Link>,
    advice: Advice,
}

pub(super) fn run(args: &args::Bench) -> Result<Exit, Failure> {
    if let Some(listen) = &args.listen {
        return serve(listen);
    }
    if !PAGES.contains(&args.pages) {
        let text = format!("--pages {}: must be {} to {}", args.pages, PAGES.start(), PAGES.end());
        return Err(Failure::new(Exit::Usage, text));
    }
    // The peer first: what cannot be reached is told before anyone waits for the rest.
    let link = match &args.peer {
        Some(peer) => Some(link::measure(peer, args.time.0).or_exit(Exit::Peer)?),
        None => None,
    };
    let codec = codec::measure(args.pages as usize);
    let advice = Advice::new(&codec, link.as_ref());
    let report = Report { codec, link, advice };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).or_exit(Exit::Failed)?);
    } else {
        print!("{}", report.text().or_exit(Exit::Failed)?);
    }
    Ok(Exit::Done)
}

/// Answers those who measure the link to here, one after the other, until killed.
fn serve(address: &str) -> Result<Exit, Failure> {
    let fail = |e: std::io::Error| {
        Failure::new(
            Exit::Busy,
            format!("Cannot listen on {address}: write HOST:PORT of this host, with a free port: {e}"),
        )
    };
    let listener = TcpListener::bind(address).map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    println!("Answering `llm bench --peer {bound}` until Ctrl-C");
    for stream in listener.incoming() {
        let served = stream.map_err(link::LinkBenchError::from).and_then(|stream| link::serve(&stream));
        if let Err(error) = served {
            eprintln!("llm: {}", Failure::new(Exit::Peer, error));
        }
    }
    Ok(Exit::Done)
}

impl Report {
    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let Codec { pages, bytes_per_page, copy_ns, checksum_ns, decode_ns, encode } = &self.codec;
        writeln!(out, "This host, for each of {pages} pages of 4 KiB that changed in some places:")?;
        writeln!(out, "  copy      {copy_ns:6.0} ns")?;
        writeln!(out, "  checksum  {checksum_ns:6.0} ns")?;
        for width in encode {
            let used = if width.used { "  <- used" } else { "" };
            writeln!(out, "  encode    {:6.0} ns  {}{used}", width.ns, width.name)?;
        }
        writeln!(out, "  decode    {decode_ns:6.0} ns")?;
        writeln!(out, "  encoded   {bytes_per_page:6.0} bytes")?;
        match &self.link {
            Some(link) => writeln!(
                out,
                "Link to {}: round trip {:.0} us half of the time, {:.0} us at most but for 1 %; {:.0} MB/s with checksums",
                link.peer, link.round_trip_us_p50, link.round_trip_us_p99, link.mb_per_s
            )?,
            None => writeln!(
                out,
                "Link: not measured; run `llm bench --listen HOST:PORT` on the other host and --peer here"
            )?,
        }
        self.advice.write(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_tells_all() {
        let codec = codec::measure(*PAGES.start() as usize);
        assert!(codec.encode.iter().filter(|width| width.used).count() == 1);
        assert!(codec.bytes_per_page > 1.0 && codec.bytes_per_page < 4096.0);
        let link =
            Link { peer: "a:1".into(), round_trip_us_p50: 90.0, round_trip_us_p99: 300.0, mb_per_s: 110.0 };
        let without = Advice::new(&codec, None);
        let advice = Advice::new(&codec, Some(&link));
        let mut report = Report { codec, link: Some(link), advice };
        let text = report.text().expect("text");
        for part in [
            "checksum",
            "portable",
            "<- used",
            "round trip 90 us",
            "mode llm",
            "200ms",
            "changed pages a second",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        (report.link, report.advice) = (None, without);
        let text = report.text().expect("text");
        assert!(text.contains("Link: not measured"), "{text}");
    }
}
