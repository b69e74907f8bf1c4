//! New images on top of a running VM's disks.

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
