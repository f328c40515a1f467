fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(2.0);
    let flows = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(0);
    let r = llm_tests::packet::run(seconds, flows, |row| {
        println!("{:10} {:9} {:10} {:10.1} {}", row.peer, row.load, row.measure, row.value, row.unit)
    });
    if let Err(e) = r { eprintln!("{e:?}"); }
}
