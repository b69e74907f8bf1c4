//! Images that a start has to make first.

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::Disk;
use maqet_storage::error::StorageError;
use maqet_storage::image;

use crate::launch::{Plan, record};
use crate::link::chain;
use crate::messages::RecordStep;

/// Makes every image that is missing and has a size. Each is in the ledger before it is made and the VM's own after.
pub(crate) async fn create_missing(plan: &Plan) -> Result<(), Refusal> {
    for disk in &plan.spec.disks {
        if disk.size.is_some() && !disk.path.exists() {
            create(plan, disk).await?;
        }
    }
    Ok(())
}

async fn create(plan: &Plan, disk: &Disk) -> Result<(), Refusal> {
    let Some(size) = disk.size else { return Ok(()) };
    record(plan, RecordStep::MakingFile(disk.path.clone())).await?;
    let made = image::create(
        &disk.path,
        disk.format,
        size,
        &plan.shared.policy,
        &plan.shared.binaries,
    )
    .await;
    match made {
        Ok(_created) => record(plan, RecordStep::FileMade(disk.path.clone())).await,
        Err(error) => {
            record(plan, RecordStep::FileNotMade(disk.path.clone())).await?;
            refuse(plan, disk, &error)
        }
    }
}

/// Somebody else made the file meanwhile: it is used like any file that was there, and is not ours.
fn refuse(plan: &Plan, disk: &Disk, error: &StorageError) -> Result<(), Refusal> {
    if matches!(error, StorageError::Exists { .. }) {
        return Ok(());
    }
    let name = plan.spec.name.as_str();
    let message = format!("disk `{}` of `{name}` cannot be created", disk.name);
    let refusal = Refusal::new(RefusalCode::StartFailed, message)
        .vm(name)
        .cause(chain(error));
    Err(match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    })
}
