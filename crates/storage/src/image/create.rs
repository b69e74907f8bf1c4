//! Making an image.

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use maqet_process::confine::Access;
use maqet_process::identity::FileId;
use maqet_spec::size::Size;
use maqet_spec::vm::DiskFormat;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, fstatvfs, fsync, ftruncate, linkat, openat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::{QEMU_IMG, format_name};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::place::{Place, magic_link};
use crate::policy::PathPolicy;
use crate::tool::Tool;

/// Time qemu-img has to write the few clusters of an empty image.
const CREATE_LIMIT: Duration = Duration::from_secs(30);
/// Room that must be left beside the metadata of a new image, bytes, so that the guest can at least begin.
const HEADROOM_BYTES: u64 = 1 << 20;
/// Sizes are rounded up to whole sectors, bytes, as qemu-img does.
const SECTOR_BYTES: u64 = 512;
/// How temporary names begin, where a file cannot be without one.
const TEMPORARY_PREFIX: &str = ".maqet-new-";
/// How they end.
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Hexadecimal digits between the two.
const TEMPORARY_DIGITS: usize = 16;
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
    path: &std::path::Path,
    format: DiskFormat,
    size: Size,
    policy: &PathPolicy,
    binaries: &Binaries,
) -> Result<Created, StorageError> {
    let place = Place::pin(path, policy)?;
    refuse_existing(&place)?;
    let Size(bytes) = size;
    let free_bytes = check_space(&place, needed_bytes(format, bytes))?;
    let file = Unnamed::make(&place)?;
    let (file_id, virtual_bytes) = fill(&place, file, format, bytes, binaries).await?;
    Ok(Created {
        path: place.path,
        file_id,
        virtual_bytes,
        free_bytes,
    })
}

/// Whether this is a name that only an image in the making has; what bears it and is open nowhere is left of a making that
/// was cut off.
pub fn is_temporary(name: &str) -> bool {
    let digits = name
        .strip_prefix(TEMPORARY_PREFIX)
        .and_then(|rest| rest.strip_suffix(TEMPORARY_SUFFIX));
    digits.is_some_and(|digits| {
        digits.len() == TEMPORARY_DIGITS
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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
        DiskFormat::Qcow2 => write_with_qemu_img(place, &file.file, virtual_bytes, binaries).await?,
    }
    let place = place.try_clone()?;
    let publish = tokio::task::spawn_blocking(move || file.publish(&place));
    let file_id = publish.await.map_err(|error| {
        let source = std::io::Error::other(error);
        StorageError::File {
            action: "publish image",
            path: PathBuf::new(),
            source,
        }
    })??;
    Ok((file_id, virtual_bytes))
}

async fn write_with_qemu_img(
    place: &Place,
    file: &File,
    bytes: u64,
    binaries: &Binaries,
) -> Result<(), StorageError> {
    let program = binaries.lookup(QEMU_IMG)?;
    let copy = file
        .try_clone()
        .map_err(StorageError::file("open", &place.path))?;
    let inside = format!("/proc/self/fd/{FILE_NUMBER}");
    let bytes = bytes.to_string();
    let args = [
        "create",
        "-q",
        "-f",
        format_name(DiskFormat::Qcow2),
        &inside,
        &bytes,
    ];
    let tool = Tool {
        program: &program.path,
        args: args.map(OsString::from).to_vec(),
        fds: vec![(copy.into(), FILE_NUMBER)],
        limit: CREATE_LIMIT,
        cpu_seconds: Some(CREATE_LIMIT.as_secs()),
        access: Some(Access::Write),
    };
    tool.output().await.map(drop)
}

/// A name that is taken is told at once; the last step would refuse it anyway.
fn refuse_existing(place: &Place) -> Result<(), StorageError> {
    match statat(&place.directory, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(StorageError::Exists {
            path: place.path.clone(),
        }),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(StorageError::file("look for", &place.path)(error)),
    }
}

/// Bytes an empty image takes at once: for qcow2 header, refcounts and one L1 entry (8 bytes) per 512 MiB.
fn needed_bytes(format: DiskFormat, bytes: u64) -> u64 {
    match format {
        DiskFormat::Raw => HEADROOM_BYTES,
        DiskFormat::Qcow2 => HEADROOM_BYTES + (4 << 16) + (bytes >> 29) * 8,
    }
}

fn check_space(place: &Place, needed: u64) -> Result<u64, StorageError> {
    let vfs =
        fstatvfs(&place.directory).map_err(StorageError::file("ask for free space in", place.parent()))?;
    let free = vfs.f_bavail.saturating_mul(vfs.f_frsize);
    if free >= needed {
        return Ok(free);
    }
    Err(StorageError::NoSpace {
        directory: place.parent().to_owned(),
        needed,
        free,
    })
}

/// A file that nobody can find yet. Without a name it vanishes by itself; a temporary name is removed on drop.
#[derive(Debug)]
struct Unnamed {
    file: File,
    temporary: Option<Temporary>,
}

#[derive(Debug)]
struct Temporary {
    directory: OwnedFd,
    name: OsString,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already when it was published; otherwise what cannot be removed is swept by its telling name.
        if unlinkat(&self.directory, &self.name, AtFlags::empty()).is_err() {
            tracing::debug!(name = %self.name.display(), "temporary image file was not there any more");
        }
    }
}

const PRIVATE: Mode = Mode::from_raw_mode(0o600);
const READ_WRITE: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC);

impl Unnamed {
    fn make(place: &Place) -> Result<Self, StorageError> {
        match openat(&place.directory, ".", OFlags::TMPFILE | READ_WRITE, PRIVATE) {
            Ok(fd) => Ok(Self {
                file: fd.into(),
                temporary: None,
            }),
            // NFS, some FUSE file systems.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => Self::make_named(place),
            Err(error) => Err(StorageError::file("make a file in", place.parent())(error)),
        }
    }

    fn make_named(place: &Place) -> Result<Self, StorageError> {
        let fail = |error: Errno| StorageError::file("make a file in", place.parent())(error);
        // A random number from the standard library's only source of them.
        let unique = RandomState::new().build_hasher().finish();
        let name = OsString::from(format!(
            "{TEMPORARY_PREFIX}{unique:0TEMPORARY_DIGITS$x}{TEMPORARY_SUFFIX}"
        ));
        let flags = READ_WRITE | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd = openat(&place.directory, &name, flags, PRIVATE).map_err(fail)?;
        let directory = place
            .directory
            .try_clone()
            .map_err(StorageError::file("open", place.parent()))?;
        let temporary = Some(Temporary { directory, name });
        Ok(Self {
            file: fd.into(),
            temporary,
        })
    }

    /// Makes the content durable, gives it its name unless that is taken, and makes the name durable.
    fn publish(self, place: &Place) -> Result<FileId, StorageError> {
        let fail = |action| move |error: Errno| StorageError::file(action, &place.path)(error);
        let metadata = self
            .file
            .metadata()
            .map_err(StorageError::file("look at", &place.path))?;
        let untouched = metadata.is_file()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.nlink() == u64::from(self.temporary.is_some());
        if !untouched {
            return Err(StorageError::Linked {
                path: place.path.clone(),
                links: metadata.nlink(),
            });
        }
        fsync(&self.file).map_err(fail("write out"))?;
        match self.give_name(place.directory.as_fd(), &place.name) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(StorageError::Exists {
                    path: place.path.clone(),
                });
            }
            Err(error) => return Err(fail("name image")(error)),
        }
        fsync(&place.directory).map_err(fail("make durable the name of"))?;
        Ok(FileId::of(&metadata))
    }

    fn give_name(&self, directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        let Some(temporary) = &self.temporary else {
            return linkat(
                CWD,
                magic_link(&self.file),
                directory,
                name,
                AtFlags::SYMLINK_FOLLOW,
            );
        };
        match renameat_with(
            directory,
            &temporary.name,
            directory,
            name,
            RenameFlags::NOREPLACE,
        ) {
            // The same file systems that lack unnamed files may lack this; a second link refuses to overwrite too.
            Err(Errno::INVAL | Errno::NOSYS) => {
                linkat(directory, &temporary.name, directory, name, AtFlags::empty())
            }
            renamed => renamed,
        }
    }
}
