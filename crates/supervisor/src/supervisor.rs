//! The root actor: who is who, who is new, who is gone, and when it all ends.

mod find;
mod lost;
mod status;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseActFuture,
    ResponseFuture, WrapFuture,
};
use maqet_protocol::control::{Added, LeakReport, Listed, Orphans};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_state::clock::{self, Timestamp};
use maqet_state::id::VmId;
use maqet_state::journal::NewEvent;
use maqet_state::ledger::LedgerEdit;
use maqet_state::record::VmRecord;
use maqet_state::secret::Secret;
use tokio::sync::{Notify, mpsc, oneshot};

use self::lost::Losses;
use crate::autostart;
use crate::ledger::Lines;
use crate::messages::{
    AddVm, Beckon, Keep, ListVms, LookForLeaks, LookForOrphans, Owners, Persist, Shutdown, StartEnabled,
    StopBy, StopVm, VmActorGone, VmForgotten,
};
use crate::recovery::{Recorded, Settled};
use crate::settings::OnExit;
use crate::shared::Shared;
use crate::vm::{Guard, Lost, VmActor};

/// Calls of clients that may wait.
const MAILBOX_CAPACITY: usize = 1024;

/// The root actor.
#[derive(Debug)]
pub(crate) struct SupervisorActor {
    shared: Rc<Shared>,
    vms: BTreeMap<VmId, Entry>,
    names: BTreeMap<String, VmId>,
    gone: mpsc::UnboundedSender<Lost>,
    /// VMs whose actors were lost.
    losses: BTreeMap<VmId, Losses>,
    since: Timestamp,
    ended: Rc<Notify>,
    ending: bool,
}

#[derive(Debug)]
struct Entry {
    name: String,
    vm: Addr<VmActor>,
}

impl SupervisorActor {
    /// A root actor that owns what recovery settled. `gone` is where guards tell of lost actors; `ended` is told when
    /// the supervisor may exit.
    pub(crate) fn new(
        settled: Vec<(Settled, Arc<Secret>)>,
        shared: Rc<Shared>,
        gone: mpsc::UnboundedSender<Lost>,
        ended: Rc<Notify>,
    ) -> Self {
        let mut actor = Self {
            shared,
            vms: BTreeMap::new(),
            names: BTreeMap::new(),
            gone,
            losses: BTreeMap::new(),
            since: clock::now(),
            ended,
            ending: false,
        };
        for (settled, secret) in settled {
            actor.own(settled, secret);
        }
        actor
    }

    /// Starts the owner of a VM.
    fn own(&mut self, settled: Settled, secret: Arc<Secret>) {
        let (id, name) = (settled.record().id.clone(), settled.record().name().to_owned());
        let guard = Guard::new(id.clone(), self.gone.clone());
        let vm = VmActor::own(settled, secret, Rc::clone(&self.shared), guard);
        self.names.insert(name.clone(), id.clone());
        self.vms.insert(id, Entry { name, vm });
    }

    /// A VM is no more.
    fn forget(&mut self, id: &VmId) {
        self.losses.remove(id);
        if let Some(entry) = self.vms.remove(id)
            && self.names.get(&entry.name) == Some(id)
        {
            self.names.remove(&entry.name);
        }
    }

    /// Has every lost actor rebuilt, for as long as there are guards.
    pub(crate) async fn hear_of_lost(mut gone: mpsc::UnboundedReceiver<Lost>, supervisor: Addr<Self>) {
        while let Some(lost) = gone.recv().await {
            Self::tell(Some(supervisor.clone()), VmActorGone(lost)).await;
        }
    }

    /// Sends mail to the root actor from a task of its own; nobody waits for the answer.
    pub(crate) async fn tell<M>(supervisor: Option<Addr<Self>>, message: M)
    where
        Self: Handler<M>,
        M: actix::Message<Result = ()> + Send + 'static,
    {
        if let Some(supervisor) = supervisor
            && let Err(error) = supervisor.send(message).await
        {
            tracing::error!(%error, "the supervisor actor does not take mail");
        }
    }
}

impl Actor for SupervisorActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_CAPACITY);
        self.shared.supervisor.replace(Some(context.address()));
    }
}

impl Handler<AddVm> for SupervisorActor {
    type Result = ResponseActFuture<Self, Result<Added, Refusal>>;

    fn handle(&mut self, AddVm { spec, key }: AddVm, _context: &mut Self::Context) -> Self::Result {
        let shared = Rc::clone(&self.shared);
        let adding = async move {
            crate::admission::check_new(&spec, &shared).await?;
            let record = VmRecord::new(VmId::random(), *spec, clock::now());
            let secret = Secret::random().map_err(|error| {
                Refusal::new(RefusalCode::Internal, "no secret can be made").cause(error.to_string())
            })?;
            let added = Added {
                id: record.id.clone(),
                name: record.name().to_owned(),
            };
            let event = NewEvent::new("vm.added", clock::now()).about(&record);
            let lines = Lines {
                id: &record.id,
                places: &shared.places,
                at: record.created_at,
            };
            let mut change = Change::create(record.clone(), secret.clone()).event(event);
            change.ledger.extend(lines.directories().map(LedgerEdit::Enter));
            if let Some(key) = key {
                change = change.answering(key, serde_json::to_value(&added).unwrap_or_default());
            }
            let (done, durable) = oneshot::channel();
            let sent = shared
                .state
                .send(Persist {
                    change: Box::new(change),
                    done,
                })
                .await;
            let durable = async { durable.await.unwrap_or_else(|_lost| Err(unreachable_store())) };
            sent.map_err(|_closed| unreachable_store())?;
            durable.await?;
            Ok((record, secret, added))
        };
        Box::pin(adding.into_actor(self).map(|result, actor, _context| {
            let (record, secret, added) = result?;
            actor.own(Settled::Resting(Box::new(record)), Arc::new(secret));
            Ok(added)
        }))
    }
}

fn unreachable_store() -> Refusal {
    Refusal::new(RefusalCode::StoreFailed, "the state actor is gone").hint("look at the supervisor's log")
}

impl Handler<ListVms> for SupervisorActor {
    type Result = ResponseFuture<Listed>;

    fn handle(&mut self, message: ListVms, _context: &mut Self::Context) -> Self::Result {
        let shared = Rc::clone(&self.shared);
        Box::pin(async move {
            shared.board.settled().await;
            Listed {
                vms: shared.board.lines(message.status),
            }
        })
    }
}

impl Handler<Owners> for SupervisorActor {
    type Result = MessageResult<Owners>;

    fn handle(&mut self, _message: Owners, _context: &mut Self::Context) -> Self::Result {
        let owners = self
            .vms
            .iter()
            .map(|(id, entry)| (id.clone(), entry.name.clone(), entry.vm.clone()));
        MessageResult(owners.collect())
    }
}

impl Handler<LookForLeaks> for SupervisorActor {
    type Result = ResponseFuture<Result<LeakReport, Refusal>>;

    fn handle(&mut self, LookForLeaks(order): LookForLeaks, context: &mut Self::Context) -> Self::Result {
        Box::pin(crate::leaks::answer(
            order,
            context.address(),
            Rc::clone(&self.shared),
        ))
    }
}

impl Handler<LookForOrphans> for SupervisorActor {
    type Result = ResponseFuture<Result<Orphans, Refusal>>;

    fn handle(&mut self, _message: LookForOrphans, _context: &mut Self::Context) -> Self::Result {
        Box::pin(crate::inventory::answer(Rc::clone(&self.shared)))
    }
}

impl Handler<VmForgotten> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, VmForgotten(id): VmForgotten, _context: &mut Self::Context) {
        self.forget(&id);
    }
}

/// Settles one VM and makes what was found durable.
pub(crate) async fn rebuild(recorded: Recorded, shared: &Rc<Shared>) -> (Settled, Arc<Secret>) {
    let secret = Arc::clone(&recorded.secret);
    let before = recorded.record.status();
    let settled = recorded.settle(shared).await;
    let record = settled.record();
    if record.state.launch().is_none() {
        // Whoever listened on them has ended, perhaps without the time to take them away.
        crate::launch::sweep(&shared.places.vm_runtime(&record.id));
    }
    if record.status() != before {
        let event = crate::vm::end_of(record, clock::now()).with("found_by", "recovery");
        let follows = crate::vm::follows(record, clock::now());
        let (done, durable) = oneshot::channel();
        let mut change = Change::update(record.clone()).event(event);
        change.events.extend(follows);
        let change = Box::new(change);
        let sent = shared.state.send(Keep { change, done }).await.is_ok();
        let durable = durable.await;
        if !sent || !matches!(durable, Ok(Ok(()))) {
            tracing::error!(
                vm = record.name(),
                ?durable,
                "what recovery found is not durable yet"
            );
        }
    }
    (settled, secret)
}

impl Handler<StartEnabled> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, _message: StartEnabled, context: &mut Self::Context) {
        let lines = self.shared.board.lines(None);
        let enabled = lines.into_iter().filter_map(|line| {
            let place = line.autostart?;
            Some((place, self.vms.get(&line.id)?.vm.clone()))
        });
        context.spawn(autostart::start_in_order(enabled.collect()).into_actor(self));
    }
}

impl Handler<Beckon> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, beckon: Beckon, context: &mut Self::Context) {
        let told = futures_util::future::join_all(self.vms.values().map(|owned| owned.vm.send(beckon)));
        let told = async move {
            let unheard = told.await.into_iter().filter(Result::is_err).count();
            tracing::debug!(unheard, "VMs were told that the runtime directory is new");
        };
        context.spawn(told.into_actor(self));
    }
}

impl Handler<Shutdown> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, Shutdown { keep_vms }: Shutdown, context: &mut Self::Context) {
        if std::mem::replace(&mut self.ending, true) {
            // Asked twice: whoever asks again does not want to wait.
            return self.ended.notify_one();
        }
        if keep_vms || self.shared.settings.on_exit == OnExit::Keep {
            return self.ended.notify_one();
        }
        let stops = self
            .vms
            .values()
            .map(|entry| stop_one(entry.name.clone(), entry.vm.clone()));
        let all = futures_util::future::join_all(stops.collect::<Vec<_>>());
        let ended = Rc::clone(&self.ended);
        context.spawn(
            all.into_actor(self)
                .map(move |_done, _actor, _context| ended.notify_one()),
        );
    }
}

async fn stop_one(name: String, vm: Addr<VmActor>) {
    let outcome = match vm
        .send(StopVm {
            timeout_ms: None,
            force: false,
            key: None,
            by: StopBy::Exit,
        })
        .await
    {
        Ok(Ok(accepted)) => accepted.outcome().await.map(|_done| ()),
        Ok(Err(refusal)) => Err(refusal),
        Err(_closed) => return,
    };
    if let Err(refusal) = outcome {
        tracing::error!(vm = name, %refusal, "not stopped at exit");
    }
}

#[cfg(test)]
mod tests;
