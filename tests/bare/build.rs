//! Links the kernel (and only the kernel) with its own linker script.

use std::env;

const SCRIPT: &str = "bare.ld";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SCRIPT}");
    let dir = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let args = [
        "-nostartfiles".to_owned(),
        "-nostdlib".to_owned(),
        // Nothing applies relocations.
        "-static".to_owned(),
        "-no-pie".to_owned(),
        "-Wl,--build-id=none".to_owned(),
        "-Wl,-z,norelro".to_owned(),
        "-Wl,--gc-sections".to_owned(),
        format!("-Wl,-T,{dir}/{SCRIPT}"),
    ];
    for arg in args {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
