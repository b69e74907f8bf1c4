//! Checking an image with `qemu-img check`, and making it longer or shorter with `qemu-img resize`.
//!
//! Both work on the image alone, by descriptor: what it stands on is not opened. qemu-img takes QEMU's locks, so an image
//! that a QEMU writes to is refused.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use maqet_process::ExitStatus;
use maqet_process::confine::Access;
use maqet_spec::vm::DiskFormat;
use rustix::fs::{fstatvfs, fsync};
use serde::Deserialize;
use serde_json::json;

use super::flags::Flags;
use super::header::Header;
use super::room::counted;
use super::unnamed::blocking;
use super::{Chain, Image, QEMU_IMG, format_name};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::tool::{Outcome, Tool};

/// Time qemu-img has to read all tables of an image.
const CHECK_LIMIT: Duration = Duration::from_mins(30);
/// Time it has to write new ones.
const RESIZE_LIMIT: Duration = Duration::from_mins(10);
/// Number of the image in qemu-img.
const FILE_NUMBER: i32 = 3;
/// Room that must be left beside new tables, bytes.
const HEADROOM_BYTES: u64 = 1 << 20;
/// Bytes of the first-level table for each byte of the image, as a shift: one entry of 8 bytes for 512 MiB.
const TABLE_SHIFT: u32 = 26;
/// Sizes are rounded up to whole sectors, bytes, as qemu-img does.
const SECTOR_BYTES: u64 = 512;
/// How qemu-img ends when an image is damaged, and when clusters are lost that nobody refers to.
const DAMAGED: i32 = 2;
const LEAKING: i32 = 3;

/// What a check found. A raw image has nothing to check: all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Checked {
    /// Errors that may mean wrong data, and are still there.
    pub corruptions: u64,
    /// Clusters that are lost to nobody's use, and still are; no data is wrong.
    pub leaks: u64,
    /// Places that could not be checked.
    pub check_errors: u64,
    /// Of the corruptions, wrong flags about who shares a cluster: every cluster is there and counted. A step on snapshots that is
    /// cut off leaves such.
    #[serde(skip)]
    pub flags: u64,
    /// Errors that were repaired.
    pub corruptions_fixed: u64,
    /// Lost clusters that were freed.
    pub leaks_fixed: u64,
}

impl Checked {
    /// Nothing is wrong but flags and lost clusters: to put those right loses nothing that anybody could want to save.
    pub const fn is_harmless(&self) -> bool {
        self.check_errors == 0 && self.corruptions == self.flags
    }
}

/// Checks the tables of an image; with `repair`, which needs it open for writing, repairs what can be.
///
/// # Errors
/// [`StorageError::Tool`] when it cannot be checked at all, or a QEMU has it; [`StorageError::Deadline`].
pub async fn check(
    image: Image,
    format: DiskFormat,
    repair: bool,
    binaries: &Binaries,
) -> Result<Checked, StorageError> {
    if format == DiskFormat::Raw {
        return Ok(Checked::default());
    }
    let program = binaries.lookup(QEMU_IMG)?;
    let mut args = vec!["check", "--output=json"];
    args.extend(repair.then_some("-r"));
    args.extend(repair.then_some("all"));
    let access = if repair { Access::Write } else { Access::Read };
    let node = alone(format);
    args.push(&node);
    let mut flags = Flags::default();
    let checking = tool(&program.path, &args, image, access, CHECK_LIMIT);
    let outcome = checking.run_overhearing(|said| flags.hear(said)).await?;
    let told = matches!(outcome.status, ExitStatus::Code(0 | DAMAGED | LEAKING));
    match serde_json::from_str::<Checked>(&outcome.stdout) {
        Ok(checked) if told || checked.check_errors > 0 => Ok(Checked {
            flags: flags.count(),
            ..checked
        }),
        Ok(_) | Err(_) => Err(failed(&program.path, &outcome)),
    }
}

/// What came of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Size the guest saw, bytes.
    pub before: u64,
    /// Size it will see, bytes: the size asked for, rounded up to 512.
    pub after: u64,
    /// Bytes that are free in its file system: less than it may grow by means that it may run out.
    pub free_bytes: u64,
}

/// Makes an image, open for writing with what it stands on, as large as asked for. What a guest would read beyond the old
/// end is zero.
///
/// # Errors
/// [`StorageError::WouldShrink`] unless `shrink`; [`StorageError::NoSpace`]; [`StorageError::Chain`] when the new part would
/// show what it stands on; [`StorageError::Tool`] when qemu-img refuses, for example to shrink an image with snapshots.
pub async fn resize(
    chain: Chain,
    format: DiskFormat,
    bytes: u64,
    shrink: bool,
    binaries: &Binaries,
) -> Result<Resized, StorageError> {
    let after = bytes.div_ceil(SECTOR_BYTES).saturating_mul(SECTOR_BYTES);
    let path = chain.top.path.clone();
    let looked = blocking(&path, move || look(chain, format)).await??;
    let Looked {
        top,
        before,
        base,
        free_bytes,
    } = looked;
    let resized = Resized {
        before,
        after,
        free_bytes,
    };
    if after == before {
        return Ok(resized);
    }
    if after < before && !shrink {
        return Err(StorageError::WouldShrink { path, before, after });
    }
    if base > before {
        let reason = "it stands on a larger image, whose content would show in the new part";
        return Err(StorageError::Chain { path, reason });
    }
    let needed = resize_needs(after);
    if after > before && free_bytes < needed {
        return Err(StorageError::NoSpace {
            directory: path.parent().unwrap_or(&path).to_owned(),
            needed,
            free: free_bytes,
        });
    }
    let written = write_size(top, format, after, shrink, binaries).await;
    written.map_err(|error| counted(error, needed, &path))?;
    Ok(resized)
}

/// A chain whose top is to have another size.
struct Looked {
    top: Image,
    /// Size the guest sees, bytes.
    before: u64,
    /// The same of the image below, bytes; 0 without one.
    base: u64,
    free_bytes: u64,
}

fn look(Chain { top, below }: Chain, format: DiskFormat) -> Result<Looked, StorageError> {
    let base = below.first();
    let base = base.map(|base| virtual_bytes(&base.image, base.format));
    Ok(Looked {
        before: virtual_bytes(&top, format)?,
        base: base.transpose()?.unwrap_or(0),
        free_bytes: free(&top)?,
        top,
    })
}

/// Bytes that must be free for an image to be made this large: its new tables, and some for the guest to begin with.
pub const fn resize_needs(bytes: u64) -> u64 {
    HEADROOM_BYTES + (bytes >> TABLE_SHIFT)
}

async fn write_size(
    image: Image,
    format: DiskFormat,
    bytes: u64,
    shrink: bool,
    binaries: &Binaries,
) -> Result<(), StorageError> {
    let program = binaries.lookup(QEMU_IMG)?;
    let path = image.path.clone();
    let fail = StorageError::file("open", &path);
    let file = File::from(image.fd.try_clone().map_err(fail)?);
    let (node, bytes) = (alone(format), bytes.to_string());
    let mut args = vec!["resize", "-q"];
    args.extend(shrink.then_some("--shrink"));
    args.extend([&*node, &*bytes]);
    let outcome = run(&program.path, &args, image, Access::Write, RESIZE_LIMIT).await?;
    if outcome.status != ExitStatus::Code(0) {
        return Err(failed(&program.path, &outcome));
    }
    let durable = blocking(&path, move || fsync(&file)).await?;
    durable.map_err(StorageError::file("write out", &path))
}

/// The image without what it stands on, as QEMU takes it.
pub(super) fn alone(format: DiskFormat) -> String {
    let file = json!({"driver": "file", "filename": format!("/proc/self/fd/{FILE_NUMBER}")});
    let node = match format {
        DiskFormat::Raw => json!({"driver": format_name(format), "file": file}),
        DiskFormat::Qcow2 => json!({"driver": format_name(format), "file": file, "backing": null}),
    };
    format!("json:{node}")
}

async fn run(
    program: &Path,
    args: &[&str],
    image: Image,
    access: Access,
    limit: Duration,
) -> Result<Outcome, StorageError> {
    tool(program, args, image, access, limit).run().await
}

fn tool<'p>(program: &'p Path, args: &[&str], image: Image, access: Access, limit: Duration) -> Tool<'p> {
    Tool {
        program,
        args: args.iter().map(OsString::from).collect(),
        fds: vec![(image.fd, FILE_NUMBER)],
        limit,
        cpu_seconds: Some(limit.as_secs()),
        access: Some(access),
    }
}

fn failed(program: &Path, outcome: &Outcome) -> StorageError {
    StorageError::Tool {
        program: program.to_owned(),
        status: outcome.status,
        words: outcome.stderr.trim().to_owned(),
    }
}

fn virtual_bytes(image: &Image, format: DiskFormat) -> Result<u64, StorageError> {
    let fail = StorageError::file("read", &image.path);
    let file = File::from(image.fd.try_clone().map_err(fail)?);
    let read = match format {
        DiskFormat::Raw => return Ok(image.file_bytes),
        DiskFormat::Qcow2 => Header::read(&file),
    };
    let header = read.map_err(StorageError::file("read", &image.path))?;
    Ok(header.virtual_bytes)
}

fn free(image: &Image) -> Result<u64, StorageError> {
    let vfs = fstatvfs(&image.fd).map_err(StorageError::file("ask for free space beside", &image.path))?;
    Ok(vfs.f_bavail.saturating_mul(vfs.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use super::super::damage::damage;
    use super::super::open_chain;
    use super::*;
    use crate::policy::PathPolicy;

    struct Scene {
        _guard: tempfile::TempDir,
        root: PathBuf,
        policy: PathPolicy,
        binaries: Binaries,
    }

    impl Scene {
        fn new() -> Self {
            let guard = tempfile::tempdir().unwrap();
            let root = fs::canonicalize(guard.path()).unwrap();
            Self {
                _guard: guard,
                policy: PathPolicy::new(Some(root.clone()), Vec::new(), Vec::new()),
                root,
                binaries: Binaries::new(),
            }
        }

        fn img(&self, args: &[&str]) {
            let mut command = Command::new("qemu-img");
            let done = command.current_dir(&self.root).args(args).status();
            assert!(done.unwrap().success(), "{args:?}");
        }

        fn open(&self, name: &str, format: DiskFormat) -> Chain {
            open_chain(&self.root.join(name), format, false, &self.policy).unwrap()
        }

        async fn check(&self, name: &str, repair: bool) -> Result<Checked, StorageError> {
            let chain = self.open(name, DiskFormat::Qcow2);
            check(chain.top, DiskFormat::Qcow2, repair, &self.binaries).await
        }

        async fn resize(&self, name: &str, bytes: u64, shrink: bool) -> Result<Resized, StorageError> {
            let chain = self.open(name, DiskFormat::Qcow2);
            resize(chain, DiskFormat::Qcow2, bytes, shrink, &self.binaries).await
        }
    }

    #[tokio::test]
    async fn damage_is_found_and_repaired() {
        let scene = Scene::new();
        scene.img(&["create", "-q", "-f", "raw", "base", "1M"]);
        scene.img(&[
            "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top", "1M",
        ]);
        assert_eq!(scene.check("top", false).await.unwrap(), Checked::default());
        damage(&scene.root.join("top"));
        let found = scene.check("top", false).await.unwrap();
        assert!(found.corruptions > 0 && found.corruptions_fixed == 0, "{found:?}");
        let repaired = scene.check("top", true).await.unwrap();
        assert!(
            repaired.corruptions_fixed > 0 && repaired.corruptions == 0,
            "{repaired:?}"
        );
        assert_eq!(scene.check("top", false).await.unwrap(), Checked::default());
        // It still stands on what it stood on.
        assert_eq!(scene.open("top", DiskFormat::Qcow2).below.len(), 1);
    }

    #[tokio::test]
    async fn what_is_no_image_cannot_be_checked() {
        let scene = Scene::new();
        scene.img(&["create", "-q", "-f", "qcow2", "disk", "1M"]);
        let chain = scene.open("disk", DiskFormat::Qcow2);
        fs::write(scene.root.join("disk"), "text").unwrap();
        let failed = check(chain.top, DiskFormat::Qcow2, false, &scene.binaries).await;
        assert!(matches!(failed, Err(StorageError::Tool { .. })), "{failed:?}");
    }

    #[tokio::test]
    async fn images_grow_and_shrink_only_when_told() {
        let scene = Scene::new();
        scene.img(&["create", "-q", "-f", "qcow2", "disk", "1M"]);
        let grown = scene.resize("disk", (4 << 20) - 100, false).await.unwrap();
        assert_eq!((grown.before, grown.after), (1 << 20, 4 << 20));
        let again = scene.resize("disk", 4 << 20, false).await.unwrap();
        assert_eq!(again.before, again.after);
        let refused = scene.resize("disk", 2 << 20, false).await;
        assert!(
            matches!(refused, Err(StorageError::WouldShrink { .. })),
            "{refused:?}"
        );
        let shrunk = scene.resize("disk", 2 << 20, true).await.unwrap();
        assert_eq!((shrunk.before, shrunk.after), (4 << 20, 2 << 20));
        scene.img(&["create", "-q", "-f", "raw", "plain", "1M"]);
        let plain = scene.open("plain", DiskFormat::Raw);
        resize(plain, DiskFormat::Raw, 3 << 20, false, &scene.binaries)
            .await
            .unwrap();
        assert_eq!(fs::metadata(scene.root.join("plain")).unwrap().len(), 3 << 20);
    }

    /// The new part of an overlay must read as zero, not as what lies below.
    #[tokio::test]
    async fn an_overlay_does_not_grow_into_a_larger_base() {
        let scene = Scene::new();
        scene.img(&["create", "-q", "-f", "raw", "base", "4M"]);
        scene.img(&[
            "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top", "1M",
        ]);
        let refused = scene.resize("top", 2 << 20, false).await;
        assert!(matches!(refused, Err(StorageError::Chain { .. })), "{refused:?}");
        scene.img(&[
            "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "large", "4M",
        ]);
        assert_eq!(
            scene.resize("large", 8 << 20, false).await.unwrap().after,
            8 << 20
        );
        assert_eq!(scene.open("large", DiskFormat::Qcow2).below.len(), 1);
    }
}
