//! Taking over a QEMU that outlived its runner, its supervisor, or both.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use maqet_process::pidfd::ProcessHandle;
use maqet_process::point::{Point, pass};
use maqet_protocol::endpoint::client::ReplyStream;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Adopt, Query, RunnerState, Running, Watch};
use maqet_state::change::Change;
use maqet_state::lifecycle::Fact;
use maqet_state::record::Launch;
use rand::RngExt;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::silence::{QUERY_DEADLINE, Silence, Who};
use super::start::see_off;
use super::{Live, VmActor};
use crate::launch::{GatedRunner, Processes, RunnerOrder, call, sweep};
use crate::link::RunnerLink;
use crate::messages::RecordStep;
use crate::recovery::Settled;
use crate::shared::Shared;

/// A new runner connects, checks, asks QEMU a handful of questions.
const ADOPT_DEADLINE: Duration = Duration::from_secs(30);

/// First pause before another attempt; each further one doubles it, up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A runner that took over.
struct Replacement {
    link: Rc<RunnerLink>,
    runner: ProcessHandle,
    running: Running,
    watch: ReplyStream<Watch>,
}

impl VmActor {
    /// Continues from what recovery found.
    pub(super) fn take_over(&mut self, settled: Settled, context: &mut Context<Self>) {
        self.resume_intended(context);
        match settled {
            Settled::Resting(_) if self.resume_removal(context) => {}
            Settled::Resting(_) => self.arm(context),
            Settled::Attached {
                running,
                link,
                runner,
                qemu,
                watch,
                ..
            } => {
                let Some(mut live) = self.live_of(link, qemu) else {
                    return;
                };
                live.runner = Some(runner);
                live.running = Some(*running);
                self.attach(live, *watch, context);
                self.confirm(context);
                self.resume_after_loss(context);
            }
            Settled::Frozen {
                link, runner, qemu, ..
            } => {
                let Some(mut live) = self.live_of(link, qemu) else {
                    return;
                };
                live.running = self.running_on_record();
                Self::watch_runner(&live.launch_id, &runner, context);
                let pid = runner.pid();
                live.runner = Some(runner);
                self.attach_without_stream(live, context);
                self.silent(Who::Runner, true, context);
                self.reconnect(pid, 0, context);
            }
            Settled::Orphaned { link, qemu, .. } => {
                let Some(mut live) = self.live_of(link, qemu) else {
                    return;
                };
                live.running = self.running_on_record();
                self.attach_without_stream(live, context);
                self.replace_runner(context);
            }
        }
    }

    fn live_of(&self, link: Rc<RunnerLink>, qemu: ProcessHandle) -> Option<Live> {
        let launch = self.record.state.launch()?;
        if let Some(qemu) = &launch.qemu {
            self.shared.confined.enter(qemu, &launch.helpers);
        }
        Some(Live {
            launch_id: launch.launch_id.clone(),
            generation: launch.generation,
            link,
            runner: None,
            qemu,
            running: None,
            silence: Silence::default(),
            troubles: BTreeMap::new(),
            losses: BTreeMap::new(),
            exit: None,
        })
    }

    fn running_on_record(&self) -> Option<Running> {
        let value = self.record.state.launch()?.running.clone()?;
        serde_json::from_value(value).ok()
    }

    /// What the runner said of a QEMU that was taken over goes on record.
    fn confirm(&mut self, context: &mut Context<Self>) {
        let Some(known) = self.live.as_ref().and_then(|live| live.running.as_ref()) else {
            return;
        };
        let running = serde_json::to_value(known).unwrap_or_default();
        let ports = known.ports.clone();
        if self
            .apply(Fact::Confirmed {
                generation: self.record.generation,
                running,
            })
            .is_ok()
        {
            let event = self.event("runner.adopted");
            let change = Change::update(self.record.clone()).event(event);
            let change = self.enter_ports(&ports, change);
            self.persist_later(change, context);
        }
        self.resume_disks(context);
    }

    /// The runner is gone and QEMU is not: a new one takes over.
    pub(super) fn replace_runner(&mut self, context: &mut Context<Self>) {
        if let Some(live) = &self.live {
            // Its parent was the runner; how it ends is now for us to collect.
            self.shared
                .reaper
                .await_by_owner(live.qemu.pid(), &self.record.id);
        }
        self.silent(Who::Runner, true, context);
        self.try_replacing(0, context);
        self.end_after_loss(context);
    }

    fn try_replacing(&mut self, attempt: u32, context: &mut Context<Self>) {
        let Some(live) = &self.live else { return };
        let Some(qemu) = self.record.state.launch().and_then(|launch| launch.qemu.clone()) else {
            return;
        };
        let launch_id = live.launch_id.clone();
        let adopt = Adopt {
            spec: self.record.spec_at_most(),
            qemu,
            helpers: self.helpers().to_vec(),
            log_dir: self.shared.places.vm_data(&self.record.id),
            log_bytes_max: self.shared.settings.logs.bytes_max,
            roots: self.shared.places.writable(&self.shared.settings.storage.roots),
            own: self.shared.places.own(),
        };
        let Ok(watched) = live.qemu.try_clone() else {
            return;
        };
        let work = replace(Replacing {
            turn: Arc::clone(&self.turn),
            watched,
            id: self.record.id.clone(),
            name: self.name().to_owned(),
            launch_id: launch_id.clone(),
            generation: live.generation,
            adopt,
            secret: Arc::clone(&self.secret),
            owner: context.address(),
            shared: Rc::clone(&self.shared),
        });
        let done = work.into_actor(self).map(move |result, actor, context| {
            actor.replaced(&launch_id, result, attempt, context);
        });
        context.spawn(done);
    }

    fn replaced(
        &mut self,
        launch_id: &str,
        result: Result<(Replacement, Turn), Refusal>,
        attempt: u32,
        context: &mut Context<Self>,
    ) {
        let Some(live) = self.live.as_mut().filter(|live| live.launch_id == launch_id) else {
            // QEMU ended meanwhile, which the new runner sees too.
            self.dismiss(result.ok());
            return;
        };
        match result {
            Ok((replacement, _turn)) => {
                Self::watch_runner(launch_id, &replacement.runner, context);
                live.link = replacement.link;
                live.runner = Some(replacement.runner);
                live.running = Some(replacement.running);
                Self::watch_silence(live, context);
                self.follow(replacement.watch, context);
                self.silent(Who::Qemu, false, context);
                self.silent(Who::Runner, false, context);
                self.confirm(context);
                self.resume_stop(context);
                // One that came too late for the stop that waited for it.
                self.end_after_loss(context);
            }
            Err(refusal) => {
                tracing::warn!(vm = self.name(), attempt, %refusal, causes = ?refusal.causes, "cannot adopt QEMU");
                let launch_id = launch_id.to_owned();
                context.run_later(pause(attempt), move |actor, context| {
                    actor.try_replacing_again(&launch_id, attempt, context);
                });
            }
        }
    }

    /// Sees off a new runner whose QEMU ended meanwhile.
    fn dismiss(&self, replacement: Option<(Replacement, Turn)>) {
        let Some((Replacement { runner, .. }, turn)) = replacement else {
            return;
        };
        let shared = Rc::clone(&self.shared);
        let runtime = shared.places.vm_runtime(&self.record.id);
        actix_rt::spawn(async move {
            see_off(&runner, &shared).await;
            sweep(&runtime);
            drop(turn);
        });
    }

    fn try_replacing_again(&mut self, launch_id: &str, attempt: u32, context: &mut Context<Self>) {
        let waiting = self.live.as_ref().is_some_and(|live| {
            live.launch_id == launch_id && live.runner.is_none() && !live.qemu.has_exited()
        });
        if waiting {
            self.try_replacing(attempt.saturating_add(1), context);
        }
    }

    /// A runner that lives and does not answer: it is asked again, ever more rarely, until it is replaced.
    fn reconnect(&mut self, pid: i32, attempt: u32, context: &mut Context<Self>) {
        let Some(live) = self.live.as_ref().filter(|_| self.has_runner(pid)) else {
            return;
        };
        let work = ask(Rc::clone(&live.link));
        let done = work.into_actor(self).map(move |result, actor, context| {
            if actor.has_runner(pid) {
                actor.reconnected(pid, result, attempt, context);
            }
        });
        context.spawn(done);
    }

    pub(super) fn has_runner(&self, pid: i32) -> bool {
        let runner = self.live.as_ref().and_then(|live| live.runner.as_ref());
        runner.is_some_and(|runner| runner.pid() == pid)
    }

    fn reconnected(
        &mut self,
        pid: i32,
        result: Result<(RunnerState, ReplyStream<Watch>), Refusal>,
        attempt: u32,
        context: &mut Context<Self>,
    ) {
        match result {
            Ok((state, watch)) if self.is_known_to_run(&state) => self.heard_again(state, watch, context),
            Err(refusal) if refusal.code == RefusalCode::AuthenticationFailed => {
                self.replace_stranger(context);
            }
            // One that was frozen in the middle of a start goes on with it first.
            Ok(_) | Err(_) => {
                self.beckon();
                context.run_later(pause(attempt), move |actor, context| {
                    actor.reconnect(pid, attempt.saturating_add(1), context);
                });
            }
        }
    }
}

impl VmActor {
    /// Whether its start is over, by the record or by what its runner says.
    fn is_known_to_run(&self, state: &RunnerState) -> bool {
        let confirmed = self.record.state.launch().is_some_and(Launch::is_confirmed);
        confirmed || state.running.is_some() || state.exit.is_some()
    }

    /// A runner that was frozen when this supervisor came says what it knows, and goes on with what was under way.
    fn heard_again(&mut self, state: RunnerState, watch: ReplyStream<Watch>, context: &mut Context<Self>) {
        self.follow(watch, context);
        self.silent(Who::Runner, false, context);
        if let Some(running) = state.running {
            if let Some(live) = &mut self.live {
                live.running = Some(running);
            }
            self.confirm(context);
        }
        match state.exit {
            Some(exit) => self.qemu_ended(exit, context),
            None => self.resume_after_loss(context),
        }
    }

    /// A runner that was told another secret serves nobody; once it is gone, its end brings a new one.
    fn replace_stranger(&mut self, context: &mut Context<Self>) {
        let runner = self.live.as_ref().and_then(|live| live.runner.as_ref());
        let Some(runner) = runner.and_then(|runner| runner.try_clone().ok()) else {
            return;
        };
        tracing::warn!(
            vm = self.name(),
            pid = runner.pid(),
            "replacing a runner with another secret"
        );
        let shared = Rc::clone(&self.shared);
        let ended = async move { crate::launch::end(&runner, &shared).await };
        context.spawn(ended.into_actor(self));
    }
}

/// The stream first, so that nothing is missed between the answer and the stream.
pub(crate) async fn ask(link: Rc<RunnerLink>) -> Result<(RunnerState, ReplyStream<Watch>), Refusal> {
    let watch = link.watch().await?;
    let state = link.call(&Query {}, QUERY_DEADLINE).await?;
    Ok((state, watch))
}

/// Exponential, with jitter, so that many VMs do not try at the same moment.
pub(crate) fn pause(attempt: u32) -> Duration {
    let full = RETRY_FIRST
        .saturating_mul(2_u32.saturating_pow(attempt.min(16)))
        .min(RETRY_MAX);
    full.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// While it is held, no other runner of the VM comes up and its directories stay.
pub(super) type Turn = OwnedMutexGuard<()>;

struct Replacing {
    turn: Arc<Mutex<()>>,
    watched: ProcessHandle,
    id: maqet_state::id::VmId,
    name: String,
    launch_id: String,
    generation: u64,
    adopt: Adopt,
    secret: Arc<maqet_state::secret::Secret>,
    owner: actix::Addr<VmActor>,
    shared: Rc<Shared>,
}

async fn replace(order: Replacing) -> Result<(Replacement, Turn), Refusal> {
    let turn = Arc::clone(&order.turn).lock_owned().await;
    let mut made = Processes::default();
    let result = spawn_and_adopt(&order, &mut made).await;
    if result.is_err() {
        made.collapse(&order.shared).await;
        // Nobody else is left to take the sockets of a QEMU that ended meanwhile away.
        if order.watched.has_exited() {
            sweep(&order.shared.places.vm_runtime(&order.id));
        }
    }
    Ok((result?, turn))
}

async fn spawn_and_adopt(order: &Replacing, made: &mut Processes) -> Result<Replacement, Refusal> {
    let runner = RunnerOrder {
        id: &order.id,
        name: &order.name,
        launch_id: &order.launch_id,
        generation: order.generation,
        shared: &order.shared,
        takes_over: true,
    };
    let gated = GatedRunner::spawn(&runner, made)?;
    pass(Point::AdopterSpawned);
    let step = RecordStep::RunnerReplaced(gated.identity.clone());
    match order.owner.send(step).await {
        Ok(result) => result?,
        Err(error) => return Err(super::busy().cause(error.to_string())),
    }
    pass(Point::AdopterRecorded);
    if order.watched.has_exited() {
        // Its end may be on record by now, and this runner with it not any more.
        let gone = "QEMU ended before a new runner could take it over";
        return Err(Refusal::new(RefusalCode::WrongState, gone));
    }
    let mut ready = gated.go(&order.secret).await?;
    pass(Point::AdopterReady);
    let watch = ready.link.watch().await?;
    let running = call(&mut ready.owner, &order.adopt, ADOPT_DEADLINE).await?;
    pass(Point::Adopted);
    ready.link.keep(ready.owner);
    Ok(Replacement {
        link: ready.link,
        runner: ready.handle,
        running,
        watch,
    })
}
