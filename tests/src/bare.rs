//! Builds the kernel that compares the widths of the page codec, and runs it on a machine that Bochs emulates: Bochs has processors
//! with AVX-512, which QEMU does not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use crate::stubdom::{Error, Killed, run, workspace};

/// The emulator, of Debian's package `bochs`.
pub const BOCHS: &str = "/usr/bin/bochs";
/// What Bochs needs: files, and the packages that they are in.
pub(crate) const FILES: [(&str, &str); 4] = [
    (BOCHS, "bochs"),
    ("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
    ("/usr/share/bochs/VGABIOS-lgpl-latest", "vgabios"),
    ("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so", "bochs-term"),
];

/// Bytes of the disk: one cylinder, as the settings say. The boot sector reads nearly all of it.
const DISK: usize = 16 * 63 * 512;
/// Where a BIOS puts the boot sector, and so where the image begins.
const BOOT: u64 = 0x7c00;
/// The byte of the image that the kernel takes as its option.
const OPTION: usize = 509;
/// How often to look whether the emulator has ended.
const LOOK: Duration = Duration::from_millis(50);

/// What the kernel has said, and where it is kept.
#[derive(Debug)]
pub struct Said {
    /// All of it.
    pub text: String,
    /// The folder of the emulator's settings and logs.
    pub folder: PathBuf,
}

impl Said {
    /// Whether AVX-512 is there and has made the same records as the portable width, `pairs` pairs in all, with the digest that
    /// the records have on another processor.
    ///
    /// # Errors
    ///
    /// What is missing or differs, and where the log is.
    pub fn check(&self, pairs: u32, records: u32, bytes: u64, digest: u64) -> Result<(), String> {
        let summary = format!("equal {pairs} pairs, {records} records, {bytes} bytes, digest {digest:016x}");
        let has = |wanted: &str| self.text.lines().any(|line| line == wanted);
        let complaint = if !has("width avx512") {
            "The processor has no AVX-512"
        } else if self.text.contains("different:") {
            "A width makes other records"
        } else if !has(&summary) {
            "The summary is not the one of this host"
        } else if !has("end") {
            "The kernel has not come to its end"
        } else {
            return Ok(());
        };
        let Self { text, folder } = self;
        Err(format!("{complaint}; wanted `{summary}`, see {}; the kernel said:\n{text}", folder.display()))
    }
}

/// The emulator and a kernel for it.
#[derive(Debug)]
pub struct Machine {
    image: Vec<u8>,
}

impl Machine {
    /// Builds the kernel, in a build folder of its own, as it is shipped: optimised.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if Bochs is not installed, others if the kernel cannot be built.
    pub fn build() -> Result<Self, Error> {
        if let Some((part, package)) = FILES.into_iter().find(|(file, _)| !Path::new(file).is_file()) {
            return Err(Error::Missing { part, package });
        }
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace()).args(["build", "--quiet", "--release", "--package", "llm-bare"]);
        run(cargo.args(["--bin", "llm-bare", "--target-dir"]).arg(folder()))?;
        let kernel = folder().join("release/llm-bare");
        let image = fs::read(&kernel).and_then(|elf| {
            image(&elf).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an image for the disk"))
        });
        let mut image = image.map_err(|source| Error::Read { path: kernel, source })?;
        image.resize(DISK, 0);
        Ok(Self { image })
    }

    /// Runs the kernel with `option` on this model of a processor (`bochs --help cpu`), at most for `limit`. The emulator is gone when
    /// this returns, however it returns. `name` is that of the folder for its files.
    ///
    /// # Errors
    ///
    /// A file cannot be written, Bochs does not start or is not done in time.
    pub fn run(&self, name: &str, cpu: &str, option: u8, limit: Duration) -> Result<Said, Error> {
        let folder = folder().join(name);
        // What an earlier run has said must not be taken for this one's.
        let _ = fs::remove_dir_all(&folder);
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).map_err(|source| Error::Write { path, source })
        };
        fs::create_dir_all(&folder).map_err(|source| Error::Write { path: folder.clone(), source })?;
        let mut disk = self.image.clone();
        disk[OPTION] = option;
        write("disk", &disk)?;
        write("settings", settings(cpu).as_bytes())?;
        // Debian's Bochs has its debugger, which waits for a command otherwise.
        write("commands", b"continue\n")?;
        let output = |name: &str| {
            let path = folder.join(name);
            fs::File::create(&path).map_err(|source| Error::Write { path, source })
        };
        let mut bochs = Command::new(BOCHS);
        bochs.args(["-q", "-f", "settings", "-rc", "commands"]).current_dir(&folder).env("TERM", "vt100");
        bochs.stdin(Stdio::null()).stdout(output("screen")?).stderr(output("messages")?);
        let deadline = Instant::now() + limit;
        let failed = |source| Error::Run { program: BOCHS.to_owned(), source };
        let mut bochs = Killed(bochs.spawn().map_err(failed)?);
        // It ends with an error whenever a kernel ends it.
        while bochs.0.try_wait().map_err(failed)?.is_none() {
            if Instant::now() > deadline {
                drop(bochs);
                let console = format!("{}(see {})", said(&folder), folder.display());
                return Err(Error::TimeOut { limit, console });
            }
            sleep(LOOK);
        }
        Ok(Said { text: said(&folder), folder })
    }
}

fn folder() -> PathBuf {
    workspace().join("target/bare")
}

/// What came over the serial port; nothing if Bochs has not even opened it.
fn said(folder: &Path) -> String {
    let bytes = fs::read(folder.join("serial")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Time goes by instructions, one a tick. An exception that nobody handles ends the emulator.
fn settings(cpu: &str) -> String {
    let [(_, _), (bios, _), (vga, _), (_, _)] = FILES;
    format!(
        "config_interface: textconfig\n\
         display_library: term\n\
         romimage: file={bios}\n\
         vgaromimage: file={vga}\n\
         cpu: model={cpu}, count=1, ips=50000000, reset_on_triple_fault=0\n\
         clock: sync=none\n\
         megs: 64\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, path=disk, mode=flat, cylinders=1, heads=16, spt=63\n\
         boot: disk\n\
         com1: enabled=1, mode=file, dev=serial\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         log: log\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=report\n"
    )
}

/// What an ELF file has for the disk: the bytes that its first segment loads. `None` if that does not start where a BIOS puts a boot
/// sector, or has no room.
fn image(elf: &[u8]) -> Option<Vec<u8>> {
    const PT_LOAD: u64 = 1;
    let number = |at: u64, bytes: usize| {
        let at = usize::try_from(at).ok()?;
        let bytes = elf.get(at..at.checked_add(bytes)?)?;
        Some(bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let headers = number(0x20, 8)?;
    let (kind, start) = (number(headers, 4)?, number(headers.checked_add(8)?, 8)?);
    let (address, len) = (number(headers.checked_add(24)?, 8)?, number(headers.checked_add(32)?, 8)?);
    let range = usize::try_from(start).ok()?..usize::try_from(start.checked_add(len)?).ok()?;
    let image = elf.get(range)?;
    let fits = kind == PT_LOAD && address == BOOT && image.len() <= DISK;
    fits.then(|| image.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<(), String> {
        Said { text: text.to_owned(), folder: "there".into() }.check(5, 60, 700, 0xab)
    }

    #[test]
    fn only_a_whole_and_equal_comparison_passes() {
        let equal = "equal 5 pairs, 60 records, 700 bytes, digest 00000000000000ab\n";
        let good = format!("width avx2\nwidth avx512\n{equal}end\n");
        assert_eq!(said(&good), Ok(()));
        let bad = [
            ("width avx512\n", "", "no AVX-512"),
            ("equal", "different: pair 3\nequal", "other records"),
            ("5 pairs", "4 pairs", "not the one"),
            ("60 rec", "59 rec", "not the one"),
            ("00ab", "00ac", "not the one"),
            ("end\n", "", "its end"),
        ];
        for (from, to, complaint) in bad {
            let error = said(&good.replace(from, to)).unwrap_err();
            assert!(error.contains(complaint) && error.contains("see there"), "{from}: {error}");
        }
        assert!(said("").is_err());
    }

    #[test]
    fn the_image_is_what_the_first_segment_loads() {
        let mut elf = vec![0; 0x100];
        elf[0x20] = 0x40;
        let header = |kind: u8, address: u8| {
            let mut header = [0; 56];
            (header[0], header[8], header[25], header[32]) = (kind, 0x80, address, 3);
            header
        };
        elf[0x80..0x83].copy_from_slice(b"abc");
        elf[0x40..0x78].copy_from_slice(&header(1, 0x7c));
        assert_eq!(image(&elf).as_deref(), Some(&b"abc"[..]));
        for (kind, address) in [(2, 0x7c), (1, 0x7d)] {
            elf[0x40..0x78].copy_from_slice(&header(kind, address));
            assert_eq!(image(&elf), None);
        }
        assert_eq!(image(&[]), None);
        assert_eq!(image(&elf[..0x60]), None);
    }
}
