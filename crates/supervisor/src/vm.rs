//! One actor per VM: the only writer of its record, its state machine, and its way to the runner.
//!
//! Every handler follows the same order: decide (pure), persist, act, publish. Nothing here waits for a guest; work that
//! takes time is an [`Operation`] whose future runs beside the mailbox.

mod adopt;
mod attach;
mod contained;
mod disks;
mod early;
mod external;
mod facts;
mod holdings;
mod loss;
mod mail;
mod maintain;
mod news;
mod parked;
mod plug;
mod removal;
mod remove;
mod shares;
mod silence;
mod snapshot;
mod start;
mod stop;
mod tally;
mod troubles;
mod undo;
mod unfinished;
mod upkeep;
mod view;
mod walk;

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext, Context, SpawnHandle, WrapFuture};
use maqet_process::pidfd::ProcessHandle;
use maqet_protocol::control::{DiskTrouble, ShareLoss};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::Running;
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::id::VmId;
use maqet_state::journal::NewEvent;
use maqet_state::lifecycle::{
    Activity, Command, Decision, Denial, DenialKind, Fact, ImpossibleFact, LastExit, decide,
};
use maqet_state::record::VmRecord;
use maqet_state::secret::Secret;
use maqet_storage::meter;
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};

pub(crate) use self::adopt::pause;
pub(crate) use self::attach::tie;
pub(crate) use self::news::end_of;
pub(crate) use self::upkeep::follows;
use crate::link::RunnerLink;
use crate::messages::{Keep, Persist};
use crate::operation::{Accepted, Operation};
use crate::panics::Panicked;
use crate::recovery::Settled;
use crate::shared::Shared;

/// Commands and facts that may wait for one VM; more is answered *busy*.
const MAILBOX_CAPACITY: usize = 256;

/// Owner of one VM.
#[derive(Debug)]
pub(crate) struct VmActor {
    shared: Rc<Shared>,
    secret: Arc<Secret>,
    record: VmRecord,
    activity: Activity,
    work: Option<Work>,
    live: Option<Live>,
    /// A stop that waits for a lost runner to be replaced.
    parked: Option<stop::StopOrder>,
    /// A runner that has told its QEMU's end and is about to exit; the next launch waits for that.
    leaving: Option<ProcessHandle>,
    /// What is in the ledger.
    tally: tally::Tally,
    /// The restart that is due.
    due: Option<SpawnHandle>,
    /// Held by whoever has to do with a runner that is not `live`: one after the other has the runtime directory.
    turn: Arc<Mutex<()>>,
    /// How far the last work on its disks is or was; it has ended when nobody tells any more.
    progress: Option<watch::Receiver<meter::Progress>>,
    /// Work on snapshots that was cut off is being settled, without anybody having asked.
    settles: bool,
    /// The launch whose runner was lost while something was being done that does not end it.
    bereaved: Option<u64>,
    /// A runner has taken over, or answers again: for whoever waits to tell it something once more.
    heard: Rc<Notify>,
    /// What is about to go into the journal.
    untold: troubles::Untold,
    /// How recovery found it; taken when the actor starts.
    settled: Option<Settled>,
}

/// The operation under way.
#[derive(Debug)]
struct Work {
    operation: Operation,
    /// Gives up a start.
    cancel: Rc<Notify>,
    /// What goes on after a stop.
    then: Then,
    /// Who starts it, if it is a start.
    by: StartBy,
}

/// Who starts a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StartBy {
    /// A person.
    Person,
    /// Its restart policy, after an end.
    Policy,
    /// The supervisor's own start, because it is enabled.
    Autostart,
}

impl StartBy {
    /// The word in the journal.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Person => "command",
            Self::Policy => "policy",
            Self::Autostart => "autostart",
        }
    }
}

/// What goes on after a stop.
#[derive(Debug, Default)]
enum Then {
    /// Nothing.
    #[default]
    Rest,
    /// A start, for a restart.
    Launch,
    /// The removal.
    Forget(remove::RemoveOrder),
}

/// A QEMU that runs, and what is known of it.
#[derive(Debug)]
struct Live {
    launch_id: String,
    generation: u64,
    link: Rc<RunnerLink>,
    /// `None` while a lost runner is being replaced.
    runner: Option<ProcessHandle>,
    qemu: ProcessHandle,
    running: Option<Running>,
    silence: silence::Silence,
    /// What is wrong with its disks.
    troubles: BTreeMap<String, DiskTrouble>,
    /// Its shares that are lost.
    losses: BTreeMap<String, ShareLoss>,
    /// The runner told how QEMU ended.
    exit: Option<LastExit>,
}

/// An actor that is gone.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// Whose it was.
    pub(crate) id: VmId,
    /// The panic that ended it, if one did.
    pub(crate) panicked: Option<Panicked>,
}

/// Tells when an actor is gone, however it went.
#[derive(Debug)]
pub(crate) struct Guard {
    lost: Lost,
    gone: mpsc::UnboundedSender<Lost>,
}

impl Guard {
    /// A guard for the actor of `id`.
    pub(crate) fn new(id: VmId, gone: mpsc::UnboundedSender<Lost>) -> Self {
        let lost = Lost { id, panicked: None };
        Self { lost, gone }
    }

    /// It panicked.
    fn panicked(&mut self, panicked: Panicked) {
        self.lost.panicked = Some(panicked);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody listens only when the supervisor itself is ending.
        drop(self.gone.send(self.lost.clone()));
    }
}

impl VmActor {
    /// Starts the owner of a VM as recovery (or `add`) found it.
    pub(crate) fn own(settled: Settled, secret: Arc<Secret>, shared: Rc<Shared>, guard: Guard) -> Addr<Self> {
        let record = settled.record().clone();
        let tally = tally::Tally::of(&record);
        let actor = Self {
            shared,
            secret,
            record,
            activity: Activity::Idle,
            work: None,
            live: None,
            parked: None,
            leaving: None,
            tally,
            due: None,
            turn: Arc::default(),
            progress: None,
            settles: false,
            bereaved: None,
            heard: Rc::default(),
            untold: troubles::Untold::default(),
            settled: Some(settled),
        };
        contained::start(actor, guard)
    }

    fn name(&self) -> &str {
        self.record.name()
    }

    fn decide(&self, command: Command) -> Decision {
        decide(self.record.view(self.activity), command)
    }

    fn deny(&self, denial: Denial) -> Refusal {
        let code = match denial.kind() {
            DenialKind::WrongState => RefusalCode::WrongState,
            DenialKind::Busy => RefusalCode::Busy,
        };
        let state = self.record.state.shown(self.activity).as_str();
        Refusal::new(code, denial.message(self.name()))
            .vm(self.name())
            .state(state)
            .hint(denial.hint(self.name()))
    }

    /// Whether an end of QEMU is recorded as soon as it is known: no operation that is under way does so itself.
    const fn records_ends(&self) -> bool {
        matches!(
            self.activity,
            Activity::Idle | Activity::Snapshotting | Activity::Maintaining
        )
    }

    /// Begins an operation; its future runs beside the mailbox. One that the table lets it come before is over.
    fn begin(&mut self, activity: Activity) -> Accepted {
        if let Some(work) = self.work.take() {
            work.operation.finish(Err(self.cut_short()));
        }
        let operation = Operation::new(self.name());
        let accepted = operation.follow();
        self.activity = activity;
        self.settles = false;
        self.work = Some(Work {
            operation,
            cancel: Rc::new(Notify::new()),
            then: Then::Rest,
            by: StartBy::Person,
        });
        self.show();
        accepted
    }

    /// The answer of an operation in whose place another one came.
    fn cut_short(&self) -> Refusal {
        let message = format!(
            "what was under way with `{}` was cut short by another command, and may be done or not",
            self.name()
        );
        Refusal::new(RefusalCode::Busy, message)
            .vm(self.name())
            .hint(format!("maqet why {}", self.name()))
    }

    /// Shares the operation under way.
    fn join(&self) -> Option<Accepted> {
        self.work.as_ref().map(|work| work.operation.follow())
    }

    /// Ends the operation under way.
    fn finish(&mut self, outcome: crate::operation::Outcome) {
        self.activity = Activity::Idle;
        self.show();
        if let Some(work) = self.work.take() {
            work.operation.finish(outcome);
        }
    }

    /// Applies a fact to the record in memory; what [`Self::persist`] then writes is in the same order.
    fn apply(&mut self, fact: Fact) -> Result<(), Refusal> {
        self.become_next(self.record.apply(fact, clock::now()))
    }

    fn become_next(&mut self, next: Result<VmRecord, ImpossibleFact>) -> Result<(), Refusal> {
        match next {
            Ok(record) => {
                self.record = record;
                self.show();
                Ok(())
            }
            Err(error) => {
                tracing::error!(vm = self.name(), %error, "a fact does not fit the record");
                let refusal = Refusal::new(RefusalCode::Internal, "the VM's record does not allow this step");
                Err(refusal.vm(self.name()).cause(error.to_string()))
            }
        }
    }

    fn event(&self, kind: &str) -> NewEvent {
        NewEvent::new(kind, clock::now()).about(&self.record)
    }

    /// Queues a change, in the order of calls; the future ends when it is durable.
    fn persist(&self, change: Change) -> impl Future<Output = Result<(), Refusal>> + 'static {
        self.tell_untold();
        let (done, durable) = oneshot::channel();
        let queued = self.shared.state.try_send(Persist {
            change: Box::new(change),
            done,
        });
        durable_of(queued.map_err(|error| error.to_string()), durable)
    }

    /// Queues a fact, in one order with [`Self::persist`]. The future ends when it is durable, or with a refusal when
    /// the store keeps it in memory for now.
    fn persist_fact(&self, change: Change) -> impl Future<Output = Result<(), Refusal>> + 'static {
        self.tell_untold();
        self.keep_fact(change)
    }

    /// An entry of the journal that is being completed comes before whatever is queued next, as far as it is.
    fn tell_untold(&self) {
        if let Some(event) = self.untold.take() {
            // The store tells of changes that it cannot keep.
            drop(self.keep_fact(Change::default().event(event)));
        }
    }

    fn keep_fact(&self, change: Change) -> impl Future<Output = Result<(), Refusal>> + 'static {
        let (done, durable) = oneshot::channel();
        let queued = self.shared.state.try_send(Keep {
            change: Box::new(change),
            done,
        });
        durable_of(queued.map_err(|error| error.to_string()), durable)
    }

    /// Queues a fact nobody waits for.
    fn persist_later(&self, change: Change, context: &mut Context<Self>) {
        let durable = self.persist_fact(change);
        let logged = async move {
            if let Err(refusal) = durable.await {
                tracing::warn!(%refusal, causes = ?refusal.causes, "a change is not durable yet");
            }
        };
        context.spawn(logged.into_actor(self));
    }
}

async fn durable_of(
    queued: Result<(), String>,
    durable: oneshot::Receiver<Result<(), Refusal>>,
) -> Result<(), Refusal> {
    queued.map_err(|error| busy().cause(error))?;
    durable
        .await
        .unwrap_or_else(|_lost| Err(busy().cause("the state actor is gone")))
}

fn busy() -> Refusal {
    Refusal::new(RefusalCode::Busy, "too much is waiting to be written").hint("try again")
}

impl Actor for VmActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_CAPACITY);
        if let Some(settled) = self.settled.take() {
            self.take_over(settled, context);
        }
        if self.live.is_none() {
            // Of the actor before this one, if that panicked.
            self.shared.board.ended(&self.record.id);
        }
        self.show();
    }
}

/// Makes an actor panic, as a defect in a handler would.
#[cfg(test)]
#[derive(Debug, actix::Message)]
#[rtype(result = "()")]
pub(crate) struct Panic;

#[cfg(test)]
impl actix::Handler<Panic> for VmActor {
    type Result = ();

    fn handle(&mut self, _message: Panic, _context: &mut Self::Context) {
        panic!("a defect, on purpose");
    }
}

#[cfg(test)]
mod tests;
