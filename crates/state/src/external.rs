//! Snapshots outside of images: the image that was is left alone, and a new one on top of it takes what is written.
//!
//! Pure: which disks have which layers, what is being done about them, and what a disk's entry in the spec becomes.

use std::path::{Path, PathBuf};

use maqet_process::identity::FileMark;
use maqet_spec::VmSpec;
use maqet_spec::vm::{Disk, DiskFormat};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::disk::{DiskRecords, Opened};
use crate::snapshot::SnapshotAction;

/// One disk of such a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The disk as it was; its image is what the snapshot keeps.
    pub before: Disk,
    /// The image on top of it, qcow2, absolute.
    pub overlay: PathBuf,
}

impl Layer {
    /// Name of the disk.
    pub fn disk(&self) -> &str {
        self.before.name.as_str()
    }

    /// Of the image that it stood on it stands on the base, if that is one of those that are `gone`.
    fn rest_below(&mut self, gone: &[Self]) {
        if let Some(below) = gone.iter().find(|below| below.overlay == self.before.path) {
            stand(&mut self.before, below);
        }
    }

    /// The image that keeps the snapshot.
    pub fn base(&self) -> &Path {
        &self.before.path
    }
}

/// What several disks held at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExternalSnapshot {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub at: Timestamp,
    /// Its disks; a disk is in it once.
    pub layers: Vec<Layer>,
}

/// A file that is no part of a disk any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discarded {
    /// Where it is.
    pub path: PathBuf,
    /// The file; no other one at that path is deleted.
    pub file: FileMark,
}

/// New images that a QEMU which runs is being put on. They are whole, durable and blank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Switch {
    /// The snapshot that it makes; its layers have the images.
    pub snapshot: ExternalSnapshot,
    /// Which files the images are, one for each layer.
    pub made: Vec<Opened>,
    /// Images that each disk had before, itself counted, one for each layer.
    pub images: Vec<usize>,
    /// Boot of the host.
    pub boot_id: String,
    /// Idempotency key of the call that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Work that may be cut off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExternalWork {
    /// What was asked for.
    pub action: SnapshotAction,
    /// Name of the snapshot.
    pub name: String,
    /// What is being done for it.
    #[serde(flatten)]
    pub step: ExternalStep,
}

/// A step of such work, which may be cut off anywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum ExternalStep {
    /// Images are being made on top of these; until that is recorded nobody has written to them, so that whoever finds this
    /// deletes those that are there.
    Making {
        /// Where they will be, each on the base of its layer.
        layers: Vec<Layer>,
    },
    /// QEMU is being put on new images, all at one moment. Only QEMU knows whether it was; once it has ended the disks are on
    /// them, because nobody can have written to what is below since, and without that moment they show the same.
    Switching(Box<Switch>),
    /// What lies on top of a snapshot is being written into it. The disks are whole at every moment; the snapshot is not what
    /// it was any more. It is done again by whoever wants to.
    Merging {
        /// On which disks.
        disks: Vec<String>,
        /// Images of other disks that nothing refers to any more; they go with the last one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        discard: Vec<Discarded>,
    },
    /// Files that nothing refers to any more are being deleted.
    Discarding {
        /// Those.
        files: Vec<Discarded>,
    },
}

/// The external snapshots of a VM, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Externals {
    /// Those there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<ExternalSnapshot>,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<ExternalWork>,
}

impl Externals {
    /// None, and nothing is being done.
    pub const fn none() -> Self {
        Self {
            snapshots: Vec::new(),
            work: None,
        }
    }

    /// Whether there is nothing to store.
    pub const fn is_none(&self) -> bool {
        self.snapshots.is_empty() && self.work.is_none()
    }

    /// The snapshot of this name.
    pub fn get(&self, name: &str) -> Option<&ExternalSnapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == name)
    }

    /// The layer of this snapshot on this disk.
    pub fn layer(&self, name: &str, disk: &str) -> Option<&Layer> {
        self.get(name)?.layers.iter().find(|layer| layer.disk() == disk)
    }

    /// The snapshot whose base is the image that `layer` has on top: the next newer one of its disk.
    pub fn above(&self, layer: &Layer) -> Option<(&ExternalSnapshot, &Layer)> {
        self.snapshots.iter().find_map(|snapshot| {
            let stands = |other: &&Layer| other.base() == layer.overlay;
            snapshot.layers.iter().find(stands).map(|above| (snapshot, above))
        })
    }

    /// The snapshot that is being merged away.
    pub fn merging(&self) -> Option<&str> {
        let work = self.work.as_ref();
        let merges = work.filter(|work| matches!(work.step, ExternalStep::Merging { .. }));
        merges.map(|work| work.name.as_str())
    }

    /// Disks on which the snapshot that is being merged away is not known to be gone.
    pub fn merging_disks(&self) -> &[String] {
        match self.work.as_ref().map(|work| &work.step) {
            Some(ExternalStep::Merging { disks, .. }) => disks,
            Some(
                ExternalStep::Making { .. } | ExternalStep::Switching(_) | ExternalStep::Discarding { .. },
            )
            | None => &[],
        }
    }

    /// Images that a merge of several disks has made superfluous so far.
    pub fn superfluous(&self) -> &[Discarded] {
        match self.work.as_ref().map(|work| &work.step) {
            Some(ExternalStep::Merging { discard, .. }) => discard,
            Some(
                ExternalStep::Making { .. } | ExternalStep::Switching(_) | ExternalStep::Discarding { .. },
            )
            | None => &[],
        }
    }

    /// Whether the snapshot of this name is being merged away: it cannot be gone back to.
    pub fn is_merging(&self, name: &str) -> bool {
        self.merging().is_some_and(|merging| merging == name)
    }

    /// The images that QEMU is being put on, if it is.
    pub fn switching(&self) -> Option<&Switch> {
        match self.work.as_ref().map(|work| &work.step) {
            Some(ExternalStep::Switching(switch)) => Some(switch),
            Some(
                ExternalStep::Making { .. } | ExternalStep::Merging { .. } | ExternalStep::Discarding { .. },
            )
            | None => None,
        }
    }

    /// New images are on top of disks: those of `snapshot` are the layers of a new snapshot, or take the place of those that
    /// the snapshot of that name has.
    #[must_use]
    pub fn stacked(mut self, snapshot: ExternalSnapshot) -> Self {
        let known = self
            .snapshots
            .iter_mut()
            .find(|known| known.name == snapshot.name);
        match known {
            Some(known) => {
                for layer in snapshot.layers {
                    known.layers.retain(|other| other.disk() != layer.disk());
                    known.layers.push(layer);
                }
            }
            None => self.snapshots.push(snapshot),
        }
        self.work = None;
        self
    }

    /// The snapshot of this name is in no image of these disks any more: what was on top of it is in its base.
    #[must_use]
    pub fn merged(mut self, name: &str, disks: &[String]) -> Self {
        let gone: Vec<Layer> = disks
            .iter()
            .filter_map(|disk| self.layer(name, disk).cloned())
            .collect();
        for snapshot in &mut self.snapshots {
            if snapshot.name == name {
                snapshot.layers.retain(|layer| !gone.contains(layer));
            }
            for layer in &mut snapshot.layers {
                layer.rest_below(&gone);
            }
        }
        self.snapshots.retain(|snapshot| !snapshot.layers.is_empty());
        self.work = None;
        self
    }
}

/// The spec with the disks of these layers on top of what they were.
#[must_use]
pub fn raised(mut spec: VmSpec, layers: &[Layer]) -> VmSpec {
    for layer in layers {
        for disk in spec
            .disks
            .iter_mut()
            .filter(|disk| disk.name == layer.before.name)
        {
            disk.path.clone_from(&layer.overlay);
            disk.format = DiskFormat::Qcow2;
            // It is never made anew: what is missing is lost.
            disk.size = None;
            disk.from = None;
        }
    }
    spec
}

/// The spec with the disks of these layers being what they were, where they are on top.
#[must_use]
pub fn lowered(mut spec: VmSpec, layers: &[Layer]) -> VmSpec {
    for layer in layers {
        for disk in spec.disks.iter_mut().filter(|disk| disk.path == layer.overlay) {
            stand(disk, layer);
        }
    }
    spec
}

/// What is known of a VM's files once these are below it: maqet made them, and none is ever made anew, so that one which is
/// missing is lost.
#[must_use]
pub fn with_images(files: DiskRecords, made: &[Opened], boot_id: &str, at: Timestamp) -> DiskRecords {
    let files = made.iter().fold(files, |files, Opened { path, file }| {
        files.made(path.clone(), *file, boot_id, at)
    });
    files.used(made, boot_id, at)
}

fn stand(disk: &mut Disk, layer: &Layer) {
    disk.path.clone_from(&layer.before.path);
    disk.format = layer.before.format;
    disk.size = layer.before.size;
    disk.from.clone_from(&layer.before.from);
}

#[cfg(test)]
mod tests;
