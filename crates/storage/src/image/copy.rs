//! Copying an image, with everything it stands on, into one new image that stands alone.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::confine::Access;
use maqet_process::identity::FileId;
use maqet_spec::vm::DiskFormat;
use serde::Deserialize;
use serde_json::{Value, json};

use super::unnamed::{Unnamed, blocking};
use super::{Chain, Image, QEMU_IMG, format_name};
use crate::binary::{Binaries, Binary};
use crate::error::StorageError;
use crate::meter::{Meter, Step};
use crate::place::Place;
use crate::policy::PathPolicy;
use crate::tool::Tool;

/// Time qemu-img has to find out how much there is to copy.
const MEASURE_LIMIT: Duration = Duration::from_mins(5);
/// Least time it has to copy.
const COPY_LIMIT_LEAST: Duration = Duration::from_mins(2);
/// No disk that one would put images on is slower, bytes per second.
const SLOWEST_BYTES_S: u64 = 2 << 20;
/// Number of the new file in qemu-img.
const TARGET_NUMBER: i32 = 3;
/// Number of the first image that is read; those below it have the next ones.
const SOURCE_NUMBER: i32 = 4;
/// Where a qcow2 header has the size that the guest sees.
const SIZE_OFFSET: u64 = 24;

/// What is copied: an open chain, and the format of the image on top.
#[derive(Debug)]
pub struct Source {
    /// The images, open; see [`open_chain`](super::open_chain) with `readonly`.
    pub chain: Chain,
    /// Format of the one on top.
    pub format: DiskFormat,
}

/// An image that was made from another.
#[derive(Debug)]
pub struct Copied {
    /// Where it is, symbolic links on the way resolved.
    pub path: PathBuf,
    /// Device and inode.
    pub file_id: FileId,
    /// Its format.
    pub format: DiskFormat,
    /// Size the guest sees, bytes.
    pub virtual_bytes: u64,
    /// Length of the file, bytes; for raw images more than it takes on the disk.
    pub file_bytes: u64,
    /// The file, open for reading and writing: what it is hashed or changed by.
    pub file: File,
}

/// Makes a new image, mode 0600, at the absolute path `to` with all that a guest would read from the source. It stands
/// alone, whatever the source stands on; internal snapshots are left behind.
///
/// qemu-img sees the images by descriptor and in the formats given; it may read those and write the new one, and touches
/// nothing else. An image that a running QEMU writes to is not read. Nothing is seen at `to` before the copy is complete
/// and on the disk, nothing after any failure. Dropping the future ends the work and leaves nothing; in the very last step,
/// the naming, it leaves the whole copy.
///
/// # Errors
/// [`StorageError::Exists`], [`StorageError::Denied`]; [`StorageError::NoSpace`] before the copy or when the disk runs full
/// under it; [`StorageError::Tool`] and [`StorageError::Deadline`] when qemu-img fails.
pub async fn copy(
    source: Source,
    to: &Path,
    format: DiskFormat,
    policy: &PathPolicy,
    binaries: &Binaries,
    meter: &Meter,
) -> Result<Copied, StorageError> {
    let (asked, policy) = (to.to_owned(), policy.clone());
    let pinning = move || {
        let place = Place::pin(&asked, &policy)?;
        place.refuse_existing().map(|()| place)
    };
    let place = blocking(to, pinning).await??;
    let program = binaries.lookup(QEMU_IMG)?;
    meter.tell(Step::Copying, 0, 0);
    let needed = measure(&source, &program).await?;
    let there = place.try_clone()?;
    let making = move || {
        there.check_space(needed)?;
        Unnamed::make(&there)
    };
    let counted = |error| place.counted(error, needed);
    let unnamed = blocking(to, making).await?.map_err(counted)?;
    let target = unnamed.file.try_clone().map_err(StorageError::file("open", to))?;
    let job = Job {
        place: &place,
        needed,
        format,
    };
    job.write(&source, &target, &program, meter).await?;
    let file_id = unnamed.named(&place).await.map_err(counted)?;
    let looking = move || Ok((virtual_bytes(&target, format)?, target.metadata()?.len(), target));
    let looked: std::io::Result<(u64, u64, File)> = blocking(to, looking).await?;
    let (virtual_bytes, file_bytes, file) = looked.map_err(StorageError::file("look at", to))?;
    Ok(Copied {
        virtual_bytes,
        path: place.path,
        file_id,
        format,
        file_bytes,
        file,
    })
}

/// Size that the guest sees of an image, bytes.
pub(super) fn virtual_bytes(file: &File, format: DiskFormat) -> std::io::Result<u64> {
    match format {
        DiskFormat::Raw => Ok(file.metadata()?.len()),
        DiskFormat::Qcow2 => {
            let mut size = [0; 8];
            file.read_exact_at(&mut size, SIZE_OFFSET)?;
            Ok(u64::from_be_bytes(size))
        }
    }
}

/// A copy that was begun.
#[derive(Debug)]
struct Job<'j> {
    place: &'j Place,
    /// Bytes it takes.
    needed: u64,
    format: DiskFormat,
}

impl Job<'_> {
    async fn write(
        &self,
        source: &Source,
        target: &File,
        program: &Binary,
        meter: &Meter,
    ) -> Result<(), StorageError> {
        let copy = target
            .try_clone()
            .map_err(StorageError::file("open", &self.place.path))?;
        let (node, sources) = source.node()?;
        let inside = format!("/proc/self/fd/{TARGET_NUMBER}");
        let args = ["convert", "-p", "-O", format_name(self.format), &node, &inside];
        let limit = COPY_LIMIT_LEAST + Duration::from_secs(self.needed / SLOWEST_BYTES_S);
        let tool = Tool {
            program: &program.path,
            args: args.map(OsString::from).to_vec(),
            fds: vec![(copy.into(), TARGET_NUMBER)],
            limit,
            cpu_seconds: Some(limit.as_secs()),
            access: Some(Access::Write),
        };
        let mut permille = Permille::default();
        let heard = |said: &[u8]| {
            if let Some(done) = permille.after(said) {
                meter.tell(Step::Copying, self.needed / 1000 * done, self.needed);
            }
        };
        let outcome = tool.run_hearing(sources, heard).await?;
        let written = outcome.content(&program.path).map(drop);
        written.map_err(|error| self.place.counted(error, self.needed))
    }
}

impl Source {
    /// The chain as QEMU takes it, node by node, and the descriptors it names.
    pub(super) fn node(&self) -> Result<(String, Vec<(OwnedFd, i32)>), StorageError> {
        let Chain { top, below } = &self.chain;
        let layers = std::iter::once((top, self.format));
        let layers: Vec<(&Image, DiskFormat)> = layers
            .chain(below.iter().map(|layer| (&layer.image, layer.format)))
            .collect();
        let mut files = Vec::new();
        for ((image, _format), number) in layers.iter().zip(SOURCE_NUMBER..) {
            let fd = image
                .fd
                .try_clone()
                .map_err(StorageError::file("open", &image.path))?;
            files.push((fd, number));
        }
        let from_the_bottom = layers.iter().zip(&files).rev();
        let node = from_the_bottom.fold(Value::Null, |below, ((_image, format), (_fd, number))| {
            let file = json!({"driver": "file", "filename": format!("/proc/self/fd/{number}")});
            match format {
                DiskFormat::Raw => json!({"driver": "raw", "file": file}),
                DiskFormat::Qcow2 => json!({"driver": "qcow2", "file": file, "backing": below}),
            }
        });
        Ok((format!("json:{node}"), files))
    }
}

/// The part of qemu-img's answer that is used.
#[derive(Deserialize)]
struct Measured {
    required: u64,
}

/// Bytes that a copy takes at most, zeros that are stored aside: they are found only while copying.
async fn measure(source: &Source, program: &Binary) -> Result<u64, StorageError> {
    let (node, sources) = source.node()?;
    // What a qcow2 image takes is what a sparse raw one takes, and its tables.
    let qcow2 = format_name(DiskFormat::Qcow2);
    let tool = Tool {
        program: &program.path,
        args: ["measure", "--output=json", "-O", qcow2, &node]
            .map(OsString::from)
            .to_vec(),
        fds: Vec::new(),
        limit: MEASURE_LIMIT,
        cpu_seconds: Some(MEASURE_LIMIT.as_secs()),
        access: Some(Access::Read),
    };
    let answer = tool
        .run_hearing(sources, |_said| ())
        .await?
        .content(&program.path)?;
    let measured: Measured = serde_json::from_str(&answer).map_err(|error| StorageError::Answer {
        program: program.path.clone(),
        reason: error.to_string(),
    })?;
    Ok(measured.required)
}

/// Reads `    (12.34/100%)\r` in whatever pieces it comes.
#[derive(Debug, Default)]
pub(super) struct Permille {
    kept: Vec<u8>,
}

/// Longest that is kept of a line, bytes: they have 20.
const LINE_BYTES_MAX: usize = 64;

impl Permille {
    /// The newest that was said, if anything new was.
    pub(super) fn after(&mut self, said: &[u8]) -> Option<u64> {
        self.kept.extend(said);
        let end = self.kept.iter().rposition(|byte| *byte == b'\r');
        let newest = end.and_then(|end| {
            let lines = self.kept.get(..end)?;
            let line = lines.rsplit(|byte| *byte == b'\r').next()?;
            permille(&String::from_utf8_lossy(line))
        });
        let rest = self.kept.len().saturating_sub(LINE_BYTES_MAX);
        let from = end.map_or(rest, |end| rest.max(end + 1));
        self.kept.drain(..from);
        newest
    }
}

fn permille(line: &str) -> Option<u64> {
    let percent = line.trim().strip_prefix('(')?.strip_suffix("/100%)")?;
    let (whole, fraction) = percent.split_once('.')?;
    let tenths: u64 = fraction.get(..1)?.parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    Some((whole.min(100) * 10 + tenths).min(1000))
}
