//! Work on snapshots: the operation around [`crate::snapshots`], and what is recorded of it.

use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture, WrapFuture};
use maqet_process::pidfd::ProcessHandle;
use maqet_protocol::control::SnapshotDone;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::journal::NewEvent;
use maqet_state::lifecycle::{Activity, Command, Decision, Effect, Status};
use maqet_state::snapshot::{SnapshotAction, SnapshotKind, SnapshotWork};
use maqet_storage::meter::Meter;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::VmActor;
use crate::messages::{RecordSnapshot, SnapshotVm};
use crate::operation::{Accepted, Operation, Outcome};
use crate::snapshots::{Job, SnapshotOrder};

/// Time for a runner whose QEMU has ended to say what came of its work.
const RUNNERS_WORD_DEADLINE: Duration = Duration::from_secs(10);

impl VmActor {
    fn snapshot(&mut self, order: SnapshotOrder, context: &mut Context<Self>) -> Result<Accepted, Refusal> {
        let order = order.check()?;
        if let Some(settling) = self.settling() {
            return Ok(self.after(settling, order, context));
        }
        match self.meet(Command::Snapshot, context) {
            Decision::Do(Effect::Snapshot) => self.refuse_while_plugging(context)?,
            Decision::Deny(denial) => return Err(self.deny(denial)),
            Decision::Join | Decision::AlreadyDone | Decision::Do(_) => {
                return Err(self.defect("a snapshot with another effect"));
            }
        }
        let link = match self.record.status() {
            Status::Running => Some(self.link()?),
            Status::Created | Status::Stopped | Status::Failed => None,
        };
        let accepted = self.begin(Activity::Snapshotting);
        let Some(token) = self.work.as_ref().map(|work| Rc::clone(&work.cancel)) else {
            return Err(self.defect("an operation that has not begun"));
        };
        let (meter, seen) = Meter::new();
        self.progress = Some(seen);
        let job = Job {
            id: self.record.id.clone(),
            spec: self.record.spec.clone(),
            files: self.record.files.clone(),
            health: self.record.health.clone(),
            order,
            externals: self.record.externals.clone(),
            unfinished: self.record.snapshot.clone(),
            qemu: self.record.state.launch().and_then(|launch| launch.qemu.clone()),
            link,
            owner: context.address(),
            shared: Rc::clone(&self.shared),
            asked: Instant::now(),
            meter,
        };
        let qemu = self.live.as_ref().and_then(|live| live.qemu.try_clone().ok());
        let name = self.name().to_owned();
        let work = async move {
            match qemu {
                Some(qemu) => while_it_lives(job.run(), &qemu, &name).await,
                None => job.run().await,
            }
        };
        let done = work
            .into_actor(self)
            .map(move |outcome, actor, context| actor.work_ended(outcome, &token, context));
        context.spawn(done);
        Ok(accepted)
    }

    /// What was under way with the disks of a QEMU that was taken over, or that answers again.
    pub(super) fn resume_disks(&mut self, context: &mut Context<Self>) {
        self.heard.notify_one();
        self.resume_plug(context);
        self.resume_layers(context);
    }

    /// A QEMU that was taken over, or that answers again, may have been put on other images meanwhile, wait for a word, or have
    /// loaded a snapshot: only it knows, and it is asked, before its guest has gone on for long.
    pub(super) fn resume_layers(&mut self, context: &mut Context<Self>) {
        let loads = self
            .record
            .snapshot
            .as_ref()
            .is_some_and(|work| work.is_load_by_qemu());
        let nothing = self.record.externals.work.is_none() && !loads;
        if nothing || self.activity != Activity::Idle {
            return;
        }
        match self.snapshot(SnapshotOrder::list(), context) {
            Ok(_accepted) => self.settles = true,
            Err(refusal) => {
                tracing::warn!(vm = self.name(), %refusal, "what QEMU's disks are on is asked later");
            }
        }
    }

    /// Nobody has asked for that, and it may be what somebody had asked for who asks again.
    fn settling(&self) -> Option<Accepted> {
        let works = matches!(self.activity, Activity::Snapshotting | Activity::Maintaining);
        let settles = self.settles && works;
        if settles { self.join() } else { None }
    }

    /// What is asked once that has ended.
    fn after(&self, settling: Accepted, order: SnapshotOrder, context: &Context<Self>) -> Accepted {
        let operation = Operation::new(self.name());
        let accepted = operation.follow();
        let vm = context.address();
        actix_rt::spawn(async move {
            // However it ended: what is asked now is judged by what there is then.
            drop(settling.outcome().await);
            let asked = vm.send(SnapshotVm(order)).await;
            let asked = asked.unwrap_or_else(|gone| {
                Err(Refusal::new(RefusalCode::Busy, "the VM's owner is gone").cause(gone.to_string()))
            });
            operation.finish(match asked {
                Ok(accepted) => accepted.outcome().await,
                Err(refusal) => Err(refusal),
            });
        });
        accepted
    }

    /// Another command may have come in its place meanwhile, which then has the say.
    pub(super) fn work_ended(&mut self, outcome: Outcome, token: &Rc<Notify>, context: &mut Context<Self>) {
        let own = self
            .work
            .as_ref()
            .is_some_and(|work| Rc::ptr_eq(&work.cancel, token));
        if own {
            self.settles = false;
            self.finish(outcome);
            // QEMU may have ended meanwhile, with a restart due.
            self.arm(context);
            self.end_after_work(context);
        }
    }

    pub(super) fn snapshot_event(&self, outcome: &Result<SnapshotDone, Refusal>) -> NewEvent {
        let done = match outcome {
            Ok(done) => done,
            Err(refusal) => {
                let event = self
                    .event("vm.snapshot-failed")
                    .with("message", refusal.message.clone());
                return event.with("causes", refusal.causes.clone());
            }
        };
        let event = self.event(kind(done.action)).with("name", done.name.clone());
        let event = event.with("disks", done.disks.clone()).with("live", done.live);
        let event = event.with("memory", done.memory).with("took_ms", done.took_ms);
        event.with("external", done.kind == SnapshotKind::External)
    }

    /// What is recorded of a step.
    fn snapshot_change(&mut self, step: RecordSnapshot) -> Change {
        match step {
            RecordSnapshot::Begun(work) => {
                self.record.snapshot = Some(work);
                Change::update(self.record.clone())
            }
            RecordSnapshot::Ended {
                settled,
                between,
                outcome,
                key,
            } => {
                if between {
                    self.record = self.record.clone().cut_off(clock::now());
                }
                if settled {
                    self.record.snapshot = None;
                }
                self.mend_by(&outcome);
                let event = self.snapshot_event(&outcome);
                let change = Change::update(self.record.clone()).event(event);
                match (*outcome, key) {
                    (Ok(done), Some(key)) => {
                        change.answering(key, serde_json::to_value(done).unwrap_or_default())
                    }
                    (Ok(_) | Err(_), _) => change,
                }
            }
            RecordSnapshot::Recovered { done, kept_as } => self.recovery(done.as_deref(), kept_as),
        }
    }

    /// What is left of work that was found on record. Whoever asked for it is told when they ask again.
    fn recovery(&mut self, done: Option<&SnapshotDone>, kept_as: Option<String>) -> Change {
        let Some(work) = self.record.snapshot.clone() else {
            return Change::update(self.record.clone());
        };
        if done.is_none() {
            self.record = self.record.clone().cut_off(clock::now());
        } else if work.action == SnapshotAction::Load {
            self.loaded(&work.disks);
        }
        self.record.snapshot = None;
        let mut event = self.recovered(&work, done.is_some());
        if let Some(name) = kept_as {
            event = event.with("kept_as", name);
        }
        let change = Change::update(self.record.clone()).event(event);
        match (done, work.key) {
            (Some(done), Some(key)) => change.answering(key, serde_json::to_value(done).unwrap_or_default()),
            (Some(_) | None, _) => change,
        }
    }

    /// A load that went through makes disks agree.
    fn mend_by(&mut self, outcome: &Result<SnapshotDone, Refusal>) {
        if let Ok(done) = outcome
            && done.action == SnapshotAction::Load
        {
            self.loaded(&done.disks);
        }
    }

    fn loaded(&mut self, disks: &[String]) {
        let paths = self.record.paths_of(disks);
        let health = std::mem::take(&mut self.record.health);
        self.record.health = health.loaded(&paths);
    }

    pub(super) fn told_late(&self, kept: Result<(), Refusal>) {
        if let Err(refusal) = kept {
            tracing::error!(vm = self.name(), %refusal, "the end of work on a snapshot is not durable yet");
        }
    }

    fn recovered(&self, work: &SnapshotWork, achieved: bool) -> NewEvent {
        let event = self
            .event("vm.snapshot-recovered")
            .with("name", work.name.clone());
        event
            .with("wanted", kind(work.action))
            .with("disks", work.disks.clone())
            .with("achieved", achieved)
    }
}

/// Work that a QEMU has a part in ends with it. Its runner says how, unless it is frozen; what is on record of the work is
/// settled by whoever comes next.
pub(super) async fn while_it_lives(
    work: impl Future<Output = Outcome>,
    qemu: &ProcessHandle,
    vm: &str,
) -> Outcome {
    let gone = async {
        match qemu.exited().await {
            Ok(()) => sleep_until(tokio::time::Instant::now() + RUNNERS_WORD_DEADLINE).await,
            Err(error) => {
                tracing::warn!(vm, %error, "QEMU's end cannot be watched");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = gone => {
            let message = format!("the QEMU of `{vm}` has ended, and its runner does not say what came of it");
            Err(Refusal::new(RefusalCode::NotAnswering, message).vm(vm).hint(format!("maqet why {vm}")))
        }
    }
}

const fn kind(action: SnapshotAction) -> &'static str {
    match action {
        SnapshotAction::Create => "vm.snapshot-created",
        SnapshotAction::Load => "vm.snapshot-loaded",
        SnapshotAction::Delete => "vm.snapshot-deleted",
    }
}

impl Handler<SnapshotVm> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, SnapshotVm(order): SnapshotVm, context: &mut Context<Self>) -> Self::Result {
        self.snapshot(order, context)
    }
}

impl Handler<RecordSnapshot> for VmActor {
    type Result = ResponseActFuture<Self, Result<(), Refusal>>;

    /// What begins is refused by a store that takes nothing; what has ended is kept until it does.
    fn handle(&mut self, step: RecordSnapshot, _context: &mut Context<Self>) -> Self::Result {
        let begins = matches!(step, RecordSnapshot::Begun(_));
        let before = self.before();
        let change = self.snapshot_change(step);
        if begins {
            let durable = self.persist(change).into_actor(self);
            return Box::pin(durable.map(move |durable, actor, context| {
                durable.inspect_err(|_refusal| actor.undo(before, context))
            }));
        }
        let kept = self.persist_fact(change);
        Box::pin(kept.into_actor(self).map(|kept, actor, _context| {
            actor.told_late(kept);
            Ok(())
        }))
    }
}
