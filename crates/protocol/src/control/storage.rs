//! Disks: which file is whose.

use std::path::PathBuf;

use maqet_process::identity::FileMark;
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::clock::Timestamp;
use maqet_state::snapshot::{SnapshotAction, SnapshotKind};
use serde::{Deserialize, Serialize};

use super::{DiskTrouble, RemovalStatus};
use crate::method::Method;

/// Say that the file at a disk's path is the right one, although another is on record; or that a lost one is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageAccept {
    /// The VM; it must not run.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
}
method!(StorageAccept, "StorageAccept", DiskAccepted);

/// Answer to [`StorageAccept`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskAccepted {
    /// Name of the VM.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
    /// Its path.
    pub path: PathBuf,
    /// It was so already.
    pub already: bool,
    /// The file that is on record now; `None` when there is none: the next start makes a new one, if the disk has a size.
    pub file: Option<FileMark>,
}

/// Tell of every disk of a VM: its file, what it stands on, who has it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageInfo {
    /// The VM.
    pub vm: String,
}
method!(StorageInfo, "StorageInfo", VmStorage);

/// Answer to [`StorageInfo`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStorage {
    /// Name of the VM.
    pub vm: String,
    /// Its disks, in the order of the spec.
    pub disks: Vec<DiskStorage>,
    /// Work on its snapshots that was cut off, and that nobody has settled yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<UnsettledWork>,
    /// A disk that QEMU, which runs, is being given. While nothing is being done to the VM, whether it has it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coming: Option<ComingDisk>,
    /// The VM's removal has begun and is not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<RemovalStatus>,
}

/// A disk on its way to a VM that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComingDisk {
    /// Its name.
    pub disk: String,
    /// Its path.
    pub path: PathBuf,
}

/// Work on a snapshot that was cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsettledWork {
    /// What was being done.
    pub action: SnapshotAction,
    /// Name of the snapshot.
    pub name: String,
    /// How it is kept.
    #[serde(default)]
    pub kind: SnapshotKind,
}

/// One disk, as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStorage {
    /// Name within the VM.
    pub disk: String,
    /// Its path.
    pub path: PathBuf,
    /// The guest cannot write.
    pub readonly: bool,
    /// How its file is.
    pub state: FileState,
    /// What is wrong with the file, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trouble: Vec<String>,
    /// What is on record against its content, or goes wrong while the VM runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<DiskTrouble>,
    /// Bytes that are free where the file is, or is to be; absent when nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// maqet made the file for this VM.
    pub made: bool,
    /// The file on record.
    pub recorded: Option<FileMark>,
    /// Base image it was cloned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Who has its file open now.
    pub holder: Option<DiskHolder>,
    /// The image and what it stands on, the image first, as far as that can be followed.
    pub chain: Vec<ImageStatus>,
}

/// How the file of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileState {
    /// There, and the one on record.
    Ok,
    /// There, and none is on record yet.
    New,
    /// Not there, and none was: the first start makes it.
    ToBeMade,
    /// There, and another one is on record.
    AnotherFile,
    /// Not there.
    Missing,
    /// There, and it or what it stands on cannot be used.
    Unusable,
}

impl FileState {
    /// The name, as shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::New => "new",
            Self::ToBeMade => "to-be-made",
            Self::AnotherFile => "another-file",
            Self::Missing => "missing",
            Self::Unusable => "unusable",
        }
    }
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskHolder {
    /// Name of the VM.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
}

/// One image of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Where it really is, symbolic links resolved.
    pub path: PathBuf,
    /// The file.
    pub file: FileMark,
    /// Format.
    pub format: String,
    /// Size the guest sees, bytes.
    pub virtual_bytes: u64,
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Bytes it takes on the disk.
    pub actual_bytes: u64,
    /// Snapshots inside it.
    pub snapshots: u32,
}

/// Check the disks of a VM: are the files there and the ones on record, is the chain whole, and, of a VM that does not run,
/// are the images' own tables in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageVerify {
    /// The VM.
    pub vm: String,
    /// Repair the disks' own images; the VM must not run.
    #[serde(default)]
    pub repair: bool,
}
method!(StorageVerify, "StorageVerify", StorageVerified);

/// Answer to [`StorageVerify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageVerified {
    /// Name of the VM.
    pub vm: String,
    /// The VM does not run, so the images' tables were checked too.
    pub tables: bool,
    /// Its disks.
    pub disks: Vec<DiskVerified>,
}

/// What a check of one disk found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskVerified {
    /// Name within the VM.
    pub disk: String,
    /// Its path.
    pub path: PathBuf,
    /// How its file is.
    pub state: FileState,
    /// What is wrong; empty when nothing is.
    pub findings: Vec<String>,
    /// The tables of its own image are whole; `None` when they were not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<bool>,
    /// What was repaired.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<String>,
}

/// List images that no VM has and none stands on. Nothing is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageOrphaned {}
method!(StorageOrphaned, "StorageOrphaned", Orphans);

/// Answer to [`StorageOrphaned`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// The images, by path.
    pub images: Vec<Orphan>,
    /// Directories that were searched.
    pub searched: Vec<PathBuf>,
    /// What could not be searched, and disks of VMs whose chain could not be followed: what they stand on may be listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trouble: Vec<String>,
}

/// An image that no VM has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes it takes on the disk.
    pub actual_bytes: u64,
    /// When it was written last.
    pub written_at: Timestamp,
}

/// Make a disk larger, or smaller where that is allowed: by QEMU where it runs, in the file where it does not. The spec's
/// size follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageResize {
    /// The VM.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
    /// Size the guest is to see, bytes.
    pub bytes: u64,
    /// `bytes` are added to the present size.
    #[serde(default)]
    pub add: bool,
    /// What lies behind a smaller size may be lost; the VM must not run.
    #[serde(default)]
    pub shrink: bool,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(StorageResize, "StorageResize", DiskResized);

/// Answer to [`StorageResize`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskResized {
    /// Name of the VM.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
    /// Size the guest saw, bytes.
    pub before: u64,
    /// Size it sees now, bytes; the same when there was nothing to do.
    pub after: u64,
    /// QEMU runs and has told its guest.
    pub live: bool,
    /// Bytes free in the image's file system; images grow as guests write.
    pub free_bytes: u64,
}

/// Give a stored VM a disk whose image is there already; one that runs where its machine takes such a disk then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageAttach {
    /// The VM.
    pub vm: String,
    /// The disk; its path is absolute.
    pub disk: Disk,
    /// Idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
method!(StorageAttach, "StorageAttach", DiskAttached);

/// Answer to [`StorageAttach`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskAttached {
    /// Name of the VM.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
    /// Its path.
    pub path: PathBuf,
    /// The file, which is on record now.
    pub file: FileMark,
    /// QEMU runs and has it.
    pub live: bool,
}

/// Copy a disk with all it stands on into a new image that stands alone. Whoever hangs up ends it. The VM must not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageClone {
    /// The VM.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
    /// The new image; absolute, and nothing may be there.
    pub path: PathBuf,
    /// Its format; without it the disk's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
}
method!(StorageClone, "StorageClone", DiskCloned);

/// Answer to [`StorageClone`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCloned {
    /// Name of the VM.
    pub vm: String,
    /// Name of the disk.
    pub disk: String,
    /// The new image, symbolic links on the way resolved.
    pub path: PathBuf,
    /// Size the guest sees, bytes.
    pub virtual_bytes: u64,
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
}
