//! Where a qcow2 image has its tables: without them it shows an empty disk, or another one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Length of what is common to the headers of all versions, bytes.
const HEADER_BYTES: usize = 72;
/// Least length of an entry of the table of snapshots, bytes.
const SNAPSHOT_BYTES: u64 = 40;

/// Offsets and lengths in bytes, as the header tells them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    /// What the guest wrote is encrypted.
    pub(crate) encrypted: bool,
    cluster_bits: u32,
    first_level: (u64, u64),
    refcounts: (u64, u64),
    snapshots: (u64, u64),
}

impl Tables {
    /// Reads them; `None` where the header is cut off.
    pub(crate) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let whole = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let cluster_bits = half(20)?;
        let refcounts = u64::from(half(56)?).checked_shl(cluster_bits);
        Some(Self {
            encrypted: half(32)? != 0,
            cluster_bits,
            first_level: (whole(40)?, u64::from(half(36)?) * 8),
            refcounts: (whole(48)?, refcounts.unwrap_or(u64::MAX)),
            snapshots: (whole(64)?, u64::from(half(60)?) * SNAPSHOT_BYTES),
        })
    }

    /// Why they cannot be those of an image in a file of this length, as a clause about "it".
    pub(crate) fn unsound(&self, file_bytes: u64) -> Option<String> {
        if !(9..=21).contains(&self.cluster_bits) {
            return Some(format!("its clusters have 2^{} bytes", self.cluster_bits));
        }
        let tables = [
            (self.first_level, "table of clusters"),
            (self.refcounts, "table of reference counts"),
            (self.snapshots, "table of snapshots"),
        ];
        let outside = tables.iter().find(|((offset, bytes), _)| {
            *bytes > 0 && offset.checked_add(*bytes).is_none_or(|end| end > file_bytes)
        });
        outside.map(|(_, what)| format!("its {what} lies outside the file"))
    }
}
