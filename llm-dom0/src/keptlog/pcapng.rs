//! Writes packets as Wireshark reads them: pcapng, with an interface for each vif, a direction and a comment a packet.
//!
//! Four blocks of the format are all that is needed (draft-ietf-opsawg-pcapng), so that no crate is.

use std::collections::HashMap;
use std::io::{self, Write};

use llm_core::time::Instant;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const SECTION_PROGRAM: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;

/// Link type Ethernet.
const ETHERNET: u16 = 1;
/// Resolution of time: 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Flag of a packet that came in.
const INBOUND: u32 = 1;

/// Writes a pcapng file.
#[derive(Debug)]
pub struct PcapNg<W> {
    out: W,
    name: String,
    /// Number in the file of each vif seen so far.
    interfaces: HashMap<u16, u32>,
    block: Vec<u8>,
}

impl<W: Write> PcapNg<W> {
    /// Starts a file about the domain `name`.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn new(out: W, name: &str, comment: &str) -> io::Result<Self> {
        let mut file = Self { out, name: name.into(), interfaces: HashMap::new(), block: Vec::new() };
        file.put(&0x1a2b_3c4d_u32.to_le_bytes());
        // Version 1.0.
        file.put(&[1, 0, 0, 0]);
        // Length not known.
        file.put(&u64::MAX.to_le_bytes());
        file.option(COMMENT, comment.as_bytes());
        file.option(SECTION_PROGRAM, concat!("llm ", env!("CARGO_PKG_VERSION")).as_bytes());
        file.option(END_OF_OPTIONS, &[]);
        file.end_block(SECTION)?;
        Ok(file)
    }

    /// Writes a frame that went into the domain.
    ///
    /// # Errors
    /// `out` cannot be written, or `frame` is longer than 4 GiB.
    pub fn inbound(&mut self, vif: u16, time: Instant, frame: &[u8], comment: &str) -> io::Result<()> {
        let interface = self.interface(vif)?;
        let len = u32::try_from(frame.len()).map_err(io::Error::other)?;
        self.put(&interface.to_le_bytes());
        let [a, b, c, d, high @ ..] = time.as_nanos().to_le_bytes();
        self.put(&high);
        self.put(&[a, b, c, d]);
        // Kept, and on the wire.
        self.put(&len.to_le_bytes());
        self.put(&len.to_le_bytes());
        self.put(frame);
        self.pad();
        self.option(COMMENT, comment.as_bytes());
        self.option(PACKET_FLAGS, &INBOUND.to_le_bytes());
        self.option(END_OF_OPTIONS, &[]);
        self.end_block(PACKET)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The number of a vif, which is described before its first packet.
    fn interface(&mut self, vif: u16) -> io::Result<u32> {
        if let Some(&number) = self.interfaces.get(&vif) {
            return Ok(number);
        }
        let number = u32::try_from(self.interfaces.len()).map_err(io::Error::other)?;
        self.interfaces.insert(vif, number);
        self.put(&ETHERNET.to_le_bytes());
        self.put(&[0; 2]);
        // No limit to a packet's length.
        self.put(&[0; 4]);
        let name = format!("{}.vif{vif}", self.name);
        self.option(INTERFACE_NAME, name.as_bytes());
        self.option(INTERFACE_RESOLUTION, &[NANOSECONDS]);
        self.option(END_OF_OPTIONS, &[]);
        self.end_block(INTERFACE)?;
        Ok(number)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// An option; a value that is too long for one is cut.
    fn option(&mut self, code: u16, value: &[u8]) {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.put(&code.to_le_bytes());
        self.put(&len.to_le_bytes());
        self.put(&value[..len.into()]);
        self.pad();
    }

    fn end_block(&mut self, kind: u32) -> io::Result<()> {
        // Kind and length in front, length behind.
        let len = u32::try_from(self.block.len() + 12).map_err(io::Error::other)?.to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&len)?;
        self.out.write_all(&self.block)?;
        self.out.write_all(&len)?;
        self.block.clear();
        Ok(())
    }
}
