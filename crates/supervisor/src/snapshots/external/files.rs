//! The files of external snapshots: made, merged, taken away.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use actix::Addr;
use maqet_process::identity::FileMark;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::size::Size;
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::disk::{DiskRecords, Opened};
use maqet_state::external::{Discarded, ExternalStep, Externals, Layer};
use maqet_state::id::VmId;
use maqet_storage::PathPolicy;
use maqet_storage::error::StorageError;
use maqet_storage::image::{self, Chain, Image};
use maqet_storage::meter::Meter;

use super::Job;
use crate::link::chain;
use crate::messages::RecordExternal;
use crate::room::Room;
use crate::shared::Shared;
use crate::standing::{self, Changing, Dependent, Reach};
use crate::vm::VmActor;

/// Names of one file that are tried.
const NAMES_MAX: usize = 10_000;

/// What it takes to work on them.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The VM.
    pub(crate) id: VmId,
    /// Its name.
    pub(crate) vm: String,
    /// What is known of its files.
    pub(crate) files: DiskRecords,
    /// Who records.
    pub(crate) owner: Addr<VmActor>,
    /// Surroundings.
    pub(crate) shared: Rc<Shared>,
    /// Who hears how far it is.
    pub(crate) meter: Meter,
}

impl Desk {
    pub(super) fn of(job: &Job) -> Self {
        Self {
            id: job.id.clone(),
            vm: job.name().to_owned(),
            files: job.files.clone(),
            owner: job.owner.clone(),
            shared: Rc::clone(&job.shared),
            meter: job.meter.clone(),
        }
    }

    /// Has one step made durable by the VM's owner.
    pub(super) async fn record(&self, step: RecordExternal) -> Result<(), Refusal> {
        self.owner.send(step).await.unwrap_or_else(|gone| {
            Err(Refusal::new(RefusalCode::Internal, "the VM's owner is gone").cause(gone.to_string()))
        })
    }

    /// Takes away what work that was cut off has left; whether there is none on record any more.
    ///
    /// # Errors
    /// The refusal of a step; the work stays on record.
    pub(crate) async fn tidy(&self, externals: &Externals) -> Result<bool, Refusal> {
        match externals.work.as_ref().map(|work| &work.step) {
            None => return Ok(true),
            // Of a QEMU that has ended it is settled by its end.
            Some(ExternalStep::Merging { .. } | ExternalStep::Switching(_)) => return Ok(false),
            Some(ExternalStep::Making { layers }) => {
                self.take_back(layers).await?;
                self.record(RecordExternal::Struck { gone: Vec::new() }).await?;
            }
            Some(ExternalStep::Discarding { files }) => self.try_discard(files.clone()).await?,
        }
        Ok(true)
    }

    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.shared.asides.of(&self.id).run(work).await
    }

    /// The images that are to be made on top of these disks. All of those must be there.
    pub(super) async fn layers_on(&self, disks: Vec<Disk>, snapshot: &str) -> Result<Vec<Layer>, Refusal> {
        let snapshot = snapshot.to_owned();
        let (vm, files) = (self.vm.clone(), self.files.clone());
        let layer = move |before: Disk| {
            if crate::disks::is_gone(&before, &files) {
                return Err(crate::disks::gone(&vm, &before));
            }
            if !before.path.exists() {
                return Err(crate::disks::unmade(&vm, &before));
            }
            let overlay = free_path(&before, &snapshot);
            Ok(Layer { before, overlay })
        };
        let looked = self.aside(move || disks.into_iter().map(layer).collect::<Result<Vec<_>, _>>());
        looked.await?
    }

    /// Makes the image on top of a layer's base, which must be the file on record.
    pub(super) async fn make(&self, layer: &Layer) -> Result<Opened, Refusal> {
        let disk = layer.disk();
        let chain = self.open(layer.base(), layer.before.format, disk).await?;
        let base = chain.top.path;
        let (policy, format) = (self.shared.policy.clone(), layer.before.format);
        let looked = {
            let base = base.clone();
            self.aside(move || image::look(&base, format, &policy)).await?
        };
        let size = looked.chain.first().map_or(0, |found| found.virtual_bytes);
        let (policy, binaries) = (&self.shared.policy, &self.shared.binaries);
        let made = image::overlay(&layer.overlay, (&base, format), Size(size), policy, binaries).await;
        let made = made.map_err(|error| failed(disk, &error))?;
        Ok(Opened {
            path: layer.overlay.clone(),
            file: FileMark {
                id: made.file_id,
                born_ns: None,
            },
        })
    }

    /// How many images the disk of a layer has without the new one.
    pub(super) async fn images_of(&self, layer: &Layer) -> Result<usize, Refusal> {
        Ok(self.chain_of(&layer.before).await?.len())
    }

    /// The images of a disk, that on top first.
    pub(super) async fn chain_of(&self, disk: &Disk) -> Result<Vec<Opened>, Refusal> {
        let chain = self.open(&disk.path, disk.format, &disk.name).await?;
        let below = chain.below.into_iter().map(|layer| layer.image);
        let marked = |image: Image| {
            let file = FileMark::of_fd(&image.fd).map_err(|error| {
                let message = format!(
                    "`{}` of disk `{}` cannot be looked at",
                    image.path.display(),
                    disk.name
                );
                Refusal::new(RefusalCode::StorageFailed, message).cause(error.to_string())
            })?;
            let path = image.path;
            Ok(Opened { path, file })
        };
        std::iter::once(chain.top).chain(below).map(marked).collect()
    }

    /// The file that is on record at a path.
    pub(super) fn known(&self, path: &Path) -> Option<FileMark> {
        self.files.get(path)?.file
    }

    /// What is short of room to write what is on top of a snapshot into it.
    pub(super) async fn short_of_room(&self, layer: &Layer) -> Result<Option<StorageError>, Refusal> {
        let top = self
            .open(&layer.overlay, DiskFormat::Qcow2, layer.disk())
            .await?
            .top;
        let needed = image::merge_needs(&top).map_err(|error| failed(layer.disk(), &error))?;
        let room = Room {
            images: vec![layer.base().to_owned()],
            needed,
            aside: self.shared.asides.of(&self.id),
        };
        Ok(room.short().await)
    }

    /// Writes what is on top of a snapshot into it.
    pub(super) async fn merge(&self, layer: &Layer) -> Result<(), Refusal> {
        let disk = layer.disk();
        let chain = self.open(&layer.overlay, DiskFormat::Qcow2, disk).await?;
        if let Some(below) = chain.below.first() {
            self.recognize(layer.base(), &FileMark::of_fd(&below.image.fd), disk)?;
        }
        let (policy, binaries) = (&self.shared.policy, &self.shared.binaries);
        let merged = image::merge(chain, policy, binaries, &self.meter).await;
        merged.map_err(|error| failed(disk, &error))
    }

    /// The image of `above` stands on the base of `below` from now on, which shows the same.
    pub(super) async fn stand_on(&self, above: &Layer, below: &Layer) -> Result<(), Refusal> {
        let disk = above.disk();
        let base = self.open(below.base(), below.before.format, disk).await?.top.path;
        let top = self.open(&above.overlay, DiskFormat::Qcow2, disk).await?.top;
        let written = image::stand_on(top, (&base, below.before.format), &self.shared.binaries).await;
        written.map_err(|error| failed(disk, &error))
    }

    /// Snapshots inside an image would go with it.
    pub(super) async fn holds_no_snapshots(&self, layer: &Layer) -> Result<(), Refusal> {
        let (path, policy) = (layer.overlay.clone(), self.shared.policy.clone());
        let looked = self
            .aside(move || image::look(&path, DiskFormat::Qcow2, &policy))
            .await?;
        let count = looked.chain.first().map_or(0, |found| found.snapshots);
        if count == 0 {
            return Ok(());
        }
        let (vm, disk) = (&self.vm, layer.disk());
        let what = if count == 1 { "a snapshot" } else { "snapshots" };
        let message = format!("disk `{disk}` of `{vm}` holds {what} that would be lost");
        let cause = format!("{count} inside `{}`", layer.overlay.display());
        let refusal = Refusal::new(RefusalCode::Conflict, message).cause(cause);
        Err(refusal.hint(format!("maqet snapshot list {vm}, and delete those first")))
    }

    /// Other VMs' disks would show something else, or nothing, once an image below them is changed or gone.
    pub(super) async fn nobody_else_stands_on(&self, layers: &[Layer]) -> Result<(), Refusal> {
        let (layers, policy) = (layers.to_vec(), self.shared.policy.clone());
        let changing = self
            .aside(move || {
                layers
                    .iter()
                    .flat_map(|layer| images_of(layer, &policy))
                    .collect()
            })
            .await?;
        let found = standing::dependent(&self.id, changing, Reach::Any, &self.shared).await?;
        let Some(found) = found else {
            return Ok(());
        };
        let Dependent { vm, disk, .. } = &found;
        let message = format!("disk `{disk}` of `{vm}` stands on an image that would change");
        let refusal = Refusal::new(RefusalCode::Conflict, message).cause(found.how());
        Err(refusal.hint(format!(
            "maqet storage clone {vm} {disk} COPY makes it stand alone"
        )))
    }

    /// The images on top of layers, as files that are to go.
    pub(super) fn to_discard(&self, layers: &[Layer]) -> Vec<Discarded> {
        let known = |layer: &Layer| {
            let file = self.files.get(&layer.overlay)?.file?;
            let path = layer.overlay.clone();
            Some(Discarded { path, file })
        };
        layers.iter().filter_map(known).collect()
    }

    /// Deletes files that are on record as discarded; what cannot be deleted stays on record.
    pub(super) async fn discard(&self, files: Vec<Discarded>) {
        if let Err(refusal) = self.try_discard(files).await {
            tracing::warn!(vm = %self.vm, %refusal, causes = ?refusal.causes, "images that nothing needs are left for now");
        }
    }

    async fn try_discard(&self, files: Vec<Discarded>) -> Result<(), Refusal> {
        if files.is_empty() {
            return Ok(());
        }
        let (known, boot_id) = (self.files.clone(), self.shared.boot_id.clone());
        let (policy, gone) = (self.shared.policy.clone(), files.clone());
        let work = move || {
            files.iter().try_for_each(|Discarded { path, file }| -> Result<(), StorageError> {
                // One that is not on record yet was made in this boot.
                let same_boot = known.get(path).is_none_or(|known| known.boot_id == boot_id);
                let deletion = image::delete(path, file, same_boot, &policy)?;
                tracing::info!(path = %path.display(), ?deletion, "an image that nothing stands on any more");
                Ok(())
            })
        };
        self.aside(work).await?.map_err(|error| failed("", &error))?;
        let gone = gone.into_iter().map(|discarded| discarded.path).collect();
        self.record(RecordExternal::Struck { gone }).await
    }

    /// Deletes those of the new images that are there.
    pub(super) async fn take_back(&self, layers: &[Layer]) -> Result<(), Refusal> {
        let (layers, policy) = (layers.to_vec(), self.shared.policy.clone());
        let work = move || layers.iter().try_for_each(|layer| take_away(layer, &policy));
        let taken = self.aside(work).await?;
        taken.map_err(|error| failed("", &error))
    }

    async fn open(&self, path: &Path, format: DiskFormat, disk: &str) -> Result<Chain, Refusal> {
        let (at, policy) = (path.to_owned(), self.shared.policy.clone());
        let opened = self
            .aside(move || image::open_chain(&at, format, false, &policy))
            .await?;
        let opened = opened.map_err(|error| failed(disk, &error))?;
        self.recognize(path, &FileMark::of_fd(&opened.top.fd), disk)?;
        Ok(opened)
    }

    /// No other file is taken for the one on record.
    fn recognize(
        &self,
        path: &Path,
        found: &Result<FileMark, maqet_process::ProcessError>,
        disk: &str,
    ) -> Result<(), Refusal> {
        let known = self.files.get(path);
        let at = path.display();
        match found {
            Ok(file) if known.is_none_or(|known| known.admits(file, &self.shared.boot_id)) => Ok(()),
            Ok(file) => {
                let message = format!("`{at}` of disk `{disk}` is another file than the one on record");
                let refusal = Refusal::new(RefusalCode::Conflict, message).cause(format!("it is {file}"));
                Err(refusal.hint("put the right one back"))
            }
            Err(error) => {
                let message = format!("`{at}` of disk `{disk}` cannot be looked at");
                Err(Refusal::new(RefusalCode::StorageFailed, message).cause(error.to_string()))
            }
        }
    }
}

/// Deletes the image on top of a layer, if there is one that stands on it; nobody can have written to it yet, and one that
/// somebody has stays.
///
/// # Errors
/// As for [`image::delete`].
fn take_away(layer: &Layer, policy: &PathPolicy) -> Result<(), StorageError> {
    let found = image::look(&layer.overlay, DiskFormat::Qcow2, policy).chain;
    let base = image::look(layer.base(), layer.before.format, policy).chain;
    let (Some(top), Some(below), Some(base)) = (found.first(), found.get(1), base.first()) else {
        return Ok(());
    };
    if below.file != base.file {
        return Ok(());
    }
    let image = image::open(&layer.overlay, true)?;
    let blank = image::is_blank(&image).unwrap_or(false);
    if !blank {
        // What is on record is older than the file, from a copy of the store perhaps.
        tracing::warn!(path = %layer.overlay.display(), "an image that should be empty is not, and stays");
        return Ok(());
    }
    let deleted = image::delete(&layer.overlay, &top.file, true, policy)?;
    tracing::info!(path = %layer.overlay.display(), ?deleted, "an image that was made for nothing");
    Ok(())
}

/// The overlay and the base of a layer. Blocks.
fn images_of(layer: &Layer, policy: &PathPolicy) -> Vec<Changing> {
    let chain = image::look(&layer.overlay, DiskFormat::Qcow2, policy).chain;
    let images = chain.into_iter().take(2).map(|found| Changing {
        disk: layer.disk().to_owned(),
        path: found.path,
        file: found.file,
    });
    images.collect()
}

/// A name beside the disk's image that nobody has: `DISK.SNAPSHOT.qcow2`, or with a number.
fn free_path(disk: &Disk, snapshot: &str) -> PathBuf {
    let name = |number: usize| match number {
        0 => format!("{}.{snapshot}.qcow2", disk.name),
        number => format!("{}.{snapshot}.{number}.qcow2", disk.name),
    };
    let mut paths = (0..NAMES_MAX).map(|number| disk.path.with_file_name(name(number)));
    let free = paths.find(|path| path.symlink_metadata().is_err());
    // All taken: the making says so.
    free.unwrap_or_else(|| disk.path.with_file_name(name(0)))
}

pub(super) fn failed(disk: &str, error: &StorageError) -> Refusal {
    let message = match disk {
        "" => "an image of a snapshot cannot be deleted".to_owned(),
        disk => format!("the snapshots of disk `{disk}` cannot be worked on"),
    };
    let refusal = Refusal::new(RefusalCode::StorageFailed, message).cause(chain(error));
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}
