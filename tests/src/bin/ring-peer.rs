//! Both ends of `cargo lab bench ring`, apart from libxenvchan's: see `llm_tests::bench::ring`.
//!
//! In the domain that echoes: `ring-peer serve`, until the other end closes, and `ring-peer tcp ADDRESS`, for ever.
//! In Dom0: `ring-peer measure memcpy - MS SIZE...`, and `ring DOMID`, `unikernel DOMID`, `tcp ADDRESS` in its place, which
//! print a line of JSON for each size. MS is how long each of the two measures takes.

use std::error::Error;
use std::time::Duration;

use llm_tests::bench::ring::{domain, load, others};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve"] => domain::offer()?.echo()?,
        ["tcp", address] => others::echo(address.parse()?)?,
        ["measure", way, to, ms, ref sizes @ ..] => {
            let time = Duration::from_millis(ms.parse()?);
            let sizes = sizes.iter().map(|size| size.parse()).collect::<Result<Vec<usize>, _>>()?;
            match way {
                "ring" => {
                    let mut link = domain::connect(to.parse()?)?;
                    each(&sizes, |size| load::measure(&mut link, size, time))?;
                    link.close()?;
                }
                "unikernel" => {
                    let mut echoes = others::Echoes::connect(to.parse()?)?;
                    each(&sizes, |size| load::measure(&mut echoes, size, time))?;
                }
                "tcp" => {
                    let mut tcp = others::Tcp::connect(to.parse()?)?;
                    each(&sizes, |size| load::measure(&mut tcp, size, time))?;
                }
                "memcpy" => each(&sizes, |size| Ok(load::memcpy(size, time)))?,
                _ => return Err(format!("there is no way {way}").into()),
            }
        }
        _ => return Err("ring-peer serve | tcp ADDRESS | measure WAY TO MS SIZE...".into()),
    }
    Ok(())
}

fn each(
    sizes: &[usize],
    mut measure: impl FnMut(usize) -> std::io::Result<load::Figures>,
) -> Result<(), Box<dyn Error>> {
    for size in sizes {
        println!("{}", serde_json::to_string(&measure(*size)?)?);
    }
    Ok(())
}
