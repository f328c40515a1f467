//! Pages to measure with: of a folder given, or the few that are committed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use llm_core::page::{PAGE, Page};

use super::Error;

/// Dirty pages of one kind of guest.
#[derive(Debug)]
pub(in crate::bench) struct Workload {
    /// For instance `redis`.
    pub(in crate::bench) name: String,
    /// Each page as it was, and as it became; neighbours lie beside each other.
    pub(in crate::bench) pairs: Vec<[Page; 2]>,
    /// Pages as of a first copy, of all of a guest.
    pub(in crate::bench) fresh: Vec<Page>,
}

/// What is said when they are measured with.
pub(super) const NO_CORPUS: &str =
    "No --corpus: measuring with the 24 committed pairs, whose sizes are not typical";

/// What the committed pairs are, six of each.
const SAMPLE: [&str; 4] = ["redis", "pg", "nginx", "cc"];
static PAIRS: &[u8] = include_bytes!("../../../llm-core/testdata/dirty-pages.bin");

/// The committed pairs, as four small workloads.
#[must_use]
pub(in crate::bench) fn sample() -> Vec<Workload> {
    let pairs = PAIRS.as_chunks::<PAGE>().0.as_chunks::<2>().0;
    let of = |(name, pairs): (&&str, &[[Page; 2]])| Workload {
        name: (*name).to_owned(),
        pairs: pairs.to_vec(),
        fresh: pairs.iter().flat_map(|[_, new]| [[0; PAGE], *new]).collect(),
    };
    SAMPLE.iter().zip(pairs.chunks(pairs.len() / SAMPLE.len())).map(of).collect()
}

/// Every `NAME-x.zst` of a folder, the four of the targets first.
///
/// # Errors
///
/// A file cannot be read, or there is none.
pub(in crate::bench) fn load(folder: &Path) -> Result<Vec<Workload>, Error> {
    let error = |source| Error { what: format!("read pages from {}", folder.display()), source };
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix("-x.zst")).map(str::to_owned));
    }
    names.sort_by_key(|name| (SAMPLE.iter().position(|s| s == name).unwrap_or(SAMPLE.len()), name.clone()));
    if names.is_empty() {
        return Err(error(io::Error::new(io::ErrorKind::NotFound, "no NAME-x.zst in it")));
    }
    names.into_iter().map(|name| read(folder, name).map_err(error)).collect()
}

/// Records of a page number, whether there is an old page, that page, and the new page.
fn read(folder: &Path, name: String) -> io::Result<Workload> {
    let mut input = zstd::Decoder::new(File::open(folder.join(format!("{name}-x.zst")))?)?;
    input.window_log_max(27)?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let mut workload = Workload { name, pairs: Vec::new(), fresh: Vec::new() };
    while let Some((head, pages)) = rest.split_first_chunk::<9>() {
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "a record is cut short");
        let (new, end) = if head[8] == 0 {
            let (new, end) = pages.split_first_chunk::<PAGE>().ok_or_else(short)?;
            workload.fresh.push(*new);
            (new, end)
        } else {
            let (old, pages) = pages.split_first_chunk::<PAGE>().ok_or_else(short)?;
            let (new, end) = pages.split_first_chunk::<PAGE>().ok_or_else(short)?;
            workload.pairs.push([*old, *new]);
            (new, end)
        };
        debug_assert_eq!(new.len(), PAGE);
        rest = end;
    }
    Ok(workload)
}
