//! New images on top of a running VM's disks, and images that are merged into those below.

use maqet_spec::vm::Disk;
use serde::{Deserialize, Serialize};

use super::OpenedFile;
use crate::control::Empty;
use crate::method::Method;

/// A disk that gets a new image on top.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewTop {
    /// The disk as it is.
    pub disk: Disk,
    /// The new image, qcow2 and blank; no other file at that path is taken for it.
    pub image: OpenedFile,
    /// Images that the disk has, itself counted: QEMU must have as many.
    pub images: usize,
}

/// Put QEMU on new images, all at one moment or none. Answered when that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackImages {
    /// The disks.
    pub disks: Vec<NewTop>,
    /// Deadline, milliseconds.
    pub timeout_ms: u64,
}

impl Method for StackImages {
    const NAME: &'static str = "org.maqet.Runner.Stack";
    type Reply = Empty;
}

/// What QEMU has for disks now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListTops {
    /// The disks.
    pub disks: Vec<String>,
}

impl Method for ListTops {
    const NAME: &'static str = "org.maqet.Runner.Tops";
    type Reply = Tops;
}

/// Answer to [`ListTops`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tops {
    /// One for each disk that QEMU has.
    pub tops: Vec<Top>,
    /// Disks of which an image is being written into the one below, or that wait for [`EndMerge`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merging: Vec<String>,
}

/// What QEMU has for a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// The disk.
    pub disk: String,
    /// The node that is written to.
    pub node: String,
    /// Images of the disk, all that it stands on counted.
    pub images: usize,
    /// It has a device.
    pub attached: bool,
}

/// Write what one image of a disk holds into the image below it. The image on top is done once both hold the same: then the guest
/// is halted, and which of both the disk goes on with is told by [`EndMerge`]. Any other is done when it is below nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeImage {
    /// The disk as it is.
    pub disk: Disk,
    /// Images that it has, that on top counted: QEMU must have as many.
    pub images: usize,
    /// Images above the one that is merged.
    pub depth: usize,
    /// The image below, which is written to.
    pub base: OpenedFile,
    /// The image right above, which is told what it stands on, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<OpenedFile>,
    /// Deadline, milliseconds.
    pub timeout_ms: u64,
}

impl Method for MergeImage {
    const NAME: &'static str = "org.maqet.Runner.Merge";
    type Reply = Merging;
}

/// Answer to [`MergeImage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merging {
    /// The guest is halted until [`EndMerge`].
    pub waits: bool,
}

/// Have a disk go on with as many images as it has on record: with the one below, or with the one on top as before. The guest is
/// let run, unless a person has it halted. Nothing to do is no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndMerge {
    /// The disk.
    pub disk: String,
    /// Images that it has on record.
    pub images: usize,
}

impl Method for EndMerge {
    const NAME: &'static str = "org.maqet.Runner.EndMerge";
    type Reply = Empty;
}
