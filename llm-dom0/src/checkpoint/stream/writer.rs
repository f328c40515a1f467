//! Writes well-formed checkpoint streams: for simulated domains and for tests.

use super::layout::{self, libxc, libxl};
use llm_core::page::Page;

/// The kind of guest that a stream is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Guest {
    /// Paravirtual.
    Pv,
    /// HVM and PVH.
    Hvm,
}

/// Builds a checkpoint stream in memory, record by record.
///
/// It checks nothing: a caller that leaves the order out of account gets a stream
/// that a parser refuses.
#[derive(Clone, Debug, Default)]
pub struct StreamWriter {
    out: Vec<u8>,
}

impl StreamWriter {
    /// An empty stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Writes all that is ahead of the first libxc record: preamble with `config`
    /// (JSON text), libxl header, `LIBXC_CONTEXT` and the headers of libxc.
    pub fn start(&mut self, config: &[u8], guest: Guest, version: u32) -> &mut Self {
        self.preamble(config).libxl_header().libxl_record(libxl::LIBXC_CONTEXT, &[]);
        self.out.extend(layout::LIBXC_MARKER);
        self.out.extend(layout::LIBXC_IDENT);
        self.out.extend(version.to_be_bytes());
        self.out.extend([0; 8]);
        self.u32(match guest {
            Guest::Pv => layout::GUEST_PV,
            Guest::Hvm => layout::GUEST_HVM,
        });
        self.u32(u32::from(layout::PAGE_SHIFT));
        self.u32(4).u32(17);
        if version >= 3 {
            self.libxc_record(libxc::STATIC_DATA_END, &[]);
        }
        self
    }

    /// Writes the preamble of `xl` with the domain's configuration.
    pub fn preamble(&mut self, config: &[u8]) -> &mut Self {
        self.out.extend(layout::PREAMBLE_MAGIC);
        self.u32(layout::BYTE_ORDER).u32(layout::FLAG_JSON | layout::FLAG_STREAM_V2).u32(0);
        self.u32(length(config) + 4).u32(length(config));
        self.out.extend(config);
        self
    }

    /// Writes the header of the libxl part.
    pub fn libxl_header(&mut self) -> &mut Self {
        self.out.extend(layout::LIBXL_IDENT);
        self.out.extend(layout::LIBXL_VERSION.to_be_bytes());
        self.u32(0)
    }

    /// Writes a libxl record.
    pub fn libxl_record(&mut self, record: u32, body: &[u8]) -> &mut Self {
        self.record(record, body)
    }

    /// Writes a libxc record.
    pub fn libxc_record(&mut self, record: u32, body: &[u8]) -> &mut Self {
        self.record(record, body)
    }

    /// Writes a memory record of `pages`, given as number and contents; `None` stands
    /// for a page that the guest does not have.
    pub fn pages<'a>(&mut self, pages: impl IntoIterator<Item = (u64, Option<&'a Page>)>) -> &mut Self {
        let (mut count, mut pfns, mut contents) = (0_u32, Vec::new(), Vec::new());
        for (pfn, page) in pages {
            count += 1;
            let kind = if page.is_some() { 0 } else { 0xf_u64 << layout::PFN_TYPE_SHIFT };
            pfns.extend((pfn & layout::PFN_MASK | kind).to_le_bytes());
            contents.extend(page.into_iter().flatten());
        }
        self.u32(libxc::PAGE_DATA).u32(8 + length(&pfns) + length(&contents)).u32(count).u32(0);
        self.out.extend(pfns);
        self.out.extend(contents);
        self
    }

    /// Ends an epoch: a context of the virtual CPUs, `CHECKPOINT`, a device model's
    /// state if there is one, `CHECKPOINT_END`.
    pub fn epoch_end(&mut self, context: &[u8], emulator: Option<&[u8]>) -> &mut Self {
        self.libxc_record(libxc::HVM_CONTEXT, context).libxc_record(libxc::CHECKPOINT, &[]);
        if let Some(state) = emulator {
            // Emulator 2 (upstream QEMU), index 0.
            let mut body = vec![2, 0, 0, 0, 0, 0, 0, 0];
            body.extend(state);
            self.libxl_record(libxl::EMULATOR_CONTEXT, &body);
        }
        self.libxl_record(libxl::CHECKPOINT_END, &[])
    }

    /// Ends the stream as a plain save does.
    pub fn end(&mut self, context: &[u8]) -> &mut Self {
        self.libxc_record(libxc::HVM_CONTEXT, context).libxc_record(libxc::END, &[]);
        self.libxl_record(libxl::END, &[])
    }

    fn record(&mut self, record: u32, body: &[u8]) -> &mut Self {
        self.u32(record).u32(length(body));
        self.out.extend(body);
        self.out.resize(self.out.len() + (body.len().next_multiple_of(8) - body.len()), 0);
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.out.extend(value.to_le_bytes());
        self
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
