//! Links the kernel (and only the kernel, not the host tests) with its own linker script, and says how much it logs.

use std::env;

const SCRIPT: &str = "xen-pv.ld";
/// By defmt, with errors only where it is not set.
const LEVEL: &str = "DEFMT_LOG";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SCRIPT}");
    println!("cargo:rerun-if-env-changed={LEVEL}");
    println!("cargo:rustc-env={LEVEL}={}", env::var(LEVEL).unwrap_or_else(|_| "info".to_owned()));
    let dir = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let args = [
        "-nostartfiles".to_owned(),
        "-nostdlib".to_owned(),
        // A plain EXEC file: Xen's domain builder applies no relocations.
        "-static".to_owned(),
        "-no-pie".to_owned(),
        // Toolchain notes in our PT_NOTE would be searched, and some have broken boots.
        "-Wl,--build-id=none".to_owned(),
        "-Wl,-z,norelro".to_owned(),
        "-Wl,--gc-sections".to_owned(),
        format!("-Wl,-T,{dir}/{SCRIPT}"),
        // Texts of log statements, in a section that is not loaded; found where defmt's own build put it.
        "-Wl,-T,defmt.x".to_owned(),
    ];
    for arg in args {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
