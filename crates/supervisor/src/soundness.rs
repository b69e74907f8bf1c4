//! The gate before anything is written to a disk: after an unclean end every image is checked, and a damaged one is written by nobody.

use std::future::Future;

use actix::Addr;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::health::{Health, Verdict};
use maqet_state::id::VmId;
use maqet_storage::StorageError;
use maqet_storage::image::{self, Checked, Image};

use crate::link::chain;
use crate::messages::RecordStep;
use crate::shared::Shared;
use crate::snapshots::torn;
use crate::vm::VmActor;

/// Whose images are about to be written to, by QEMU or by qemu-img.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order<'o> {
    /// The VM.
    pub(crate) id: &'o VmId,
    /// Its name.
    pub(crate) vm: &'o str,
    /// Its disks, or those it is about.
    pub(crate) disks: &'o [Disk],
    /// What is known against them.
    pub(crate) health: &'o Health,
    /// Who records.
    pub(crate) owner: &'o Addr<VmActor>,
    /// Surroundings.
    pub(crate) shared: &'o Shared,
}

async fn record(owner: &Addr<VmActor>, step: RecordStep) -> Result<(), Refusal> {
    match owner.send(step).await {
        Ok(result) => result,
        Err(error) => {
            Err(Refusal::new(RefusalCode::Internal, "the VM's owner is gone").cause(error.to_string()))
        }
    }
}

/// Looks at every qcow2 image that is going to be written to, as far as there is a reason to.
///
/// # Errors
/// `disk-damaged` for an image that is damaged, which is durable then; `conflict` for one that another program has open;
/// `start-failed` when it cannot be told.
pub(crate) async fn check(order: &Order<'_>) -> Result<(), Refusal> {
    for disk in order.disks {
        if disk.format == DiskFormat::Qcow2 && !disk.readonly {
            check_disk(order, disk).await?;
        }
    }
    Ok(())
}

async fn check_disk(order: &Order<'_>, disk: &Disk) -> Result<(), Refusal> {
    let path = disk.path.clone();
    let opening = move || {
        let image = image::open(&path, true)?;
        image::is_suspect(&image).map(|suspect| (image, suspect))
    };
    // A missing image, or one that is none, is the runner's to tell.
    let Ok((image, suspect)) = order.shared.asides.of(order.id).run(opening).await? else {
        return Ok(());
    };
    match order.health.judge(&disk.path, suspect) {
        Verdict::Go => Ok(()),
        Verdict::Quarantined(damage) => Err(quarantined(order.vm, disk, &damage.found)),
        Verdict::Between(load) => Err(torn(order.vm, &load.snapshot)),
        Verdict::Check => examine(order, disk, image).await,
    }
}

async fn examine(order: &Order<'_>, disk: &Disk, image: Image) -> Result<(), Refusal> {
    tracing::info!(vm = order.vm, disk = disk.name, "an image is checked");
    let findings = image::check(image, disk.format, false, &order.shared.binaries).await;
    let found = match findings {
        Ok(findings) if findings.corruptions == 0 && findings.check_errors == 0 => {
            return told(order, disk, findings).await;
        }
        Ok(findings) => in_words(findings),
        Err(StorageError::Tool { words, .. }) if !words.contains("lock") => {
            format!("qemu-img cannot check it: {words}")
        }
        Err(error) => return Err(untold(order, disk, &error)),
    };
    Err(quarantine(order.owner, order.vm, disk, found).await)
}

/// Makes durable that an image is damaged; the refusal that says so.
async fn quarantine(owner: &Addr<VmActor>, vm: &str, disk: &Disk, found: String) -> Refusal {
    let step = RecordStep::DiskDamaged {
        disk: disk.name.clone(),
        path: disk.path.clone(),
        found: found.clone(),
    };
    match record(owner, step).await {
        Ok(()) => quarantined(vm, disk, &found),
        Err(refusal) => refusal,
    }
}

/// What stands against putting an image right that work which was cut off has left.
///
/// # Errors
/// `disk-damaged` for one that is damaged by something else, or was before; nothing else is done to it. Durable then.
pub(crate) async fn mend(
    owner: &Addr<VmActor>,
    vm: &str,
    (disk, health): (&Disk, &Health),
    mending: impl Future<Output = Result<Option<Checked>, Refusal>>,
) -> Result<(), Refusal> {
    match health.of(&disk.path) {
        // A person wants it used as it is.
        Some(damage) if damage.accepted => return Ok(()),
        Some(damage) => return Err(quarantined(vm, disk, &damage.found)),
        None => {}
    }
    match mending.await? {
        None => Ok(()),
        Some(found) => Err(quarantine(owner, vm, disk, in_words(found)).await),
    }
}

/// Clusters that leaked are no reason not to start, and worth knowing.
async fn told(order: &Order<'_>, disk: &Disk, findings: Checked) -> Result<(), Refusal> {
    let step = RecordStep::DiskChecked {
        disk: disk.name.clone(),
        leaks: findings.leaks,
    };
    record(order.owner, step).await
}

/// What a check found, as a clause.
fn in_words(findings: Checked) -> String {
    let count = |number: u64, one: &str, many: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{number} {many}")),
    };
    let parts = [
        count(
            findings.corruptions,
            "error in its tables",
            "errors in its tables",
        ),
        count(
            findings.check_errors,
            "part cannot be read",
            "parts cannot be read",
        ),
        count(findings.leaks, "leaked cluster", "leaked clusters"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn quarantined(vm: &str, disk: &Disk, found: &str) -> Refusal {
    let name = &disk.name;
    Refusal::new(
        RefusalCode::DiskDamaged,
        format!("disk `{name}` of `{vm}` is damaged and is not written to"),
    )
    .vm(vm)
    .cause(format!("`{}`: {found}", disk.path.display()))
    .hint(how_to_mend(vm, name, false))
}

/// What a person can do about a disk that is damaged.
pub(crate) fn how_to_mend(vm: &str, disk: &str, is_running: bool) -> String {
    if is_running {
        return format!("maqet stop {vm}, then maqet storage verify {vm} --repair");
    }
    format!(
        "repair it: maqet storage verify {vm} --repair; or use it as it is: maqet storage accept {vm} {disk}"
    )
}

/// It is not known whether the image is whole.
fn untold(order: &Order<'_>, disk: &Disk, error: &StorageError) -> Refusal {
    let (vm, name) = (order.vm, &disk.name);
    let in_use = matches!(error, StorageError::Tool { .. });
    let (code, what) = if in_use {
        (RefusalCode::Conflict, "is in use by another program")
    } else {
        (RefusalCode::StartFailed, "cannot be checked after an unclean end")
    };
    let refusal = Refusal::new(code, format!("disk `{name}` of `{vm}` {what}"));
    let refusal = refusal.vm(vm).cause(chain(error));
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_in_words() {
        let findings = Checked {
            corruptions: 1,
            leaks: 3,
            ..Checked::default()
        };
        assert_eq!(in_words(findings), "1 error in its tables, 3 leaked clusters");
        let findings = Checked {
            corruptions: 2,
            check_errors: 1,
            ..Checked::default()
        };
        assert_eq!(
            in_words(findings),
            "2 errors in its tables, 1 part cannot be read"
        );
    }
}
