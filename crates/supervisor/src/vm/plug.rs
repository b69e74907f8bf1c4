//! A VM that runs gets a disk.
//!
//! Everything is checked, and that QEMU is about to be told is recorded, before it is. Only QEMU knows then whether it has the
//! disk, and telling it again changes nothing where it has: whoever finds that on record tells it again. A QEMU that has ended
//! has none, and the disk is not the VM's.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use actix::fut::ready;
use actix::{ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseActFuture, WrapFuture};
use maqet_process::point::{Point, pass};
use maqet_protocol::control::DiskAttached;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{OpenedFile, PlugDisk};
use maqet_spec::argv::plug::{Unpluggable, placed};
use maqet_spec::vm::{Disk, DiskInterface};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::disk::Opened;
use maqet_state::health::Health;
use maqet_state::lifecycle::{Activity, Status};
use maqet_state::plug::Plug;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::VmActor;
use super::attach::{Fitting, fit};
use super::snapshot::while_it_lives;
use super::start::millis;
use crate::leases::Leases;
use crate::link::RunnerLink;
use crate::maintenance::Bench;
use crate::messages::{AskDisks, AttachDisk, DisksNow, RecordPlug};
use crate::operation::{Accepted, Done, Maintained, Outcome};
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
struct Job {
    bench: Bench,
    health: Health,
    generation: u64,
    link: Rc<RunnerLink>,
    heard: Rc<Notify>,
    owner: Addr<VmActor>,
}

impl VmActor {
    /// A VM that runs gets a disk.
    pub(super) fn plug(
        &mut self,
        order: AttachDisk,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        let AttachDisk { disk, key } = order;
        let disk = placed(&self.record.spec, *disk).map_err(|why| self.unpluggable(&why))?;
        let job = self.plug_job(context)?;
        Ok(self.plugging(job.begin(disk, key), context))
    }

    /// The same order is being carried out, or was cut off and is taken up again.
    pub(super) fn plug_under(&mut self, order: &AttachDisk, context: &mut Context<Self>) -> Option<Accepted> {
        let plug = self.record.plug.as_ref()?;
        let same = plug.key.is_some() && plug.key == order.key;
        self.resume_plug(context);
        self.join()
            .filter(|_| same && self.activity == Activity::Maintaining)
    }

    /// What QEMU was being given when that was cut off: it is told again.
    pub(super) fn resume_plug(&mut self, context: &mut Context<Self>) {
        let Some(plug) = self.record.plug.clone() else {
            return;
        };
        // One that is meant to stop loses the disk with its end.
        let stops = self.is_meant_to_stop().is_some();
        if stops || self.activity != Activity::Idle || self.record.status() != Status::Running {
            return;
        }
        match self.plug_job(context) {
            Ok(job) => {
                self.plugging(job.carry_on(*plug), context);
                self.settles = true;
            }
            Err(refusal) => {
                tracing::warn!(vm = self.name(), %refusal, "whether QEMU has a disk is asked later");
            }
        }
    }

    /// Nothing else is begun with the disks while nobody knows whether QEMU has one more.
    pub(super) fn refuse_while_plugging(&mut self, context: &mut Context<Self>) -> Result<(), Refusal> {
        let Some(plug) = &self.record.plug else {
            return Ok(());
        };
        let (disk, vm) = (&plug.disk.name, self.name());
        let message =
            format!("attaching disk `{disk}` to `{vm}` was cut off, and whether it has it is being asked");
        let refusal = Refusal::new(RefusalCode::Busy, message).vm(vm).hint("try again");
        self.resume_plug(context);
        Err(refusal)
    }

    fn plug_job(&mut self, context: &Context<Self>) -> Result<Job, Refusal> {
        Ok(Job {
            generation: self.record.generation,
            link: self.link()?,
            heard: Rc::clone(&self.heard),
            bench: self.measured(),
            health: self.record.health.clone(),
            owner: context.address(),
        })
    }

    fn plugging(
        &mut self,
        work: impl Future<Output = Outcome> + 'static,
        context: &mut Context<Self>,
    ) -> Accepted {
        let accepted = self.begin(Activity::Maintaining);
        let token = self.work.as_ref().map(|work| Rc::clone(&work.cancel));
        let qemu = self.live.as_ref().and_then(|live| live.qemu.try_clone().ok());
        let name = self.name().to_owned();
        let work = async move {
            match qemu {
                Some(qemu) => while_it_lives(work, &qemu, &name).await,
                None => work.await,
            }
        };
        let done = work.into_actor(self).map(move |outcome, actor, context| {
            if let Some(token) = token {
                actor.work_ended(outcome, &token, context);
                // What was to be settled of snapshots had to wait for this.
                actor.resume_layers(context);
            }
        });
        context.spawn(done);
        accepted
    }

    fn unpluggable(&self, why: &Unpluggable) -> Refusal {
        let vm = self.name();
        let message = format!("`{vm}` cannot get such a disk while it runs");
        let stop = format!("maqet stop {vm}, then attach it and maqet start {vm}");
        let hint = match why {
            Unpluggable::Bus { .. } | Unpluggable::NoPort | Unpluggable::NoPorts if self.has_scsi() => {
                format!("--interface scsi, or {stop}")
            }
            Unpluggable::Bus { .. }
            | Unpluggable::NoPort
            | Unpluggable::NoPorts
            | Unpluggable::NoController => stop,
        };
        Refusal::new(RefusalCode::WrongState, message)
            .vm(vm)
            .state("running")
            .cause(why.to_string())
            .hint(hint)
    }

    fn has_scsi(&self) -> bool {
        let mut disks = self.record.spec.disks.iter();
        disks.any(|disk| disk.interface == DiskInterface::Scsi)
    }

    /// What is recorded of a step.
    ///
    /// # Errors
    /// `wrong-state` for one that comes when QEMU has ended.
    fn plug_change(&mut self, step: RecordPlug) -> Result<Change, Refusal> {
        let generation = match &step {
            RecordPlug::Begun(plug) => plug.generation,
            RecordPlug::Plugged { generation, .. } | RecordPlug::Refused { generation, .. } => *generation,
        };
        // An order that another one has cut short may come late: QEMU has ended, and another one may run by now.
        if self.record.status() != Status::Running || self.record.generation != generation {
            let message = format!("`{}` has ended meanwhile, without the disk", self.name());
            return Err(Refusal::new(RefusalCode::WrongState, message));
        }
        let plug = self.record.plug.clone();
        let change = match (step, plug) {
            (RecordPlug::Begun(plug), None) => {
                self.record.plug = Some(plug);
                Change::update(self.record.clone())
            }
            (RecordPlug::Plugged { attached, .. }, Some(plug)) => {
                self.record = self.record.clone().plugged(clock::now());
                let event = self.event("vm.disk-attached").with("disk", attached.disk.clone());
                let event = event.with("path", attached.path.display().to_string());
                let change = Change::update(self.record.clone()).event(event.with("live", true));
                let answer = serde_json::to_value(attached).unwrap_or_default();
                match plug.key {
                    Some(key) => change.answering(key, answer),
                    None => change,
                }
            }
            (RecordPlug::Refused { refusal, .. }, Some(plug)) => {
                self.record.plug = None;
                let event = self.event("vm.disk-not-attached").with("disk", plug.disk.name);
                let event = event
                    .with("message", refusal.message)
                    .with("causes", refusal.causes);
                Change::update(self.record.clone()).event(event)
            }
            (RecordPlug::Begun(_), Some(_)) => {
                return Err(self.defect("a second disk on its way to QEMU"));
            }
            (RecordPlug::Plugged { .. } | RecordPlug::Refused { .. }, None) => {
                return Err(self.defect("the end of giving QEMU a disk that nobody has begun"));
            }
        };
        Ok(change)
    }
}

impl Job {
    /// A disk that somebody wants it to have.
    async fn begin(self, disk: Disk, key: Option<String>) -> Outcome {
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
    async fn carry_on(self, plug: Plug) -> Outcome {
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

impl Handler<RecordPlug> for VmActor {
    type Result = ResponseActFuture<Self, Result<(), Refusal>>;

    /// What a store does not take has not happened; that it came to nothing is kept until it does.
    fn handle(&mut self, step: RecordPlug, _context: &mut Context<Self>) -> Self::Result {
        let nothing = matches!(step, RecordPlug::Refused { .. });
        let before = self.before();
        let change = match self.plug_change(step) {
            Ok(change) => change,
            Err(refusal) => return Box::pin(ready(Err(refusal))),
        };
        if nothing {
            let kept = self.persist_fact(change).into_actor(self);
            return Box::pin(kept.map(|kept, actor, _context| {
                actor.told_late(kept);
                Ok(())
            }));
        }
        let durable = self.persist(change).into_actor(self);
        Box::pin(
            durable
                .map(|durable, actor, context| durable.inspect_err(|_refusal| actor.undo(before, context))),
        )
    }
}
