//! Which mail goes where.

use std::rc::Rc;
use std::time::Duration;

use actix::{ActorFutureExt, Context, Handler, MessageResult, ResponseActFuture, ResponseFuture, WrapFuture};
use maqet_process::point::{Point, pass};
use maqet_protocol::control::{Changed, QmpReturn, VmInfo, VmStatus};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::RunQmp as RunnerQmp;
use maqet_state::change::Change;
use maqet_state::lifecycle::{Command, Decision, Fact};

use super::VmActor;
use super::silence::probe;
use crate::link::RunnerLink;
use crate::messages::{
    DescribeVm, InfoVm, QemuExited, RecordStep, RemoveVm, RestartVm, RunQmp, RunnerExited, RunnerSaid,
    RunnerUnheard, StartVm, StopVm, Switch, SwitchVm,
};
use crate::operation::Accepted;
use crate::snapshots::torn;

/// QEMU throws a switch in well under a millisecond; one that does not answer by then is silent.
const SWITCH_DEADLINE_MS: u64 = 5_000;

/// Room for the wire beside the deadline QEMU is given.
const WIRE_MARGIN: Duration = Duration::from_secs(2);

impl Handler<StartVm> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, message: StartVm, context: &mut Context<Self>) -> Self::Result {
        self.start(message.key, context)
    }
}

impl Handler<StopVm> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, message: StopVm, context: &mut Context<Self>) -> Self::Result {
        self.stop(message, context)
    }
}

impl Handler<RestartVm> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, message: RestartVm, context: &mut Context<Self>) -> Self::Result {
        self.restart(message, context)
    }
}

impl Handler<RemoveVm> for VmActor {
    type Result = Result<Accepted, Refusal>;

    fn handle(&mut self, message: RemoveVm, context: &mut Context<Self>) -> Self::Result {
        self.remove(message, context)
    }
}

impl Handler<SwitchVm> for VmActor {
    type Result = ResponseFuture<Result<Changed, Refusal>>;

    fn handle(&mut self, SwitchVm(switch): SwitchVm, context: &mut Context<Self>) -> Self::Result {
        let command = match switch {
            Switch::Pause => Command::Pause,
            Switch::Resume => Command::Resume,
            Switch::Reset => Command::Reset,
        };
        let link = match self.link_for(command, context) {
            Ok(link) => link,
            Err(refusal) => return Box::pin(async { Err(refusal) }),
        };
        if let Some(snapshot) = self.record.load_cut_off().filter(|_| switch == Switch::Resume) {
            let refusal = torn(self.name(), snapshot);
            return Box::pin(async { Err(refusal) });
        }
        let (name, room) = (self.name().to_owned(), self.room_to_go_on());
        Box::pin(async move {
            if switch == Switch::Resume {
                room.await?;
            }
            throw(switch, name, &link).await
        })
    }
}

impl Handler<RunQmp> for VmActor {
    type Result = ResponseFuture<Result<QmpReturn, Refusal>>;

    fn handle(&mut self, message: RunQmp, context: &mut Context<Self>) -> Self::Result {
        let link = match self.link_for(Command::Qmp, context) {
            Ok(link) => link,
            Err(refusal) => return Box::pin(async { Err(refusal) }),
        };
        let name = self.name().to_owned();
        Box::pin(async move {
            let RunQmp {
                command,
                arguments,
                timeout_ms,
            } = message;
            let deadline = Duration::from_millis(timeout_ms) + WIRE_MARGIN;
            let result = link
                .call(
                    &RunnerQmp {
                        command,
                        arguments,
                        timeout_ms,
                    },
                    deadline,
                )
                .await;
            result.map_err(|refusal| refusal.vm(name))
        })
    }
}

impl VmActor {
    /// The way to a runner that may be asked this now.
    pub(super) fn link_for(
        &mut self,
        command: Command,
        context: &mut Context<Self>,
    ) -> Result<Rc<RunnerLink>, Refusal> {
        match self.meet(command, context) {
            Decision::Deny(denial) => return Err(self.deny(denial)),
            Decision::Do(_) | Decision::Join | Decision::AlreadyDone => {}
        }
        self.link()
    }

    /// The way to the runner of a VM that runs.
    pub(super) fn link(&self) -> Result<Rc<RunnerLink>, Refusal> {
        self.live
            .as_ref()
            .map(|live| Rc::clone(&live.link))
            .ok_or_else(|| {
                Refusal::new(
                    RefusalCode::NotAnswering,
                    format!("cannot reach QEMU of `{}`", self.name()),
                )
                .vm(self.name())
                .hint(format!("maqet status {}", self.name()))
            })
    }
}

/// One switch, and what QEMU says of itself before and after.
async fn throw(switch: Switch, name: String, link: &RunnerLink) -> Result<Changed, Refusal> {
    let named = |refusal: Refusal| refusal.vm(&name);
    let before = run_state(link).await.map_err(named)?;
    let (command, already) = match switch {
        // One that waits for room rests already, but would go on by itself.
        Switch::Pause => ("stop", !matches!(&*before, "running" | "io-error")),
        Switch::Resume => ("cont", before == "running"),
        Switch::Reset => ("system_reset", false),
    };
    if !already {
        qmp(link, command).await.map_err(named)?;
    }
    let run_state = Some(run_state(link).await.map_err(named)?);
    Ok(Changed {
        vm: name,
        already,
        run_state,
    })
}

async fn run_state(link: &RunnerLink) -> Result<String, Refusal> {
    let status = qmp(link, "query-status").await?;
    let text = status.get("status").and_then(serde_json::Value::as_str);
    text.map(ToOwned::to_owned)
        .ok_or_else(|| Refusal::new(RefusalCode::QmpFailed, "QEMU told no status").cause(status.to_string()))
}

async fn qmp(link: &RunnerLink, command: &str) -> Result<serde_json::Value, Refusal> {
    let command = RunnerQmp {
        command: command.to_owned(),
        arguments: None,
        timeout_ms: SWITCH_DEADLINE_MS,
    };
    let deadline = Duration::from_millis(SWITCH_DEADLINE_MS) + WIRE_MARGIN;
    link.call(&command, deadline).await.map(|reply| reply.value)
}

impl Handler<DescribeVm> for VmActor {
    type Result = ResponseActFuture<Self, VmStatus>;

    /// Other mail is read while QEMU is asked for a sign of life.
    fn handle(&mut self, _message: DescribeVm, _context: &mut Context<Self>) -> Self::Result {
        let (link, shared, id) = (self.probed(), Rc::clone(&self.shared), self.record.id.clone());
        let looked = async move {
            let probed = match link {
                Some(link) => probe(&link).await,
                None => Ok(()),
            };
            shared.board.settled_of(&id).await;
            probed
        };
        Box::pin(looked.into_actor(self).map(|probed, actor, context| {
            actor.probe_ended(probed, context);
            actor.describe()
        }))
    }
}

impl Handler<InfoVm> for VmActor {
    type Result = MessageResult<InfoVm>;

    fn handle(&mut self, _message: InfoVm, _context: &mut Context<Self>) -> Self::Result {
        pass(Point::InfoAsked);
        MessageResult(VmInfo {
            id: self.record.id.clone(),
            spec: self.record.spec.clone(),
        })
    }
}

impl Handler<RecordStep> for VmActor {
    type Result = ResponseFuture<Result<(), Refusal>>;

    fn handle(&mut self, step: RecordStep, _context: &mut Context<Self>) -> Self::Result {
        match self.change_of(step) {
            Ok(change) => Box::pin(self.persist(change)),
            Err(refusal) => Box::pin(async { Err(refusal) }),
        }
    }
}

impl VmActor {
    fn change_of(&mut self, step: RecordStep) -> Result<Change, Refusal> {
        let entered;
        let fact = match step {
            RecordStep::Launching(launch) => {
                let entered = self.enter_launch(&launch, Change::default());
                self.apply(Fact::Launching(launch))?;
                let mut event = self
                    .event("vm.starting")
                    .with("generation", self.record.generation);
                if let Some(by) = self.work.as_ref().map(|work| work.by) {
                    self.count(by);
                    event = event.with("by", by.as_str());
                }
                let upsert = Some(self.record.clone());
                return Ok(Change { upsert, ..entered }.event(event));
            }
            RecordStep::MakingFile { path, file } => return Ok(self.making_file(&path, file)),
            RecordStep::FileNotMade(path) => return Ok(self.file_not_made(&path)),
            RecordStep::FileMade(path) => return Ok(self.file_made(&path)),
            RecordStep::DiskChecked { disk, leaks } => {
                let event = self.event("vm.disk-checked").with("disk", disk);
                return Ok(Change::default().event(event.with("leaks", leaks)));
            }
            RecordStep::DiskDamaged { disk, path, found } => return Ok(self.disk_damaged(&disk, path, found)),
            RecordStep::QemuRecorded {
                qemu,
                ports,
                files,
                helpers,
            } => {
                self.files_used(files);
                self.shared.confined.enter(&qemu, &helpers);
                entered = self.enter_qemu((&qemu, &helpers), &ports, Change::default());
                Fact::QemuRecorded { qemu, helpers }
            }
            RecordStep::RunnerReplaced(runner) => {
                entered = self.enter_runner(&runner, Change::default());
                Fact::RunnerReplaced { runner }
            }
        };
        self.apply(fact)?;
        let upsert = Some(self.record.clone());
        Ok(Change { upsert, ..entered })
    }
}

impl Handler<RunnerSaid> for VmActor {
    type Result = ();

    fn handle(&mut self, message: RunnerSaid, context: &mut Context<Self>) {
        self.runner_said(message, context);
    }
}

impl Handler<RunnerExited> for VmActor {
    type Result = ();

    fn handle(&mut self, message: RunnerExited, context: &mut Context<Self>) {
        self.runner_exited(&message, context);
    }
}

impl Handler<RunnerUnheard> for VmActor {
    type Result = ();

    fn handle(&mut self, message: RunnerUnheard, context: &mut Context<Self>) {
        self.runner_unheard(&message, context);
    }
}

impl Handler<QemuExited> for VmActor {
    type Result = ();

    fn handle(&mut self, message: QemuExited, context: &mut Context<Self>) {
        self.qemu_exited(message, context);
    }
}
