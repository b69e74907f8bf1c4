//! The library of images that disks stand on.

use std::path::PathBuf;

use maqet_process::identity::FileMark;
use maqet_spec::ImageName;
use maqet_spec::vm::DiskFormat;
use maqet_state::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::Progress;
use crate::method::Method;

/// Bring a copy of a file into the library. A streaming method: progress, then the image. Whoever hangs up ends the work,
/// and nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageImport {
    /// The file; absolute.
    pub file: PathBuf,
    /// Name of the image.
    pub name: ImageName,
    /// What the file is; without it that is told by its first bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// What its checksum must be: `blake3:` or `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}
method!(ImageImport, "ImageImport", ImageImported);

/// One reply of [`ImageImport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageImported {
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The image; in the last reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInfo>,
}

/// List the library, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageList {}
method!(ImageList, "ImageList", ImagesListed);

/// Answer to [`ImageList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagesListed {
    /// The images.
    pub images: Vec<ImageInfo>,
    /// Those that cannot be used.
    pub damaged: Vec<DamagedImage>,
}

/// An image of the library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Name.
    pub name: ImageName,
    /// Its file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Size that a guest sees, bytes.
    pub virtual_bytes: u64,
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Checksum of the file: `blake3:` and 64 hexadecimal digits.
    pub checksum: String,
    /// The file.
    pub file: FileMark,
    /// What it was imported from.
    pub source: PathBuf,
    /// Format of that.
    pub source_format: DiskFormat,
    /// Checksum that was asked for, and that the source had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_checksum: Option<String>,
    /// When.
    pub imported: Timestamp,
    /// Names of the VMs that have a disk which stands on it.
    pub used_by: Vec<String>,
}

/// An image that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedImage {
    /// Name.
    pub name: ImageName,
    /// What is wrong with it.
    pub reason: String,
}

/// Delete an image that no disk stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRemove {
    /// The image.
    pub name: ImageName,
}
method!(ImageRemove, "ImageRemove", ImageRemoved);

/// Answer to [`ImageRemove`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRemoved {
    /// The image that was.
    pub name: ImageName,
}

/// Hold images against their checksums. A streaming method: progress, and a reply for each image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageVerify {
    /// Which; all without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<ImageName>,
}
method!(ImageVerify, "ImageVerify", ImageVerified);

/// One reply of [`ImageVerify`]; the last one of a stream has neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVerified {
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What was found of one image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<ImageVerdict>,
}

/// What was found of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVerdict {
    /// The image.
    pub name: ImageName,
    /// It is what was imported.
    pub sound: bool,
    /// What is wrong, if it is not.
    pub problems: Vec<String>,
}
