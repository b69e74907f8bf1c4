//! Looking at an image and all it stands on, as far as that can be followed.
//!
//! Nothing is refused here that can be told: who asks what is wrong needs an answer, not an error.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use maqet_process::ProcessError;
use maqet_process::identity::FileMark;
use maqet_spec::vm::DiskFormat;

use super::chain::{DEPTH_MAX, backing, under};
use super::header::Header;
use super::{Image, open};
use crate::error::StorageError;
use crate::policy::PathPolicy;

/// Bytes of one block as `stat` counts them.
const BLOCK_BYTES: u64 = 512;

/// An image and what it stands on, the image itself first.
#[derive(Debug, Default)]
pub struct Look {
    /// What could be looked at.
    pub chain: Vec<Found>,
    /// Why it was not followed further, or the image itself could not be looked at.
    pub broken: Option<StorageError>,
}

/// One image of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is, as who asked or the image above it says; absolute if that was.
    pub named: PathBuf,
    /// Where it really is, symbolic links resolved.
    pub path: PathBuf,
    /// The file.
    pub file: FileMark,
    /// Its format, as the spec or the image above it says.
    pub format: DiskFormat,
    /// Size the guest sees, bytes.
    pub virtual_bytes: u64,
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Bytes it takes on the disk.
    pub actual_bytes: u64,
    /// Names it has.
    pub links: u64,
    /// Snapshots inside it.
    pub snapshots: u32,
    /// QEMU has found it damaged.
    pub corrupt: bool,
}

/// Looks at an image of a known format. It may be in use; nothing of it is locked.
pub fn look(path: &Path, format: DiskFormat, policy: &PathPolicy) -> Look {
    let mut look = Look::default();
    look.broken = follow(path, format, policy, &mut look.chain).err();
    look
}

fn follow(
    path: &Path,
    format: DiskFormat,
    policy: &PathPolicy,
    chain: &mut Vec<Found>,
) -> Result<(), StorageError> {
    let mut image = open(path, true)?;
    let (mut named, mut format) = (path.to_owned(), format);
    loop {
        let found = found(&named, &image, format)?;
        if chain.iter().any(|other| other.file == found.file) || chain.len() > DEPTH_MAX {
            let reason = "it stands on itself, or on more than 64 images";
            let path = found.path;
            return Err(StorageError::Chain { path, reason });
        }
        chain.push(found);
        let Some((path, below)) = under(&image, format)? else {
            return Ok(());
        };
        image = backing(&image, &path, policy)?;
        (named, format) = (path, below);
    }
}

fn found(named: &Path, image: &Image, format: DiskFormat) -> Result<Found, StorageError> {
    let fail = StorageError::file("look at", &image.path);
    let file = File::from(image.fd.try_clone().map_err(fail)?);
    let about = file
        .metadata()
        .map_err(StorageError::file("look at", &image.path))?;
    let mark = FileMark::of_fd(image.fd.as_fd()).map_err(told(&image.path))?;
    let header = match format {
        DiskFormat::Raw => Header {
            virtual_bytes: about.len(),
            ..Header::default()
        },
        DiskFormat::Qcow2 => Header::read(&file).map_err(|_no_header| StorageError::NotQcow2 {
            path: image.path.clone(),
        })?,
    };
    Ok(Found {
        named: named.to_owned(),
        path: image.path.clone(),
        file: mark,
        format,
        virtual_bytes: header.virtual_bytes,
        file_bytes: about.len(),
        actual_bytes: about.blocks().saturating_mul(BLOCK_BYTES),
        links: about.nlink(),
        snapshots: header.snapshots,
        corrupt: header.corrupt,
    })
}

/// For `map_err`: the kernel did not tell.
pub(super) fn told(path: &Path) -> impl FnOnce(ProcessError) -> StorageError {
    move |error| StorageError::file("look at", path)(std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn img(root: &Path, args: &[&str]) {
        let mut command = Command::new("qemu-img");
        let done = command.current_dir(root).args(args).status();
        assert!(done.unwrap().success(), "{args:?}");
    }

    fn place() -> (tempfile::TempDir, PathBuf, PathPolicy) {
        let guard = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(guard.path()).unwrap();
        let policy = PathPolicy::new(Some(root.clone()), Vec::new(), Vec::new());
        (guard, root, policy)
    }

    #[test]
    fn it_tells_of_every_image_of_a_chain() {
        let (_guard, root, policy) = place();
        img(&root, &["create", "-q", "-f", "raw", "base.raw", "1M"]);
        img(
            &root,
            &[
                "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top", "4M",
            ],
        );
        img(&root, &["snapshot", "-c", "one", "top"]);
        img(&root, &["snapshot", "-c", "two", "top"]);
        let look = look(&root.join("top"), DiskFormat::Qcow2, &policy);
        assert!(look.broken.is_none(), "{look:?}");
        let seen = look
            .chain
            .iter()
            .map(|found| (found.path.clone(), found.virtual_bytes, found.snapshots))
            .collect::<Vec<_>>();
        assert_eq!(
            seen,
            [
                (root.join("top"), 4 << 20, 2),
                (root.join("base.raw"), 1 << 20, 0)
            ]
        );
        assert_eq!(
            look.chain[0].file_bytes,
            fs::metadata(root.join("top")).unwrap().len()
        );
    }

    #[test]
    fn what_cannot_be_followed_is_told_with_all_that_could() {
        let (_guard, root, policy) = place();
        let overlay = |backing: &str, top: &str| {
            img(
                &root,
                &[
                    "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "qcow2", top, "1M",
                ],
            );
        };
        overlay("missing", "top");
        overlay("/etc/passwd", "denied");
        overlay("./loop", "loop");
        for (name, count) in [("top", 1), ("denied", 1), ("loop", 1), ("nothing", 0)] {
            let look = look(&root.join(name), DiskFormat::Qcow2, &policy);
            assert!(look.broken.is_some(), "{name}");
            assert_eq!(look.chain.len(), count, "{name}");
        }
        fs::write(root.join("text"), "text").unwrap();
        let look = look(&root.join("text"), DiskFormat::Qcow2, &policy);
        assert!(
            matches!(look.broken, Some(StorageError::NotQcow2 { .. })),
            "{look:?}"
        );
    }
}
