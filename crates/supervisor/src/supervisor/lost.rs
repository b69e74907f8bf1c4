//! An actor that was lost: it alone is made again, from the store and from what lives.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::journal::NewEvent;
use maqet_state::lifecycle::Activity;
use maqet_state::record::VmRecord;
use maqet_state::secret::Secret;
use tokio::sync::oneshot;

use super::{SupervisorActor, rebuild};
use crate::messages::{Keep, LoadVm, VmActorGone};
use crate::recovery::Settled;
use crate::shared::Shared;
use crate::vm::{Lost, pause};

/// An actor that lived this long after the last loss is a sound one.
const SOUND: Duration = Duration::from_mins(1);

/// How often a VM's actor was lost of late.
#[derive(Debug, Default)]
pub(super) struct Losses {
    count: u32,
    last: Option<Instant>,
}

impl Losses {
    /// Once more: the pause before the next attempt. The first comes at once; a defect that comes back every time must
    /// not keep everybody else busy.
    fn once_more(&mut self, now: Instant) -> Duration {
        let sound = |last: Instant| now.duration_since(last) > SOUND;
        if self.last.is_some_and(sound) {
            self.count = 0;
        }
        self.last = Some(now);
        let before = self.count;
        self.count = before.saturating_add(1);
        before.checked_sub(1).map(pause).unwrap_or_default()
    }
}

type Rebuilt = Option<(Settled, Arc<Secret>)>;

impl Handler<VmActorGone> for SupervisorActor {
    type Result = ();

    /// An actor that ended without being forgotten has panicked: it alone is rebuilt from the store.
    fn handle(&mut self, VmActorGone(lost): VmActorGone, context: &mut Self::Context) {
        self.replace_lost(lost, context);
    }
}

impl SupervisorActor {
    fn replace_lost(&mut self, lost: Lost, context: &mut Context<Self>) {
        if self.ending || !self.vms.contains_key(&lost.id) {
            return;
        }
        let losses = self.losses.entry(lost.id.clone()).or_default();
        let pause = losses.once_more(Instant::now());
        tracing::error!(
            ?lost,
            ?pause,
            "a VM's actor is gone; rebuilding it from the store"
        );
        context.run_later(pause, move |actor, context| {
            let shared = Rc::clone(&actor.shared);
            let rebuilding = attempt(lost.clone(), shared).into_actor(actor);
            context.spawn(
                rebuilding.map(move |rebuilt, actor, context| actor.take_back(lost, rebuilt, context)),
            );
        });
    }

    fn take_back(&mut self, lost: Lost, rebuilt: Result<Rebuilt, Refusal>, context: &mut Context<Self>) {
        match rebuilt {
            Ok(Some((settled, secret))) => self.own(settled, secret),
            // It was lost when its record had gone.
            Ok(None) => {
                self.shared.board.clear(&lost.id);
                self.forget(&lost.id);
            }
            Err(refusal) => {
                tracing::error!(id = %lost.id, %refusal, causes = ?refusal.causes, "a VM's actor cannot be rebuilt yet");
                self.replace_lost(lost, context);
            }
        }
    }
}

/// On a task of its own: the defect may be one that settling meets, too.
async fn attempt(lost: Lost, shared: Rc<Shared>) -> Result<Rebuilt, Refusal> {
    actix_rt::spawn(made_again(lost, shared))
        .await
        .unwrap_or_else(|panic| {
            let what = "settling the VM ended unexpectedly";
            Err(Refusal::new(RefusalCode::Internal, what).cause(panic.to_string()))
        })
}

async fn made_again(lost: Lost, shared: Rc<Shared>) -> Result<Rebuilt, Refusal> {
    let gone = |error: actix::MailboxError| {
        Refusal::new(RefusalCode::StoreFailed, "the state actor is gone").cause(error.to_string())
    };
    let Some(recorded) = shared.state.send(LoadVm(lost.id.clone())).await.map_err(gone)?? else {
        return Ok(None);
    };
    tell(&recorded.record, &lost, &shared);
    let (settled, secret) = rebuild(recorded, &shared).await;
    crate::ledger::put_in_order(&[settled.record()], &shared).await;
    shared.reaper.inherited(&lost.id, &settled.pids());
    Ok(Some((settled, secret)))
}

/// Puts the loss into the journal, before whatever follows from it.
fn tell(record: &VmRecord, lost: &Lost, shared: &Shared) {
    let mut event = NewEvent::new("vm.rebuilt", clock::now()).about(record);
    let during = shared.board.activity(&lost.id);
    if let Some(during) = during.filter(|activity| *activity != Activity::Idle) {
        event = event.with("during", during.as_str());
    }
    if let Some(panicked) = &lost.panicked {
        event = event.with("panic", panicked.words.clone());
        event = event.with("place", panicked.place.clone());
    }
    let (done, _nobody_waits) = oneshot::channel();
    let change = Box::new(Change::default().event(event));
    if let Err(error) = shared.state.try_send(Keep { change, done }) {
        tracing::error!(%error, "the journal does not tell that a VM's actor was rebuilt");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Losses, SOUND};

    #[test]
    fn the_first_loss_costs_no_time_and_the_next_ones_ever_more() {
        let begun = Instant::now();
        let mut losses = Losses::default();
        let pauses = [(); 20].map(|()| losses.once_more(begun));
        assert_eq!(pauses[0], Duration::ZERO);
        assert!((Duration::from_millis(100)..Duration::from_millis(200)).contains(&pauses[1]));
        assert!(pauses[19] >= Duration::from_secs(15) && pauses[19] <= Duration::from_secs(30));
        assert_eq!(losses.once_more(begun + SOUND * 2), Duration::ZERO);
    }
}
