//! Making an image.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::confine::Access;
use maqet_process::identity::FileId;
use maqet_spec::size::Size;
use maqet_spec::vm::DiskFormat;
use rustix::fs::ftruncate;

use super::unnamed::Unnamed;
use super::{QEMU_IMG, format_name};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::place::Place;
use crate::policy::PathPolicy;
use crate::tool::Tool;

/// Time qemu-img has to write the few clusters of an empty image.
const CREATE_LIMIT: Duration = Duration::from_secs(30);
/// Room that must be left beside the metadata of a new image, bytes, so that the guest can at least begin.
const HEADROOM_BYTES: u64 = 1 << 20;
/// Sizes are rounded up to whole sectors, bytes, as qemu-img does.
const SECTOR_BYTES: u64 = 512;
/// Number of the unnamed file in qemu-img.
const FILE_NUMBER: i32 = 3;

/// A new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Where it is, symbolic links on the way resolved.
    pub path: PathBuf,
    /// Device and inode.
    pub file_id: FileId,
    /// Size the guest sees, bytes: the size asked for, rounded up to 512.
    pub virtual_bytes: u64,
    /// Bytes that were free in its file system. Images grow as guests write: less than `virtual_bytes` means
    /// that this one may run out.
    pub free_bytes: u64,
}

/// Makes an empty image at an absolute path, mode 0600.
///
/// The parent directory must exist. The image is sparse: what is needed at once is its metadata and 1 MiB.
/// Dropping the future leaves nothing behind.
///
/// # Errors
/// [`StorageError::Exists`] when the name is taken, by whatever; [`StorageError::Denied`];
/// [`StorageError::NoSpace`]; [`StorageError::Tool`] and [`StorageError::Deadline`] when qemu-img fails.
pub async fn create(
    path: &Path,
    format: DiskFormat,
    size: Size,
    policy: &PathPolicy,
    binaries: &Binaries,
) -> Result<Created, StorageError> {
    let place = Place::pin(path, policy)?;
    place.refuse_existing()?;
    let Size(bytes) = size;
    let free_bytes = place.check_space(needed_bytes(format, bytes))?;
    let file = Unnamed::make(&place)?;
    let (file_id, virtual_bytes) = fill(&place, file, format, bytes, binaries).await?;
    Ok(Created {
        path: place.path,
        file_id,
        virtual_bytes,
        free_bytes,
    })
}

/// Makes an image that shows another, `base`, and takes what is written, at an absolute path, mode 0600. The base is written
/// into it by its absolute path and format, and is not opened; dropping the future leaves nothing behind.
///
/// # Errors
/// As for [`create`].
pub async fn overlay(
    path: &Path,
    base: (&Path, DiskFormat),
    size: Size,
    policy: &PathPolicy,
    binaries: &Binaries,
) -> Result<Created, StorageError> {
    let place = Place::pin(path, policy)?;
    place.refuse_existing()?;
    let Size(bytes) = size;
    let free_bytes = place.check_space(needed_bytes(DiskFormat::Qcow2, bytes))?;
    let file = Unnamed::make(&place)?;
    let virtual_bytes = bytes.div_ceil(SECTOR_BYTES).saturating_mul(SECTOR_BYTES);
    let (below, format) = base;
    let words = [
        OsString::from("-u"),
        "-b".into(),
        below.into(),
        "-F".into(),
        format_name(format).into(),
    ];
    write_with_qemu_img(&place, &file.file, &words, virtual_bytes, binaries).await?;
    let file_id = file.named(&place).await?;
    Ok(Created {
        path: place.path,
        file_id,
        virtual_bytes,
        free_bytes,
    })
}

/// Everything after the checks: content, then durability, then the name.
async fn fill(
    place: &Place,
    file: Unnamed,
    format: DiskFormat,
    bytes: u64,
    binaries: &Binaries,
) -> Result<(FileId, u64), StorageError> {
    let virtual_bytes = bytes.div_ceil(SECTOR_BYTES).saturating_mul(SECTOR_BYTES);
    match format {
        DiskFormat::Raw => {
            ftruncate(&file.file, virtual_bytes).map_err(StorageError::file("size image", &place.path))?;
        }
        DiskFormat::Qcow2 => write_with_qemu_img(place, &file.file, &[], virtual_bytes, binaries).await?,
    }
    let file_id = file.named(place).await?;
    Ok((file_id, virtual_bytes))
}

async fn write_with_qemu_img(
    place: &Place,
    file: &File,
    words: &[OsString],
    bytes: u64,
    binaries: &Binaries,
) -> Result<(), StorageError> {
    let program = binaries.lookup(QEMU_IMG)?;
    let copy = file
        .try_clone()
        .map_err(StorageError::file("open", &place.path))?;
    let inside = format!("/proc/self/fd/{FILE_NUMBER}");
    let mut args = ["create", "-q", "-f", format_name(DiskFormat::Qcow2)]
        .map(OsString::from)
        .to_vec();
    args.extend_from_slice(words);
    args.extend([inside.into(), bytes.to_string().into()]);
    let tool = Tool {
        program: &program.path,
        args,
        fds: vec![(copy.into(), FILE_NUMBER)],
        limit: CREATE_LIMIT,
        cpu_seconds: Some(CREATE_LIMIT.as_secs()),
        access: Some(Access::Write),
    };
    tool.output().await.map(drop)
}

/// Bytes an empty image takes at once: for qcow2 header, refcounts and one L1 entry (8 bytes) per 512 MiB.
fn needed_bytes(format: DiskFormat, bytes: u64) -> u64 {
    match format {
        DiskFormat::Raw => HEADROOM_BYTES,
        DiskFormat::Qcow2 => HEADROOM_BYTES + (4 << 16) + (bytes >> 29) * 8,
    }
}
