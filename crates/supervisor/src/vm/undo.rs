//! What is on record of a VM's disks when the store refuses a change.

use actix::Context;
use maqet_spec::VmSpec;
use maqet_state::change::Change;
use maqet_state::disk::DiskRecords;
use maqet_state::external::Externals;
use maqet_state::health::Health;
use maqet_state::plug::Plug;
use maqet_state::snapshot::SnapshotWork;

use super::VmActor;

/// What is on record of the disks before a change.
#[derive(Debug)]
pub(super) struct Before {
    spec: VmSpec,
    files: DiskRecords,
    externals: Externals,
    snapshot: Option<Box<SnapshotWork>>,
    plug: Option<Box<Plug>>,
    health: Option<Health>,
}

impl VmActor {
    /// For a change that does not touch what is known against the disks.
    pub(super) fn before(&self) -> Before {
        let record = &self.record;
        Before {
            spec: record.spec.clone(),
            files: record.files.clone(),
            externals: record.externals.clone(),
            snapshot: record.snapshot.clone(),
            plug: record.plug.clone(),
            health: None,
        }
    }

    /// For a change that does, of a VM that rests: nothing else can be found out about its disks meanwhile.
    pub(super) fn before_at_rest(&self) -> Before {
        Before {
            health: Some(self.record.health.clone()),
            ..self.before()
        }
    }

    /// What a store does not take has not happened. It may be there nevertheless once the store can be read again, so that the
    /// record is written as it is.
    pub(super) fn undo(&mut self, before: Before, context: &mut Context<Self>) {
        let record = &mut self.record;
        record.spec = before.spec;
        record.files = before.files;
        record.externals = before.externals;
        record.snapshot = before.snapshot;
        // A QEMU that has ended meanwhile has no disk on its way.
        let generation = record.state.launch().map(|launch| launch.generation);
        record.plug = before.plug.filter(|plug| Some(plug.generation) == generation);
        if let Some(health) = before.health {
            record.health = health;
        }
        self.persist_later(Change::update(self.record.clone()), context);
    }
}
