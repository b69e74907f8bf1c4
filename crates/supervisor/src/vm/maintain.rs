//! Work on disks: the operation around [`crate::maintenance`], and what is recorded of it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use maqet_process::point::{Point, pass};
use maqet_protocol::control::{ComingDisk, DiskResized, StorageVerified, UnsettledWork, VmStorage};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::RunQmp;
use maqet_spec::size::Size;
use maqet_spec::vm::Disk;
use maqet_state::change::Change;
use maqet_state::lifecycle::{Activity, Command, Decision, Effect, Status};
use maqet_state::snapshot::SnapshotKind;
use maqet_storage::image;
use maqet_storage::meter::{Meter, Progress};
use tokio::sync::watch;

use super::VmActor;
use crate::launch::check_writable;
use crate::leases::Leases;
use crate::link::RunnerLink;
use crate::maintenance::{Bench, Wanted, not_resized};
use crate::messages::{DescribeDisks, FollowDisks, ResizeDisk, VerifyDisks};
use crate::operation::{Accepted, Done, Maintained, Operation};
use crate::room::Room;
use crate::snapshots::Leftover;
use crate::snapshots::external::running::top_of;
use crate::{soundness, standing};

/// QEMU writes new tables and tells its guest.
const RESIZE_DEADLINE: Duration = Duration::from_mins(1);
/// Room for the wire beside that.
const WIRE_MARGIN: Duration = Duration::from_secs(2);

/// Work on disks, going on.
pub(super) type Working<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>>>>;

impl VmActor {
    fn bench(&self) -> Bench {
        Bench {
            id: self.record.id.clone(),
            spec: self.record.spec.clone(),
            files: self.record.files.clone(),
            shared: Rc::clone(&self.shared),
            meter: Meter::unread(),
        }
    }

    /// The same, for work that can be followed.
    pub(super) fn measured(&mut self) -> Bench {
        let (meter, seen) = Meter::new();
        self.progress = Some(seen);
        Bench {
            meter,
            ..self.bench()
        }
    }

    /// What comes before work on disks as they are at one moment.
    pub(super) fn leftover(&self, context: &Context<Self>) -> Leftover {
        Leftover {
            work: self.record.snapshot.clone(),
            health: self.record.health.clone(),
            owner: context.address(),
        }
    }

    /// Begins work on the disks of a VM that rests. It holds their leases; what comes of it is recorded by `settle`.
    pub(super) fn maintain<T: 'static>(
        &mut self,
        work: impl FnOnce(Bench) -> Working<T> + 'static,
        settle: impl FnOnce(&mut Self, T) -> (Done, Change) + 'static,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        match self.meet(Command::Maintain, context) {
            Decision::Do(Effect::Maintain) => {}
            Decision::Deny(denial) => return Err(self.deny(denial)),
            Decision::Join | Decision::AlreadyDone | Decision::Do(_) => {
                return Err(self.defect("work on disks with another effect"));
            }
        }
        let accepted = self.begin(Activity::Maintaining);
        let bench = self.measured();
        let working = async move {
            Leases::take(&bench.id, &bench.spec, &bench.shared).await?;
            pass(Point::WorkBegun);
            work(bench).await
        };
        let done = working
            .into_actor(self)
            .map(move |result, actor, context| match result {
                Ok(value) => actor.record_maintained(value, settle, context),
                Err(refusal) => actor.maintained(Err(refusal.vm(actor.name())), context),
            });
        context.spawn(done);
        Ok(accepted)
    }

    fn record_maintained<T>(
        &mut self,
        value: T,
        settle: impl FnOnce(&mut Self, T) -> (Done, Change),
        context: &mut Context<Self>,
    ) {
        pass(Point::WorkDone);
        let before = self.before_at_rest();
        let (done, change) = settle(self, value);
        let durable: Working<()> = Box::pin(self.persist(change));
        let recorded = durable.into_actor(self).map(move |durable, actor, context| {
            if durable.is_err() {
                actor.undo(before, context);
            }
            pass(Point::WorkRecorded);
            actor.maintained(durable.map(|()| done), context);
        });
        context.spawn(recorded);
    }

    fn maintained(&mut self, outcome: Result<Done, Refusal>, context: &mut Context<Self>) {
        self.finish(outcome);
        // A restart may have come due meanwhile.
        self.arm(context);
    }

    fn verify(&mut self, repair: bool, context: &mut Context<Self>) -> Result<Accepted, Refusal> {
        if self.record.status() == Status::Running && !repair {
            return Ok(self.verify_running());
        }
        let work = move |bench: Bench| -> Working<StorageVerified> {
            Box::pin(async move { verified(&bench, true, repair).await })
        };
        let settle = |actor: &mut Self, verified: StorageVerified| {
            let change = actor.verified(&verified);
            (Done::Maintained(Maintained::Verified(verified)), change)
        };
        self.maintain(work, settle, context)
    }

    /// QEMU has the images: only what is outside of them is looked at, beside whatever else is done to the VM.
    fn verify_running(&mut self) -> Accepted {
        let operation = Operation::new(self.name());
        let accepted = operation.follow();
        let bench = self.measured();
        actix_rt::spawn(async move {
            let verified = verified(&bench, false, false).await;
            operation.finish(verified.map(|verified| Done::Maintained(Maintained::Verified(verified))));
        });
        accepted
    }

    /// What was repaired is told; a disk that was known to be damaged and is whole now may be written to again.
    fn verified(&mut self, verified: &StorageVerified) -> Change {
        let before = self.record.health.clone();
        for disk in verified.disks.iter().filter(|disk| disk.whole == Some(true)) {
            let health = std::mem::take(&mut self.record.health);
            self.record.health = health.mended(&disk.path);
        }
        let mended = before != self.record.health;
        let change = if mended {
            Change::update(self.record.clone())
        } else {
            Change::default()
        };
        let worked_on = verified.disks.iter().filter(|disk| {
            let released = before.of(&disk.path).is_some() && self.record.health.of(&disk.path).is_none();
            released || !disk.repaired.is_empty()
        });
        worked_on.fold(change, |change, disk| {
            let event = self.event("vm.disk-repaired").with("disk", disk.disk.clone());
            let event = event.with("repaired", disk.repaired.clone());
            change.event(event.with("whole", disk.whole == Some(true)))
        })
    }

    fn resize(&mut self, order: ResizeDisk, context: &mut Context<Self>) -> Result<Accepted, Refusal> {
        let ResizeDisk { disk, wanted, key } = order;
        let disk = self.disk(&disk)?;
        if disk.readonly {
            let message = format!("disk `{}` of `{}` is read-only", disk.name, self.name());
            return Err(Refusal::new(RefusalCode::InvalidCall, message).vm(self.name()));
        }
        if self.record.status() == Status::Running && self.activity == Activity::Idle {
            return self.resize_running(disk, wanted, key, context);
        }
        let (leftover, vm) = (self.leftover(context), self.name().to_owned());
        let work = move |bench: Bench| -> Working<DiskResized> {
            Box::pin(async move {
                check_writable(&bench.shared).await?;
                leftover.settle(&bench).await?;
                standing::refuse_to_write_below((&bench.id, &vm), [&disk], &bench.shared).await?;
                let order = soundness::Order {
                    id: &bench.id,
                    vm: &vm,
                    disks: std::slice::from_ref(&disk),
                    health: &leftover.health,
                    owner: &leftover.owner,
                    shared: &bench.shared,
                };
                soundness::check(&order).await?;
                bench.resize(&disk, wanted).await
            })
        };
        let settle = move |actor: &mut Self, resized: DiskResized| {
            let change = actor.resized(&resized, key);
            (Done::Maintained(Maintained::Resized(resized)), change)
        };
        self.maintain(work, settle, context)
    }

    /// QEMU does it and tells its guest. Nothing else is kept waiting.
    fn resize_running(
        &mut self,
        disk: Disk,
        wanted: Wanted,
        key: Option<String>,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        let link = self.link_for(Command::Qmp, context)?;
        let operation = Operation::new(self.name());
        let accepted = operation.follow();
        let bench = self.bench();
        let working = async move { resize_live(&bench, &disk, wanted, &link).await };
        let done = working.into_actor(self).map(move |result, actor, context| {
            let outcome = result.map(|resized| {
                pass(Point::WorkDone);
                let change = actor.resized(&resized, key);
                // It is so, whatever the store says.
                actor.persist_later(change, context);
                Done::Maintained(Maintained::Resized(resized))
            });
            operation.finish(outcome.map_err(|refusal| refusal.vm(actor.name())));
        });
        context.spawn(done);
        Ok(accepted)
    }

    /// The spec's size follows, where it has one.
    fn resized(&mut self, resized: &DiskResized, key: Option<String>) -> Change {
        let disks = &mut self.record.spec.disks;
        if let Some(disk) = disks.iter_mut().find(|disk| disk.name == resized.disk) {
            disk.size = disk.size.map(|_before| Size(resized.after));
        }
        let change = Change::update(self.record.clone());
        let change = if resized.before == resized.after {
            change
        } else {
            let event = self.event("vm.disk-resized").with("disk", resized.disk.clone());
            change.event(event.with("before", resized.before).with("after", resized.after))
        };
        match key {
            Some(key) => change.answering(key, serde_json::to_value(resized).unwrap_or_default()),
            None => change,
        }
    }
}

async fn verified(bench: &Bench, tables: bool, repair: bool) -> Result<StorageVerified, Refusal> {
    Ok(StorageVerified {
        vm: bench.spec.name.to_string(),
        tables,
        disks: bench.verify(tables, repair).await?,
    })
}

async fn resize_live(
    bench: &Bench,
    disk: &Disk,
    wanted: Wanted,
    link: &RunnerLink,
) -> Result<DiskResized, Refusal> {
    let (vm, name) = (&bench.spec.name, &disk.name);
    let before = bench.size_of(disk).await?;
    let bytes = wanted.of(before)?;
    if bytes < before {
        let message = format!("disk `{name}` of `{vm}` can only grow while it runs");
        let refusal = Refusal::new(RefusalCode::WrongState, message).state("running");
        return Err(refusal.hint(format!("maqet stop {vm}")));
    }
    if bytes > before {
        let room = Room {
            images: vec![disk.path.clone()],
            needed: image::resize_needs(bytes),
            aside: bench.shared.asides.of(&bench.id),
        };
        // QEMU finds out too late, and the guest with it.
        if let Some(short) = room.short().await {
            return Err(not_resized(&bench.spec, disk, &short));
        }
        let top = top_of(link, vm.as_str(), name).await?;
        let command = RunQmp {
            command: "block_resize".to_owned(),
            arguments: Some(serde_json::json!({"node-name": top, "size": bytes})),
            timeout_ms: super::start::millis(RESIZE_DEADLINE),
        };
        if let Err(refusal) = link.call(&command, RESIZE_DEADLINE + WIRE_MARGIN).await {
            return Err(room.counted(refusal).await);
        }
    }
    Ok(DiskResized {
        vm: vm.to_string(),
        disk: name.clone(),
        before,
        after: bench.size_of(disk).await?,
        live: true,
        free_bytes: bench.free_beside(disk).await,
    })
}

impl Handler<VerifyDisks> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, message: VerifyDisks, context: &mut Context<Self>) -> Self::Result {
        self.verify(message.repair, context)
    }
}

impl Handler<ResizeDisk> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, message: ResizeDisk, context: &mut Context<Self>) -> Self::Result {
        self.resize(message, context)
    }
}

impl VmActor {
    fn unsettled(&self) -> Option<UnsettledWork> {
        if self.activity != Activity::Idle {
            return None;
        }
        let internal = self.record.snapshot.as_ref().map(|work| UnsettledWork {
            action: work.action,
            name: work.name.clone(),
            kind: SnapshotKind::Internal,
        });
        let external = self.record.externals.work.as_ref();
        internal.or_else(|| {
            external.map(|work| UnsettledWork {
                action: work.action,
                name: work.name.clone(),
                kind: SnapshotKind::External,
            })
        })
    }
}

impl Handler<FollowDisks> for VmActor {
    type Result = Option<watch::Receiver<Progress>>;

    fn handle(&mut self, _message: FollowDisks, _context: &mut Context<Self>) -> Self::Result {
        self.progress.clone()
    }
}

impl Handler<DescribeDisks> for VmActor {
    type Result = ResponseFuture<Result<VmStorage, Refusal>>;

    fn handle(&mut self, _message: DescribeDisks, _context: &mut Context<Self>) -> Self::Result {
        let bench = self.bench();
        let problems: Vec<_> = bench.spec.disks.iter().map(|disk| self.trouble(disk)).collect();
        let (unsettled, removal) = (self.unsettled(), self.removal());
        let coming = self.record.plug.as_ref().map(|plug| ComingDisk {
            disk: plug.disk.name.clone(),
            path: plug.disk.path.clone(),
        });
        Box::pin(async move {
            let mut disks = bench.look().await?;
            for (disk, problem) in disks.iter_mut().zip(problems) {
                disk.problem = problem;
            }
            Ok(VmStorage {
                vm: bench.spec.name.to_string(),
                disks,
                unsettled,
                coming,
                removal,
            })
        })
    }
}
