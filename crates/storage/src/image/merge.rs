//! Writing what an image holds into the image that it stands on, and naming that one in the image above.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use maqet_process::confine::Access;
use maqet_spec::vm::DiskFormat;
use rustix::fs::{fstatvfs, fsync};

use super::check::alone;
use super::copy::{Permille, Source};
use super::{Chain, Image, QEMU_IMG, blocking, format_name, open};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::meter::{Meter, Step};
use crate::policy::PathPolicy;
use crate::tool::Tool;

/// Least time qemu-img has to merge.
const MERGE_LIMIT_LEAST: Duration = Duration::from_mins(2);
/// Time it has to write another header.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// No disk that one would put images on is slower, bytes per second.
const SLOWEST_BYTES_S: u64 = 2 << 20;
/// Room that is left in the base's file system, bytes.
const HEADROOM_BYTES: u64 = 1 << 20;
/// Number of the image in qemu-img.
const FILE_NUMBER: i32 = 3;
/// Bytes of one block as `stat` counts them.
const BLOCK_BYTES: u64 = 512;
/// How qemu-img says that the disk is full.
const FULL: &str = "No space left on device";

/// Writes what a qcow2 image, on top of `chain`, holds into the image right below it, which then shows the same as both. The
/// image itself is left as it is: a guest reads from it what it did, at every moment and whatever is cut off.
///
/// The chain is one that [`open_chain`](super::open_chain) opened for writing. Dropping the future ends the work.
///
/// # Errors
/// [`StorageError::Chain`] when it stands on nothing; [`StorageError::Denied`] and what [`open`](super::open()) says of the
/// base; [`StorageError::NoSpace`]; [`StorageError::Tool`] and [`StorageError::Deadline`] when qemu-img fails.
pub async fn merge(
    chain: Chain,
    policy: &PathPolicy,
    binaries: &Binaries,
    meter: &Meter,
) -> Result<(), StorageError> {
    let base = writable_base(&chain, policy)?;
    let job = Job {
        needed: merge_needs(&chain.top)?,
        base: base
            .try_clone()
            .map_err(StorageError::file("open", &chain.top.path))?,
        path: chain.top.path.clone(),
    };
    job.check_room()?;
    let source = Source {
        chain,
        format: DiskFormat::Qcow2,
    };
    meter.tell(Step::Merging, 0, 0);
    job.run(source, base, binaries, meter).await?;
    let written = job.base;
    blocking(&job.path, move || fsync(&written))
        .await?
        .map_err(StorageError::file("write out what is below", &job.path))
}

/// Bytes that must be free beside the image below for all that an image holds to be written into it. Less may do.
///
/// # Errors
/// [`StorageError::File`] when it cannot be looked at.
pub fn merge_needs(image: &Image) -> Result<u64, StorageError> {
    Ok(held_bytes(image)?.saturating_add(HEADROOM_BYTES))
}

/// Names another image as the one that a qcow2 image, open for writing, stands on: one that shows the same. Neither is read.
///
/// # Errors
/// [`StorageError::Tool`] and [`StorageError::Deadline`] when qemu-img fails.
pub async fn stand_on(
    image: Image,
    base: (&Path, DiskFormat),
    binaries: &Binaries,
) -> Result<(), StorageError> {
    let program = binaries.lookup(QEMU_IMG)?;
    let path = image.path.clone();
    let file = File::from(image.fd.try_clone().map_err(StorageError::file("open", &path))?);
    let (below, format) = base;
    let mut args = ["rebase", "-q", "-u", "-F", format_name(format), "-b"]
        .map(OsString::from)
        .to_vec();
    args.extend([below.into(), alone(DiskFormat::Qcow2).into()]);
    let tool = Tool {
        program: &program.path,
        args,
        fds: vec![(image.fd, FILE_NUMBER)],
        limit: HEADER_LIMIT,
        cpu_seconds: Some(HEADER_LIMIT.as_secs()),
        access: Some(Access::Write),
    };
    tool.output().await?;
    blocking(&path, move || fsync(&file))
        .await?
        .map_err(StorageError::file("write out", &path))
}

/// The base once more, open for writing: it must be the very file that the chain has.
fn writable_base(chain: &Chain, policy: &PathPolicy) -> Result<OwnedFd, StorageError> {
    let broken = |reason| StorageError::Chain {
        path: chain.top.path.clone(),
        reason,
    };
    let below = chain
        .below
        .first()
        .ok_or_else(|| broken("it stands on no other image"))?;
    policy.check(&below.image.path)?;
    let base = open(&below.image.path, false)?;
    if base.file_id != below.image.file_id {
        return Err(broken("what it stands on was exchanged just now"));
    }
    Ok(base.fd)
}

/// Bytes an image takes on the disk.
fn held_bytes(image: &Image) -> Result<u64, StorageError> {
    let fail = StorageError::file("look at", &image.path);
    let about = image.fd.try_clone().and_then(|fd| File::from(fd).metadata());
    Ok(about.map_err(fail)?.blocks().saturating_mul(BLOCK_BYTES))
}

struct Job {
    /// Bytes that the base may grow by, and some room.
    needed: u64,
    base: OwnedFd,
    /// The image that is merged.
    path: std::path::PathBuf,
}

impl Job {
    /// A base that ran full half way would be neither what it was nor what it is to be.
    fn check_room(&self) -> Result<(), StorageError> {
        let free = self.free()?;
        if free < self.needed {
            return Err(self.full(free));
        }
        Ok(())
    }

    fn free(&self) -> Result<u64, StorageError> {
        let asked = fstatvfs(&self.base);
        let told = asked.map_err(StorageError::file("ask for free space below", &self.path))?;
        Ok(told.f_bavail.saturating_mul(told.f_frsize))
    }

    fn full(&self, free: u64) -> StorageError {
        StorageError::NoSpace {
            directory: self.path.parent().unwrap_or(&self.path).to_owned(),
            needed: self.needed,
            free,
        }
    }

    async fn run(
        &self,
        source: Source,
        base: OwnedFd,
        binaries: &Binaries,
        meter: &Meter,
    ) -> Result<(), StorageError> {
        let program = binaries.lookup(QEMU_IMG)?;
        let (node, files) = source.node()?;
        let mut files = files.into_iter();
        // The image and its base may be written to; what is further below may be read.
        let mut fds: Vec<(OwnedFd, i32)> = files.by_ref().take(2).collect();
        if let Some((fd, _number)) = fds.last_mut() {
            *fd = base;
        }
        let limit = MERGE_LIMIT_LEAST + Duration::from_secs(self.needed / SLOWEST_BYTES_S);
        let tool = Tool {
            program: &program.path,
            args: ["commit", "-p", "-d", &node].map(OsString::from).to_vec(),
            fds,
            limit,
            cpu_seconds: Some(limit.as_secs()),
            access: Some(Access::Write),
        };
        let mut permille = Permille::default();
        let heard = |said: &[u8]| {
            if let Some(done) = permille.after(said) {
                meter.tell(Step::Merging, self.needed / 1000 * done, self.needed);
            }
        };
        let outcome = tool.run_hearing(files.collect(), heard).await?;
        match outcome.content(&program.path) {
            Err(StorageError::Tool { words, .. }) if words.contains(FULL) => Err(self.full(self.free()?)),
            done => done.map(drop),
        }
    }
}
