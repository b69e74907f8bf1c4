//! Starting: the operation around [`crate::launch`].

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use maqet_protocol::control::Started;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::lifecycle::{Activity, Cause, Command, Decision, Effect, Fact, LastExit};
use tokio::sync::Notify;

use super::news::end_of;
use super::silence::Silence;
use super::{Live, StartBy, VmActor};
use crate::launch::{self, Failure, Launched, Plan, Processes};
use crate::operation::{Accepted, Done, Outcome};

/// A runner whose QEMU is gone exits within milliseconds.
const LEAVING_DEADLINE: Duration = Duration::from_secs(5);

/// What a start was asked with.
#[derive(Debug)]
pub(super) struct StartOrder {
    /// Idempotency key.
    pub(super) key: Option<String>,
    /// When it was asked.
    pub(super) asked: Instant,
    /// By whom.
    pub(super) by: StartBy,
}

impl VmActor {
    /// `start`.
    pub(super) fn start(
        &mut self,
        key: Option<String>,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        match self.meet(Command::Start, context) {
            Decision::Do(Effect::Launch) => {
                self.take_charge(context);
                Ok(self.start_now(key, StartBy::Person, context))
            }
            Decision::Join => self.join().ok_or_else(|| self.defect("nothing to join")),
            Decision::AlreadyDone => Ok(self.already_running_durably()),
            Decision::Deny(denial) => Err(self.deny(denial)),
            Decision::Do(_) => Err(self.defect("a start with another effect")),
        }
    }

    /// Begins a start.
    pub(super) fn start_now(
        &mut self,
        key: Option<String>,
        by: StartBy,
        context: &mut Context<Self>,
    ) -> Accepted {
        let accepted = self.begin(Activity::Starting);
        let asked = Instant::now();
        self.launch(StartOrder { key, asked, by }, context);
        accepted
    }

    /// Runs the launch of an operation that has begun.
    pub(super) fn launch(&mut self, order: StartOrder, context: &mut Context<Self>) {
        let Some(work) = &mut self.work else { return };
        work.by = order.by;
        let cancel = Rc::clone(&work.cancel);
        let plan = Plan {
            id: self.record.id.clone(),
            spec: self.record.spec.clone(),
            files: self.record.files.clone(),
            unfinished: self.record.snapshot.clone(),
            externals: self.record.externals.clone(),
            health: self.record.health.clone(),
            generation: self.record.generation + 1,
            launch_id: maqet_state::id::VmId::random().as_str().to_owned(),
            secret: Arc::clone(&self.secret),
            owner: context.address(),
            shared: Rc::clone(&self.shared),
        };
        let (leaving, turn) = (self.leaving.take(), Arc::clone(&self.turn));
        let launch_id = plan.launch_id.clone();
        let work = async move {
            let _turn = turn.lock_owned().await;
            if let Some(runner) = leaving {
                see_off(&runner, &plan.shared).await;
            }
            launch_or_collapse(&plan, &cancel).await
        };
        let done = work
            .into_actor(self)
            .map(move |result, actor, context| actor.launch_ended(&launch_id, result, &order, context));
        context.spawn(done);
    }

    fn launch_ended(
        &mut self,
        launch_id: &str,
        result: Result<Launched, Failure>,
        order: &StartOrder,
        context: &mut Context<Self>,
    ) {
        match result {
            Ok(launched) => self.launch_succeeded(launch_id, launched, order, context),
            Err(failure) => self.launch_failed(launch_id, failure.refusal, order.by, context),
        }
    }

    fn launch_succeeded(
        &mut self,
        launch_id: &str,
        launched: Launched,
        order: &StartOrder,
        context: &mut Context<Self>,
    ) {
        self.tally.launched();
        let running = serde_json::to_value(&launched.running).unwrap_or_default();
        let event = self
            .event("vm.running")
            .with("pid", launched.qemu.pid())
            .with("accel", launched.running.accel.clone())
            .with("serial_offset", launched.news.serial_offset)
            .with("took_ms", millis(order.asked.elapsed()));
        let event = match launched.news.accel_fallback {
            Some(why) => event.with("accel_fallback", why),
            None => event,
        };
        self.attach(
            Live {
                launch_id: launch_id.to_owned(),
                generation: self.record.generation,
                link: launched.link,
                runner: Some(launched.runner),
                qemu: launched.qemu,
                running: Some(launched.running),
                silence: Silence::default(),
                troubles: BTreeMap::new(),
                losses: BTreeMap::new(),
                exit: None,
            },
            launched.watch,
            context,
        );
        let outcome = self
            .apply(Fact::Confirmed {
                generation: self.record.generation,
                running,
            })
            .map(|()| self.started(false, order.asked));
        let mut change = Change::update(self.record.clone()).event(event);
        if let (Ok(started), Some(key)) = (&outcome, &order.key) {
            change = change.answering(key, serde_json::to_value(started).unwrap_or_default());
        }
        self.persist_later(change, context);
        self.finish(outcome.map(Done::Started));
    }

    /// Everything the launch made is gone; what was recorded, or was worth recording, gets its end.
    fn launch_failed(&mut self, launch_id: &str, refusal: Refusal, by: StartBy, context: &mut Context<Self>) {
        let refusal = if refusal.vm.is_none() {
            refusal.vm(self.name())
        } else {
            refusal
        };
        let recorded = self
            .record
            .state
            .launch()
            .is_some_and(|launch| launch.launch_id == launch_id);
        if !recorded && !worth_recording(&refusal, by) {
            self.finish(Err(refusal));
            return self.postpone(context);
        }
        let exit = self.exit_of_failed(launch_id, &refusal);
        let ended: Pin<Box<dyn Future<Output = Result<(), Refusal>>>> = if recorded {
            Box::pin(self.record_end(exit))
        } else {
            Box::pin(self.record_failed_launch(exit, by))
        };
        let refusal = match (refusal.hint.is_none(), recorded) {
            (true, true) => refusal.hint(format!("maqet logs {} --qemu", self.name())),
            (true, false) => refusal.hint(format!("maqet info {}", self.name())),
            (false, _) => refusal,
        };
        let done = ended.into_actor(self).map(move |durable, actor, context| {
            if let Err(unwritten) = durable {
                tracing::error!(vm = actor.name(), refusal = %unwritten, causes = ?unwritten.causes, "a failed start is not durable yet");
            }
            actor.finish(Err(refusal));
            actor.arm(context);
        });
        context.spawn(done);
    }

    /// A start that ended before there was a runner to record.
    fn record_failed_launch(
        &mut self,
        exit: LastExit,
        by: StartBy,
    ) -> impl Future<Output = Result<(), Refusal>> + 'static {
        self.count(by);
        let applied = self.end(Fact::LaunchFailed { exit });
        let event = end_of(&self.record, clock::now()).with("by", by.as_str());
        let change = Change::update(self.record.clone()).event(event);
        let durable = self.persist_fact(self.telling_what_follows(change));
        async move {
            applied?;
            durable.await
        }
    }

    /// The runner's own note of the end knows most; the refusal knows the rest.
    fn exit_of_failed(&self, launch_id: &str, refusal: &Refusal) -> LastExit {
        let noted = crate::exit_note::read(&self.shared.places.vm_runtime(&self.record.id), launch_id);
        let cancelled = refusal.code == RefusalCode::WrongState;
        let cause = if cancelled {
            Cause::Stop
        } else {
            Cause::StartFailed
        };
        let words = std::iter::once(&refusal.message)
            .chain(&refusal.causes)
            .cloned()
            .collect::<Vec<_>>();
        LastExit {
            cause,
            at: clock::now(),
            exit_code: noted.as_ref().and_then(|exit| exit.exit_code),
            signal: noted.as_ref().and_then(|exit| exit.signal),
            detail: Some(words.join("\n")),
        }
    }

    /// The answer to a start.
    pub(super) fn started(&self, already: bool, asked: Instant) -> Started {
        Started {
            id: self.record.id.clone(),
            name: self.name().to_owned(),
            pid: self.live.as_ref().map(|live| live.qemu.pid()),
            already,
            took_ms: millis(asked.elapsed()),
        }
    }

    /// Gives up the start under way; its followers and the caller's future learn of it when all of it is gone.
    pub(super) fn cancel_start(&mut self) -> Option<Accepted> {
        let work = self.work.as_ref()?;
        work.cancel.notify_one();
        Some(work.operation.follow())
    }

    /// A refusal for what the table rules out.
    pub(super) fn defect(&self, what: &str) -> Refusal {
        tracing::error!(vm = self.name(), what, "a decision does not fit");
        Refusal::new(RefusalCode::Internal, what).vm(self.name())
    }
}

async fn launch_or_collapse(plan: &Plan, cancel: &Notify) -> Result<Launched, Failure> {
    let mut made = Processes::default();
    let result = tokio::select! {
        result = launch::launch(plan, &mut made) => result,
        () = cancel.notified() => Err(Failure { refusal: cancelled(plan) }),
    };
    if result.is_err() {
        made.collapse(&plan.shared).await;
        launch::sweep(&plan.shared.places.vm_runtime(&plan.id));
    }
    result
}

/// Whether a start that made nothing leaves a trace: when QEMU's program refused it, or nobody is there to be told.
fn worth_recording(refusal: &Refusal, by: StartBy) -> bool {
    match (refusal.code, by) {
        (RefusalCode::StartFailed, _) => true,
        // Cancelled by a stop; or the supervisor ends, or its disk is full: nothing that is wrong with this VM.
        (RefusalCode::WrongState | RefusalCode::Busy | RefusalCode::StoreFailed, _) => false,
        (_, by) => by != StartBy::Person,
    }
}

fn cancelled(plan: &Plan) -> Refusal {
    let name = plan.spec.name.as_str();
    Refusal::new(
        RefusalCode::WrongState,
        format!("the start of `{name}` was cancelled by a stop"),
    )
    .vm(name)
    .state("starting")
    .hint(format!("maqet start {name}"))
}

/// Waits for a runner that is about to exit; one that does not is ended, so that it cannot touch the next launch.
pub(super) async fn see_off(runner: &maqet_process::pidfd::ProcessHandle, shared: &crate::shared::Shared) {
    match tokio::time::timeout(LEAVING_DEADLINE, runner.exited()).await {
        Ok(Ok(())) => launch::collect(runner, shared),
        Ok(Err(_)) | Err(_) => launch::end(runner, shared).await,
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The outcome of a start as that of the stop that cancelled it.
pub(super) fn was_cancelled(outcome: &Outcome) -> bool {
    matches!(outcome, Err(refusal) if refusal.code == RefusalCode::WrongState)
}
