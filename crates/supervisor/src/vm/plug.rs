//! A VM that runs gets a disk.
//!
//! Everything is checked, and that QEMU is about to be told is recorded, before it is. Only QEMU knows then whether it has the
//! disk, and telling it again changes nothing where it has: whoever finds that on record tells it again. A QEMU that has ended
//! has none, and the disk is not the VM's.

mod job;

use std::future::Future;
use std::rc::Rc;

use actix::fut::ready;
use actix::{ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture, WrapFuture};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::argv::plug::{Unpluggable, placed};
use maqet_spec::vm::DiskInterface;
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::lifecycle::{Activity, Status};

use self::job::Job;
use super::VmActor;
use super::snapshot::while_it_lives;
use crate::messages::{AttachDisk, RecordPlug};
use crate::operation::{Accepted, Outcome};

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
