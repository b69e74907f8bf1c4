//! The header of a qcow2 image: what it refers to, and in which state it is. As in QEMU's `docs/interop/qcow2.txt`; nothing
//! in it is believed before its bounds are checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// `QFI\xfb`, which every qcow2 image begins with.
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Length of a version 2 header, bytes.
const LENGTH_V2: u64 = 72;
/// Longest name of a backing file, bytes.
const NAME_BYTES_MAX: u32 = 1023;
/// How much of the file is read: a header with its extensions fits into the smallest cluster that qemu-img makes by far.
const READ_BYTES: usize = 64 << 10;
/// Incompatible features.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
/// Type of the extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// What a qcow2 image says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Snapshots inside it.
    pub(crate) snapshots: u32,
    /// Name of its backing file as written.
    pub(crate) backing: Option<String>,
    /// Format of that, as written.
    pub(crate) backing_format: Option<String>,
    /// Size the guest sees, bytes.
    pub(crate) virtual_bytes: u64,
    /// It keeps its data in another file.
    pub(crate) data_file: bool,
    /// It was not closed in order, or is open now.
    pub(crate) dirty: bool,
    /// QEMU has found it damaged.
    pub(crate) corrupt: bool,
}

impl Header {
    /// Reads it; what is not a qcow2 header of version 2 or 3 is an error of kind `InvalidData`.
    pub(crate) fn read(file: &File) -> io::Result<Self> {
        let bytes = start(file)?;
        Self::parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a qcow2 image"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let magic = bytes.get(..4)?;
        let version = u32_at(bytes, 4)?;
        if magic != MAGIC || !(2..=3).contains(&version) {
            return None;
        }
        let (features, length) = match version {
            2 => (0, LENGTH_V2),
            _ => (u64_at(bytes, 72)?, u64::from(u32_at(bytes, 100)?)),
        };
        let (offset, size) = (u64_at(bytes, 8)?, u32_at(bytes, 16)?);
        let backing = match offset {
            0 => None,
            _ => Some(text(bytes, offset, size, NAME_BYTES_MAX)?),
        };
        Some(Self {
            virtual_bytes: u64_at(bytes, 24)?,
            snapshots: u32_at(bytes, 60)?,
            backing,
            backing_format: backing_format(bytes, length),
            data_file: features & DATA_FILE != 0,
            dirty: features & DIRTY != 0,
            corrupt: features & CORRUPT != 0,
        })
    }
}

/// Walks the extensions: type, length, data padded to 8 bytes, until type 0.
fn backing_format(bytes: &[u8], header_length: u64) -> Option<String> {
    let mut at = header_length;
    loop {
        let (kind, size) = (u32_at(bytes, at)?, u32_at(bytes, at.checked_add(4)?)?);
        let data = at.checked_add(8)?;
        match kind {
            0 => return None,
            BACKING_FORMAT => return text(bytes, data, size, NAME_BYTES_MAX),
            _ => at = data.checked_add(u64::from(size).checked_next_multiple_of(8)?)?,
        }
    }
}

fn text(bytes: &[u8], offset: u64, size: u32, size_max: u32) -> Option<String> {
    let from = usize::try_from(offset).ok()?;
    let size = usize::try_from(size).ok().filter(|_| size <= size_max)?;
    let text = bytes.get(from..from.checked_add(size)?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn u32_at(bytes: &[u8], offset: u64) -> Option<u32> {
    let from = usize::try_from(offset).ok()?;
    let bytes = bytes.get(from..from.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: u64) -> Option<u64> {
    let from = usize::try_from(offset).ok()?;
    let bytes = bytes.get(from..from.checked_add(8)?)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn start(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; READ_BYTES];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).unwrap_or(u64::MAX)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn made(args: &[&str]) -> io::Result<Header> {
        let root = tempfile::tempdir().unwrap();
        let run = |args: &[&str]| {
            let made = Command::new("qemu-img")
                .current_dir(root.path())
                .args(args)
                .status();
            assert!(made.unwrap().success(), "{args:?}");
        };
        run(&["create", "-q", "-f", "raw", "base.raw", "1M"]);
        run(&[&["create", "-q", "-f", "qcow2"], args].concat());
        Header::read(&File::open(root.path().join("top")).unwrap())
    }

    #[test]
    fn it_reads_what_qemu_img_writes() {
        for version in ["compat=0.10", "compat=1.1"] {
            let plain = made(&["-o", version, "top", "1M"]).unwrap();
            let expected = Header {
                virtual_bytes: 1 << 20,
                ..Header::default()
            };
            assert_eq!(plain, expected, "{version}");
            let overlay = made(&["-o", version, "-b", "base.raw", "-F", "raw", "top"]).unwrap();
            assert_eq!(overlay.backing.as_deref(), Some("base.raw"));
            assert_eq!(overlay.backing_format.as_deref(), Some("raw"));
        }
        assert!(made(&["-o", "data_file=data", "top", "1M"]).unwrap().data_file);
    }

    #[test]
    fn what_is_no_header_is_refused_wherever_it_is_cut() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x");
        for bytes in [&b""[..], b"text", b"QFI\xfb", b"QFI\xfb\0\0\0\x09"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Header::read(&File::open(&path).unwrap()).is_err(), "{bytes:?}");
        }
        let mut whole = vec![0_u8; 512];
        whole[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        whole[103] = 104;
        assert_eq!(Header::parse(&whole), Some(Header::default()));
        for cut in 0..104 {
            assert_eq!(Header::parse(&whole[..cut]), None, "{cut}");
        }
        // A backing name that lies outside, or is longer than any may be.
        for (offset, size) in [(500, 100), (u64::MAX, 8), (200, 5000)] {
            whole[8..16].copy_from_slice(&u64::to_be_bytes(offset));
            whole[16..20].copy_from_slice(&u32::to_be_bytes(size));
            assert_eq!(Header::parse(&whole), None, "{offset} {size}");
        }
    }

    #[test]
    fn endless_extensions_end() {
        let mut bytes = vec![0_u8; 4096];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[103] = 104;
        for at in (104..4096).step_by(8) {
            bytes[at] = 1;
        }
        assert_eq!(Header::parse(&bytes).unwrap().backing_format, None);
    }
}
