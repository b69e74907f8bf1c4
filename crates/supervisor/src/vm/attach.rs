//! A VM gets a disk that is there already, or gives a copy of one away.

use std::path::PathBuf;
use std::time::Instant;

use actix::{Context, Handler};
use maqet_process::identity::FileMark;
use maqet_protocol::control::{DiskAttached, DiskCloned};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::shell::word;
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::disk::Opened;
use maqet_state::lifecycle::{Command, Decision, Effect};
use maqet_storage::error::StorageError;
use maqet_storage::image::{self, Image, Source};
use tokio::sync::oneshot;

use super::VmActor;
use super::maintain::Working;
use super::start::millis;
use crate::launch::check_writable;
use crate::leases::Leases;
use crate::link::chain;
use crate::maintenance::Bench;
use crate::messages::{AttachDisk, CloneDisk};
use crate::operation::{Accepted, Done, Maintained};
use crate::{admission, standing};

/// A spec with the new disk, and what was found for it.
pub(super) struct Fitting {
    pub(super) spec: VmSpec,
    pub(super) disk: Disk,
    /// Its file.
    pub(super) file: FileMark,
    /// What that stands on, the nearest first.
    pub(super) below: Vec<Opened>,
}

impl VmActor {
    fn attach_disk(&mut self, order: AttachDisk, context: &mut Context<Self>) -> Result<Accepted, Refusal> {
        if let Some(accepted) = self.plug_under(&order, context) {
            return Ok(accepted);
        }
        let disk = &order.disk.name;
        if self.record.spec.disks.iter().any(|other| other.name == *disk) {
            let message = format!("`{}` has a disk `{disk}` already", self.name());
            return Err(Refusal::new(RefusalCode::Conflict, message)
                .vm(self.name())
                .hint("give it another name with `--disk`"));
        }
        match self.meet(Command::Attach, context) {
            Decision::Do(Effect::Plug) => {
                self.refuse_while_plugging(context)?;
                self.plug(order, context)
            }
            Decision::Do(Effect::Maintain) => self.attach_at_rest(order, context),
            Decision::Deny(denial) => Err(self.deny(denial)),
            Decision::Join | Decision::AlreadyDone | Decision::Do(_) => {
                Err(self.defect("a disk that is attached with another effect"))
            }
        }
    }

    fn attach_at_rest(
        &mut self,
        order: AttachDisk,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        let AttachDisk { disk, key } = order;
        let work = move |bench: Bench| -> Working<Fitting> { Box::pin(fit(bench, *disk)) };
        let settle = move |actor: &mut Self, fitting: Fitting| {
            let attached = DiskAttached {
                vm: actor.name().to_owned(),
                disk: fitting.disk.name.clone(),
                path: fitting.disk.path.clone(),
                file: fitting.file,
                live: false,
            };
            let change = actor.attached(fitting);
            let change = match key {
                Some(key) => change.answering(key, serde_json::to_value(&attached).unwrap_or_default()),
                None => change,
            };
            (Done::Maintained(Maintained::Attached(attached)), change)
        };
        self.maintain(work, settle, context)
    }

    fn attached(&mut self, fitting: Fitting) -> Change {
        let Fitting { spec, disk, file, .. } = fitting;
        self.record.spec = spec;
        let files = std::mem::take(&mut self.record.files);
        self.record.files = match files.get(&disk.path) {
            // One of its own that it had before: whose it is stays as it was.
            Some(_known) => files,
            None => files.accepted(disk.path.clone(), file, &self.shared.boot_id, clock::now()),
        };
        let event = self.event("vm.disk-attached").with("disk", disk.name);
        let event = event.with("path", disk.path.display().to_string());
        Change::update(self.record.clone()).event(event)
    }

    fn clone_disk(&mut self, order: CloneDisk, context: &mut Context<Self>) -> Result<Accepted, Refusal> {
        let CloneDisk {
            disk,
            path,
            format,
            cancelled,
        } = order;
        let disk = self.disk(&disk)?;
        let leftover = self.leftover(context);
        let work = move |bench: Bench| -> Working<DiskCloned> {
            Box::pin(async move {
                leftover.settle(&bench).await?;
                tokio::select! {
                    copied = copy(&bench, &disk, path, format) => copied,
                    // Whoever asked is gone; what was written has no name and goes too.
                    _gone = cancelled => Err(given_up(&bench, &disk)),
                }
            })
        };
        let settle = |actor: &mut Self, cloned: DiskCloned| {
            let event = actor.event("vm.disk-cloned").with("disk", cloned.disk.clone());
            let event = event.with("path", cloned.path.display().to_string());
            let change = Change::default().event(event.with("took_ms", cloned.took_ms));
            (Done::Maintained(Maintained::Cloned(cloned)), change)
        };
        self.maintain(work, settle, context)
    }
}

/// Everything a start would insist on, before the disk is the VM's.
pub(super) async fn fit(bench: Bench, disk: Disk) -> Result<Fitting, Refusal> {
    check_writable(&bench.shared).await?;
    refuse_missing(&bench, &disk).await?;
    let mut spec = bench.spec.clone();
    spec.disks.push(disk.clone());
    admission::check(&spec, &bench.shared).await?;
    Leases::take(&bench.id, &spec, &bench.shared).await?;
    standing::refuse_to_write_below((&bench.id, spec.name.as_str()), [&disk], &bench.shared).await?;
    let opened = bench.open(&disk, disk.readonly).await?;
    let looked_at = |image: &Image| {
        FileMark::of_fd(&image.fd).map_err(|error| {
            Refusal::new(RefusalCode::Internal, "the new disk cannot be looked at").cause(chain(&error))
        })
    };
    let file = looked_at(&opened.top)?;
    let mut below = Vec::new();
    for layer in opened.below {
        let file = looked_at(&layer.image)?;
        let path = layer.named;
        below.push(Opened { path, file });
    }
    Ok(Fitting {
        spec,
        disk,
        file,
        below,
    })
}

/// No image is made here, whatever a VM's file may say of one that is missing. What is forbidden is told as that, first.
async fn refuse_missing(bench: &Bench, disk: &Disk) -> Result<(), Refusal> {
    let (path, policy) = (disk.path.clone(), bench.shared.policy.clone());
    let looking = move || {
        policy.check(&path).is_ok() && image::open(&path, true).is_err_and(|error| error.is_missing())
    };
    if !bench.shared.asides.of(&bench.id).run(looking).await? {
        return Ok(());
    }
    let message = format!("`{}` does not exist", disk.path.display());
    let hint = format!(
        "qemu-img create -f {} {} 10G makes one",
        disk.format,
        word(&disk.path)
    );
    Err(Refusal::new(RefusalCode::InvalidSpec, message).hint(hint))
}

async fn copy(
    bench: &Bench,
    disk: &Disk,
    to: PathBuf,
    format: Option<DiskFormat>,
) -> Result<DiskCloned, Refusal> {
    let begun = Instant::now();
    let source = Source {
        chain: bench.open(disk, true).await?,
        format: disk.format,
    };
    let format = format.unwrap_or(disk.format);
    let (policy, binaries) = (&bench.shared.policy, &bench.shared.binaries);
    let copied = image::copy(source, &to, format, policy, binaries, &bench.meter).await;
    let copied = copied.map_err(|error| not_copied(bench, disk, &error))?;
    Ok(DiskCloned {
        vm: bench.spec.name.to_string(),
        disk: disk.name.clone(),
        path: copied.path,
        virtual_bytes: copied.virtual_bytes,
        file_bytes: copied.file_bytes,
        took_ms: millis(begun.elapsed()),
    })
}

fn not_copied(bench: &Bench, disk: &Disk, error: &StorageError) -> Refusal {
    let code = if matches!(error, StorageError::Exists { .. }) {
        RefusalCode::Conflict
    } else if matches!(error, StorageError::Denied(_)) {
        // As for a disk that a VM's file puts there: what maqet may write is a matter of its configuration.
        RefusalCode::InvalidSpec
    } else if matches!(error, StorageError::NoFileName { .. }) {
        RefusalCode::InvalidCall
    } else {
        RefusalCode::StorageFailed
    };
    let message = format!("disk `{}` of `{}` cannot be cloned", disk.name, bench.spec.name);
    let refusal = Refusal::new(code, message).cause(chain(error));
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

fn given_up(bench: &Bench, disk: &Disk) -> Refusal {
    let message = format!(
        "the clone of disk `{}` of `{}` was given up",
        disk.name, bench.spec.name
    );
    Refusal::new(RefusalCode::Busy, message)
}

/// A clone that ends with whoever asked for it: keep the first, give the second to the order.
pub(crate) fn tie() -> (oneshot::Sender<()>, oneshot::Receiver<()>) {
    oneshot::channel()
}

impl Handler<AttachDisk> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, message: AttachDisk, context: &mut Context<Self>) -> Self::Result {
        self.attach_disk(message, context)
    }
}

impl Handler<CloneDisk> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, message: CloneDisk, context: &mut Context<Self>) -> Self::Result {
        self.clone_disk(message, context)
    }
}
