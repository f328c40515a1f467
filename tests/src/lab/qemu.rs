//! One host of the lab: a QEMU process under software emulation that runs Xen and a Dom0.

use super::command::tail;
use super::error::{Context as _, LabError, Result};
use super::net::{Link, Namespace};
use super::paths::Paths;
use super::state::Process;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;

/// What a host is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Folder of the images; the names below are in it.
    pub images: PathBuf,
    /// Xen, unpacked.
    pub xen: String,
    /// Linux for Dom0.
    pub kernel: String,
    /// Dom0's initramfs.
    pub initrd: String,
    /// Memory of the host in MiB.
    pub memory_mib: u32,
    /// Memory of its Dom0 in MiB.
    pub dom0_mib: u32,
}

/// The CPU model: SMAP crashes Dom0 in its first instructions, and RDTSCP crashes PVH guests, in QEMU 7.2's emulation. It
/// carries `rep movsb` out byte by byte: without ERMS and FSRM, kernels and libraries copy otherwise, as if it were slow,
/// which it is here.
const CPU: &str = "max,-smap,-rdtscp,-erms,-fsrm";

/// Starts host `number` (1 or 2) in the namespace. Returns as soon as QEMU runs, long before the host is ready.
///
/// # Errors
/// When QEMU cannot be started.
pub fn start(paths: &Paths, namespace: &Namespace, machine: &Machine, number: usize) -> Result<Process> {
    let log = paths.console_log(number);
    let errors = log.with_extension("qemu.log");
    fs::create_dir_all(paths.logs()).context(|| format!("make {}", paths.logs().display()))?;
    for what in ["console", "monitor"] {
        // Left by a host that was killed; QEMU would not bind over it.
        let _ = fs::remove_file(paths.socket(number, what));
    }
    let errors = File::create(&errors).context(|| format!("create {}", errors.display()))?;
    let mut command = namespace.command("qemu-system-x86_64");
    command
        .args(["-name", &format!("{}-host{number}", paths.name)])
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "1"])
        .args(["-m", &machine.memory_mib.to_string(), "-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-chardev")
        .arg(format!(
            "socket,id=console,path={},server=on,wait=off,logfile={}",
            paths.socket(number, "console").display(),
            log.display()
        ))
        .args(["-serial", "chardev:console"])
        .arg("-monitor")
        .arg(format!("unix:{},server=on,wait=off", paths.socket(number, "monitor").display()))
        .args(["-kernel", &machine.xen])
        .args([
            "-append",
            &format!(
                "console=com1 com1=115200,8n1 dom0_mem={0}M,max:{0}M loglvl=warning noreboot spec-ctrl=eager-fpu",
                machine.dom0_mib
            ),
        ])
        .arg("-initrd")
        // File names without a folder: a comma in one would end it.
        .arg(format!(
            "{} console=hvc0 loglevel=4 rdinit=/init net.ifnames=0 lab.host={number},{}",
            machine.kernel, machine.initrd
        ));
    for (index, link) in Link::ALL.into_iter().enumerate() {
        command
            .arg("-netdev")
            .arg(format!("tap,id=n{index},ifname={},script=no,downscript=no", link.tap(number)))
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=n{index},mac={},romfile=,addr=0x{:x}",
                link.mac(number),
                index + 4
            ));
    }
    let mut child = command
        .current_dir(&machine.images)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        // Ctrl-C at the terminal is for the runner, which then ends QEMU in order.
        .process_group(0)
        .spawn()
        .context(|| "start qemu-system-x86_64".to_owned())?;
    let process = Process::of(child.id());
    // Reaps it while this process lives; init does afterwards.
    std::thread::spawn(move || child.wait());
    process.ok_or_else(|| down(paths, number))
}

/// The error for a host whose QEMU is gone, with the end of its logs.
#[must_use]
pub fn down(paths: &Paths, number: usize) -> LabError {
    let log = paths.console_log(number);
    let mut tail = log_tail(paths, number, 20);
    if let Ok(errors) = fs::read_to_string(log.with_extension("qemu.log")) {
        tail.push_str(&errors);
    }
    LabError::HostDown { host: number, tail, log }
}

/// The last `lines` lines of a host's console.
#[must_use]
pub fn log_tail(paths: &Paths, number: usize, lines: usize) -> String {
    let bytes = fs::read(paths.console_log(number)).unwrap_or_default();
    tail(&String::from_utf8_lossy(&bytes).replace('\r', ""), lines)
}
