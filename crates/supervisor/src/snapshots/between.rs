//! Disks that may hold different moments, because a load by QEMU was cut off between them: nothing is begun with them but a
//! load, which makes them agree. See decision 41.

use maqet_protocol::control::SnapshotDone;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::health::Health;
use maqet_state::snapshot::{SnapshotAction, SnapshotWork};

use super::Job;
use super::left::Left;

impl Job {
    /// Refuses what would keep the disks as they are, or take away what mends them.
    pub(super) fn may_be_at_one_moment(&self) -> Result<(), Refusal> {
        if self.mends() {
            return Ok(());
        }
        let mut disks = self.spec.disks.iter();
        match disks.find_map(|disk| self.health.between(&disk.path)) {
            Some(load) => Err(torn(self.name(), &load.snapshot)),
            None => Ok(()),
        }
    }

    /// The same once work that somebody left was looked at. What this call itself had asked for before, and has come about, is
    /// its answer.
    pub(super) fn go_on_after(
        &self,
        work: &SnapshotWork,
        left: Left,
    ) -> Result<Option<SnapshotDone>, Refusal> {
        match left {
            Left::Between if !self.mends() => Err(torn(self.name(), &work.name)),
            Left::Done(done) if work.key.is_some() && work.key == self.order.key => Ok(Some(done)),
            Left::Done(_) | Left::Nothing | Left::Between => Ok(None),
        }
    }

    /// What is known against the disks, as far as it stands in the way of this order.
    pub(super) fn health_for_order(&self) -> Health {
        let health = self.health.clone();
        if self.mends() { health.for_load() } else { health }
    }

    /// A list changes nothing.
    fn mends(&self) -> bool {
        matches!(self.order.action, None | Some(SnapshotAction::Load))
    }
}

/// The disks of this VM may hold different moments: loading this snapshot was cut off.
pub(crate) fn torn(vm: &str, snapshot: &str) -> Refusal {
    let message = format!(
        "loading the snapshot `{snapshot}` of `{vm}` was cut off: its disks may hold different moments"
    );
    Refusal::new(RefusalCode::DiskDamaged, message)
        .vm(vm)
        .cause("some disks may be as the snapshot has them, and others as they were before or are since")
        .hint(how_to_agree(vm, snapshot))
}

/// What makes them hold one moment again, or has them used as they are.
pub(crate) fn how_to_agree(vm: &str, snapshot: &str) -> String {
    format!(
        "maqet stop {vm} --force if it still runs, then maqet snapshot load {vm} {snapshot}; or use each disk as it is: \
         maqet storage accept {vm} DISK"
    )
}
