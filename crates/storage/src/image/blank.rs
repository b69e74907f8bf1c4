//! Whether anything was ever written to a qcow2 image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Image;
use super::header::Header;

/// Where a header has the number of entries of the first-level table, and where that table's offset.
const ENTRIES_OFFSET: u64 = 36;
const TABLE_OFFSET: u64 = 40;
/// Largest first-level table that is read, bytes: QEMU takes none that is larger.
const TABLE_BYTES_MAX: u64 = 32 << 20;

/// Whether a qcow2 image shows only what it stands on, and holds no snapshot: no cluster of it was ever written. What cannot
/// be told is not blank.
///
/// # Errors
/// When it cannot be read.
pub fn is_blank(image: &Image) -> io::Result<bool> {
    let file = File::from(image.fd.try_clone()?);
    let header = match Header::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
        header => header?,
    };
    let (mut entries, mut offset) = ([0; 4], [0; 8]);
    file.read_exact_at(&mut entries, ENTRIES_OFFSET)?;
    file.read_exact_at(&mut offset, TABLE_OFFSET)?;
    let bytes = u64::from(u32::from_be_bytes(entries)) * 8;
    if header.snapshots != 0 || bytes > TABLE_BYTES_MAX {
        return Ok(false);
    }
    let mut table = vec![0; usize::try_from(bytes).unwrap_or_default()];
    file.read_exact_at(&mut table, u64::from_be_bytes(offset))?;
    Ok(table.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::open;
    use super::*;

    #[test]
    fn an_image_is_blank_until_something_is_written_to_it() {
        let root = tempfile::tempdir().unwrap();
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program)
                .current_dir(root.path())
                .args(args)
                .output()
                .unwrap();
            assert!(done.status.success(), "{program} {args:?}: {done:?}");
        };
        let blank = || is_blank(&open(&root.path().join("disk"), true).unwrap()).unwrap();
        run("qemu-img", &["create", "-q", "-f", "raw", "base", "1M"]);
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "disk"],
        );
        assert!(blank());
        run("qemu-io", &["-f", "qcow2", "-c", "read 0 64k", "disk"]);
        assert!(blank());
        run("qemu-io", &["-f", "qcow2", "-c", "write -z 512k 512", "disk"]);
        assert!(!blank());
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "disk"],
        );
        run("qemu-img", &["snapshot", "-c", "one", "disk"]);
        assert!(!blank());
        std::fs::write(root.path().join("disk"), "text").unwrap();
        assert!(!blank());
    }
}
