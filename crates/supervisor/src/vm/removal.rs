//! A removal on record: durable before the first image goes, gone on with after whatever cut it off, and told until it is done.

use std::path::{Path, PathBuf};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use maqet_process::point::{Point, pass};
use maqet_protocol::control::RemovalStatus;
use maqet_protocol::refusal::Refusal;
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::lifecycle::Activity;
use maqet_state::removal::Removal;
use serde_json::Value;

use super::VmActor;
use super::adopt::Turn;
use super::maintain::Working;
use super::remove::RemoveOrder;
use crate::deletion::{Plan, missing};
use crate::messages::RemoveVm;
use crate::operation::Accepted;

/// Why a removal stopped on its way.
#[derive(Debug)]
pub(super) struct Stuck {
    refusal: Refusal,
    /// Images on record of the removal that are gone; `None` when nobody could look.
    gone: Option<Vec<PathBuf>>,
}

impl Stuck {
    /// Nothing was deleted this time.
    pub(super) fn before(refusal: Refusal, plan: &Plan) -> Self {
        let gone = Some(plan.gone().to_vec());
        Self { refusal, gone }
    }

    /// Something may have been deleted. Blocks.
    pub(super) fn after(refusal: Refusal, begun: &[PathBuf], own: &Path) -> Self {
        let gone = Some(missing(begun, own));
        Self { refusal, gone }
    }

    /// All is deleted that was to be.
    pub(super) const fn at_the_end(refusal: Refusal, deleted: Vec<PathBuf>) -> Self {
        let gone = Some(deleted);
        Self { refusal, gone }
    }
}

impl From<Refusal> for Stuck {
    fn from(refusal: Refusal) -> Self {
        let gone = None;
        Self { refusal, gone }
    }
}

impl VmActor {
    /// Goes on with a removal that was cut off; false without one.
    pub(super) fn resume_removal(&mut self, context: &mut Context<Self>) -> bool {
        let Some(removal) = self.record.removal.as_deref() else {
            return false;
        };
        if self.record.state.launch().is_some() {
            return false;
        }
        tracing::warn!(vm = self.name(), at = %removal.at, "a removal was cut off; it goes on");
        let order = RemoveOrder {
            delete_storage: removal.delete_storage,
            keep_snapshots: removal.keep_snapshots,
            key: removal.key.clone(),
            resumed: true,
        };
        // Whoever asked for it asks again, and shares it then.
        drop(self.begin(Activity::Removing));
        self.forget(order, context);
        true
    }

    /// The removal on record that is under way, for whoever asks for the same once more: the call was repeated, or it was cut
    /// off and goes on by itself.
    pub(super) fn removal_under(&self, message: &RemoveVm) -> Option<Accepted> {
        let removal = self.record.removal.as_deref()?;
        let wanted = (message.delete_storage, message.keep_snapshots);
        let same =
            self.activity == Activity::Removing && wanted == (removal.delete_storage, removal.keep_snapshots);
        if same { self.join() } else { None }
    }

    /// Images that a removal on record was to delete.
    pub(super) fn begun(&self) -> Vec<PathBuf> {
        let removal = self.record.removal.as_deref();
        removal.map(|removal| removal.images.clone()).unwrap_or_default()
    }

    /// Makes it durable that images go, then has them deleted.
    pub(super) fn intend(&mut self, plan: Plan, turn: Turn, order: RemoveOrder, context: &mut Context<Self>) {
        let before = self.record.removal.clone();
        if before.is_none() && plan.doomed().is_empty() {
            return self.delete(plan, turn, order, context);
        }
        let change = self.begin_removal(&plan, &order);
        let durable: Working<()> = Box::pin(self.persist(change));
        let intended = durable
            .into_actor(self)
            .map(move |durable, actor, context| match durable {
                Ok(()) => {
                    pass(Point::RemoveIntended);
                    actor.delete(plan, turn, order, context);
                }
                Err(refusal) => {
                    actor.record.removal = before;
                    // A commit that is refused may be there when the store can be read again.
                    actor.persist_later(Change::update(actor.record.clone()), context);
                    actor.keep(Stuck::before(refusal, &plan), context);
                }
            });
        context.spawn(intended);
    }

    fn begin_removal(&mut self, plan: &Plan, order: &RemoveOrder) -> Change {
        let images = plan.doomed();
        let mut event = self.event("vm.removing").with("images", told(&images));
        if order.keep_snapshots {
            event = event.with("keep_snapshots", true);
        }
        if order.resumed {
            event = event.with("resumed", true);
        }
        let removal = Removal {
            at: clock::now(),
            images,
            gone: plan.gone().to_vec(),
            delete_storage: order.delete_storage,
            keep_snapshots: order.keep_snapshots,
            key: order.key.clone(),
        };
        let removal = removal.following(self.record.removal.as_deref());
        self.record.removal = Some(Box::new(removal));
        self.show();
        Change::update(self.record.clone()).event(event)
    }

    /// What is on record of a removal that stopped, and what whoever asked for it is told: without an image that is gone, the
    /// VM is what it was.
    pub(super) fn left_half_way(&mut self, stuck: Stuck, context: &mut Context<Self>) -> Refusal {
        let Stuck { refusal, gone } = stuck;
        let refusal = refusal.vm(self.name());
        let Some(removal) = self.record.removal.take() else {
            return refusal;
        };
        self.record.removal = match gone {
            Some(gone) => removal.left(gone).map(Box::new),
            None => Some(removal),
        };
        tracing::warn!(vm = self.name(), %refusal, causes = ?refusal.causes, "a removal stopped");
        let mut event = self.event("vm.removal-failed");
        let words: Vec<_> = std::iter::once(&refusal.message)
            .chain(&refusal.causes)
            .cloned()
            .collect();
        event = event.with("message", words.join(": "));
        if let Some(removal) = &self.record.removal {
            event = event.with("deleted", told(&removal.gone));
            event = event.with("left", told(&removal.left_over()));
        }
        self.persist_later(Change::update(self.record.clone()).event(event), context);
        match &self.record.removal {
            Some(removal) => half_way(refusal, removal),
            None => refusal.cause("none of its images is deleted"),
        }
    }

    /// What is told of a removal that has begun.
    pub(super) fn removal(&self) -> Option<RemovalStatus> {
        self.record.removal.as_deref().map(|removal| RemovalStatus {
            since: removal.at,
            deleted: removal.gone.clone(),
            left: removal.left_over(),
            keep_snapshots: removal.keep_snapshots,
        })
    }
}

/// The refusal with what is gone, what is not, and how to go on.
fn half_way(refusal: Refusal, removal: &Removal) -> Refusal {
    let gone = removal.gone.iter().map(|path| (path, "deleted already"));
    let left = removal.left_over();
    let images = gone.chain(left.iter().map(|path| (path, "still there")));
    let refusal = images.fold(refusal, |refusal, (path, what)| {
        refusal.cause(format!("`{}` is {what}", path.display()))
    });
    let keep = if removal.keep_snapshots {
        " --keep-snapshots"
    } else {
        ""
    };
    let vm = refusal.vm.clone().unwrap_or_default();
    refusal.hint(format!("maqet rm {vm} --delete-storage{keep}"))
}

fn told(paths: &[PathBuf]) -> Value {
    serde_json::to_value(paths).unwrap_or_default()
}
