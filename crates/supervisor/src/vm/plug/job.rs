//! Who gives QEMU a disk: checks, has the order recorded, tells the runner, has what came of it recorded.

use std::rc::Rc;
use std::time::Duration;

use actix::Addr;
use maqet_process::point::{Point, pass};
use maqet_protocol::control::DiskAttached;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{OpenedFile, PlugDisk};
use maqet_spec::vm::Disk;
use maqet_state::disk::Opened;
use maqet_state::health::Health;
use maqet_state::plug::Plug;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::super::VmActor;
use super::super::attach::{Fitting, fit};
use super::super::start::millis;
use crate::leases::Leases;
use crate::link::RunnerLink;
use crate::maintenance::Bench;
use crate::messages::{AskDisks, DisksNow, RecordPlug};
use crate::operation::{Done, Maintained, Outcome};
use crate::snapshots::of_this_version;
use crate::soundness;

/// Time for all checks; an image after an unclean end is read as a whole.
const CHECK_LIMIT: Duration = Duration::from_mins(2);
/// Time for a runner to open the images.
const OPEN_LIMIT: Duration = Duration::from_mins(1);
/// Time for QEMU to take them, and for the wire.
const TAKE_LIMIT: Duration = Duration::from_mins(3);

/// Time for a runner that is gone to be replaced, and for one that does not answer to do so.
const HEARD_LIMIT: Duration = Duration::from_secs(30);
/// Runners that are told, one after the other.
const RUNNERS_MAX: u32 = 3;

/// Who gives QEMU a disk.
pub(super) struct Job {
    pub(super) bench: Bench,
    pub(super) health: Health,
    pub(super) generation: u64,
    pub(super) link: Rc<RunnerLink>,
    pub(super) heard: Rc<Notify>,
    pub(super) owner: Addr<VmActor>,
}

impl Job {
    /// A disk that somebody wants it to have.
    pub(super) async fn begin(self, disk: Disk, key: Option<String>) -> Outcome {
        let plug = match self.intended(disk, key).await {
            Ok(plug) => plug,
            Err(refusal) => return Err(self.lease_less(refusal).await),
        };
        pass(Point::PlugIntended);
        self.carry_on(plug).await
    }

    fn too_late(&self, disk: &Disk) -> Refusal {
        let (name, vm) = (&disk.name, &self.bench.spec.name);
        let limit = CHECK_LIMIT.as_secs();
        let message = format!("disk `{name}` was not looked at within {limit} s, and is not attached");
        Refusal::new(RefusalCode::Timeout, message).hint(format!(
            "maqet stop {vm}, then attach it: a VM at rest is given all the time it needs"
        ))
    }

    /// The order, on record.
    async fn intended(&self, disk: Disk, key: Option<String>) -> Result<Plug, Refusal> {
        let late = self.too_late(&disk);
        // A disk that does not answer keeps nobody from stopping the VM for long.
        let checked = timeout(CHECK_LIMIT, self.checked(disk)).await;
        let Fitting {
            disk, file, below, ..
        } = checked.unwrap_or(Err(late))?;
        let plug = Plug {
            disk,
            file,
            below,
            generation: self.generation,
            boot_id: self.bench.shared.boot_id.clone(),
            key,
        };
        self.record(RecordPlug::Begun(Box::new(plug.clone()))).await?;
        Ok(plug)
    }

    /// All that a start would insist on.
    async fn checked(&self, disk: Disk) -> Result<Fitting, Refusal> {
        let fitting = fit(self.bench.clone(), disk).await?;
        let order = soundness::Order {
            id: &self.bench.id,
            vm: self.bench.spec.name.as_str(),
            disks: std::slice::from_ref(&fitting.disk),
            health: &self.health,
            owner: &self.owner,
            shared: &self.bench.shared,
        };
        soundness::check(&order).await?;
        Ok(fitting)
    }

    /// Tells QEMU, and records what comes of it.
    pub(super) async fn carry_on(self, plug: Plug) -> Outcome {
        let vm = self.bench.spec.name.as_str();
        let told = self.told(&plug).await;
        pass(Point::PlugAnswered);
        let refusal = match told {
            Ok(()) => return self.attached(plug).await,
            Err(refusal) => refusal,
        };
        if is_unknown(&refusal) {
            // It stays on record, and is told again as soon as there is somebody to tell.
            let hint = format!("maqet storage info {vm} tells soon whether it has the disk");
            return Err(refusal.hint(hint));
        }
        let refusal = explained(vm, &plug.disk, of_this_version(vm, refusal));
        let told = RecordPlug::Refused {
            generation: plug.generation,
            refusal: Box::new(refusal.clone()),
        };
        match self.record(told).await {
            Ok(()) => Err(self.lease_less(refusal).await),
            Err(second) => Err(refusal.cause(second.message)),
        }
    }

    /// Tells the runner, and the next one if that one is gone meanwhile.
    async fn told(&self, plug: &Plug) -> Result<(), Refusal> {
        let order = self.order(plug);
        let mut runners = 1;
        loop {
            let Err(refusal) = self.link.call(&order, OPEN_LIMIT + TAKE_LIMIT).await else {
                return Ok(());
            };
            let again = is_unknown(&refusal) && runners < RUNNERS_MAX;
            if !again || timeout(HEARD_LIMIT, self.heard.notified()).await.is_err() {
                return Err(refusal);
            }
            runners += 1;
        }
    }

    async fn attached(self, plug: Plug) -> Outcome {
        let attached = DiskAttached {
            vm: self.bench.spec.name.to_string(),
            disk: plug.disk.name,
            path: plug.disk.path,
            file: plug.file,
            live: true,
        };
        let told = RecordPlug::Plugged {
            generation: plug.generation,
            attached: Box::new(attached.clone()),
        };
        self.record(told).await?;
        pass(Point::WorkRecorded);
        Ok(Done::Maintained(Maintained::Attached(attached)))
    }

    fn order(&self, plug: &Plug) -> PlugDisk {
        let mut spec = self.bench.spec.clone();
        spec.disks.push(plug.disk.clone());
        let files = plug.files().into_iter();
        let opened = |Opened { path, file }| OpenedFile { path, file };
        PlugDisk {
            spec,
            disk: plug.disk.name.clone(),
            files: files.map(opened).collect(),
            timeout_ms: millis(OPEN_LIMIT),
        }
    }

    /// The VM has the images that are on record, and no other.
    async fn lease_less(&self, refusal: Refusal) -> Refusal {
        let Bench { id, shared, .. } = &self.bench;
        let Ok(DisksNow { spec, .. }) = self.owner.send(AskDisks).await else {
            // Its owner is gone, and who comes after it leases them.
            return refusal;
        };
        if let Err(second) = Leases::take(id, &spec, shared).await {
            tracing::warn!(vm = %spec.name, refusal = %second, "the images of a VM that runs are not leased");
        }
        refusal
    }

    async fn record(&self, step: RecordPlug) -> Result<(), Refusal> {
        match self.owner.send(step).await {
            Ok(result) => result,
            Err(error) => {
                Err(Refusal::new(RefusalCode::Internal, "the VM's owner is gone").cause(error.to_string()))
            }
        }
    }
}

/// Whether QEMU may have the disk although this was answered: by anybody but a runner that has QEMU and has looked what it has.
const fn is_unknown(refusal: &Refusal) -> bool {
    !matches!(
        refusal.code,
        RefusalCode::Conflict
            | RefusalCode::StorageFailed
            | RefusalCode::QmpFailed
            | RefusalCode::InvalidCall
            | RefusalCode::InvalidSpec
    )
}

/// A QEMU that was started by an earlier version has no ports, and says so in its own words.
fn explained(vm: &str, disk: &Disk, refusal: Refusal) -> Refusal {
    if disk.port.is_none() || !refusal.message.contains("not found") {
        return refusal;
    }
    let message =
        format!("the QEMU of `{vm}` was started by an earlier version and has no ports for such disks");
    Refusal::new(RefusalCode::WrongState, message)
        .vm(vm)
        .state("running")
        .cause(refusal.message)
        .hint(format!("maqet restart {vm}, then try again"))
}
