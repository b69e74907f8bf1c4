//! Removing: what maqet made for a VM goes with it, what people made stays.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use actix::{ActorContext, ActorFutureExt, Addr, AsyncContext, Context, WrapFuture};
use maqet_process::point::{Point, pass};
use maqet_protocol::control::Removed;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_state::external::ExternalSnapshot;
use maqet_state::id::VmId;
use maqet_state::lifecycle::{Activity, Command, Decision, Effect};
use maqet_state::snapshot::SnapshotAction;

use super::adopt::Turn;
use super::removal::Stuck;
use super::{Then, VmActor};
use crate::deletion::{self, Outcome, Plan};
use crate::messages::{RemoveVm, StopBy, VmForgotten};
use crate::operation::{Accepted, Done, Operation};
use crate::shared::Shared;
use crate::snapshots::how_to_agree;
use crate::standing::{self, Changing, Reach};
use crate::supervisor::SupervisorActor;

/// What a removal was asked with.
#[derive(Debug)]
pub(super) struct RemoveOrder {
    pub(super) delete_storage: bool,
    pub(super) keep_snapshots: bool,
    pub(super) key: Option<String>,
    /// It goes on after it was cut off.
    pub(super) resumed: bool,
}

impl VmActor {
    /// `rm`.
    pub(super) fn remove(
        &mut self,
        message: RemoveVm,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        let command = if message.force {
            Command::ForceRemove
        } else {
            Command::Remove
        };
        if let Some(accepted) = self.removal_under(&message) {
            return Ok(accepted);
        }
        self.may_be_removed(&message)?;
        let order = RemoveOrder {
            delete_storage: message.delete_storage,
            keep_snapshots: message.keep_snapshots,
            key: message.key,
            resumed: false,
        };
        match self.meet(command, context) {
            Decision::Do(Effect::Forget) => {
                self.disarm(context);
                let accepted = self.begin(Activity::Removing);
                self.forget(order, context);
                Ok(accepted)
            }
            Decision::Do(Effect::KillThenForget) => self.kill_then_forget(order, context),
            Decision::Deny(denial) => Err(self.deny(denial)),
            Decision::Join | Decision::AlreadyDone | Decision::Do(_) => {
                Err(self.defect("a removal with another effect"))
            }
        }
    }

    /// The VM's file, added again, would know nothing of what is on record alone: it would start from images below others and
    /// lose what is in them, or from disks that hold different moments.
    fn may_be_removed(&self, message: &RemoveVm) -> Result<(), Refusal> {
        let rests = self.record.state.launch().is_none() && self.activity == Activity::Idle;
        if message.delete_storage || message.force || !rests {
            return Ok(());
        }
        let Some((message, way_out)) = self.on_record_alone() else {
            return Ok(());
        };
        Err(Refusal::new(RefusalCode::WrongState, message)
            .vm(self.name())
            .state(self.record.status().as_str())
            .hint(format!("{way_out}; or --delete-storage, or --force")))
    }

    /// What only maqet knows of the disks, and what ends that.
    fn on_record_alone(&self) -> Option<(String, String)> {
        let vm = self.name();
        if let Some(ExternalSnapshot { name, .. }) = self.record.externals.snapshots.last() {
            return Some((
                format!("`{vm}` has the external snapshot `{name}`, of which only maqet knows"),
                format!("maqet snapshot delete {vm} {name} keeps what was written since"),
            ));
        }
        let words = "was cut off: only maqet knows that its disks may hold different moments";
        let told = |name| format!("loading the snapshot `{name}` of `{vm}` {words}");
        if let Some(name) = self.record.load_cut_off() {
            return Some((told(name), how_to_agree(vm, name)));
        }
        let work = self.record.snapshot.as_deref()?;
        let loading = work.action == SnapshotAction::Load;
        loading.then(|| {
            let finish = format!("maqet snapshot list {vm} has them agree");
            (told(&work.name), finish)
        })
    }

    fn kill_then_forget(
        &mut self,
        order: RemoveOrder,
        context: &mut Context<Self>,
    ) -> Result<Accepted, Refusal> {
        if self.activity == Activity::Idle {
            return self.kill_then(Then::Forget(order), context);
        }
        // Something is under way: end that first, then come back to a VM that rests.
        let stop = crate::messages::StopVm {
            timeout_ms: None,
            force: true,
            key: None,
            by: StopBy::Person,
        };
        let stopping = self.stop(stop, context)?;
        let operation = Operation::new(self.name());
        let accepted = operation.follow();
        // Not a future of this actor: it has to tell how the removal went when the actor is gone.
        actix_rt::spawn(forget_when_ended(stopping, order, context.address(), operation));
        Ok(accepted)
    }

    /// Files first, record last: a death in between leaves a VM whose removal goes on, not files nobody knows.
    pub(super) fn forget(&mut self, order: RemoveOrder, context: &mut Context<Self>) {
        self.activity = Activity::Removing;
        self.show();
        let images = self.images(&order);
        let who = (self.record.id.clone(), self.name().to_owned());
        let (leaving, turn) = (self.leaving.take(), Arc::clone(&self.turn));
        let shared = Rc::clone(&self.shared);
        let looking = async move {
            let turn = turn.lock_owned().await;
            if let Some(runner) = leaving {
                super::start::see_off(&runner, &shared).await;
            }
            pass(Point::RemoveBegun);
            let plan = look(images, who, &shared).await?;
            // Known beforehand, a store that takes nothing leaves the VM all that it has, and the note of its end.
            match crate::launch::check_writable(&shared).await {
                Ok(()) => Ok((plan, turn)),
                Err(refusal) => Err(Stuck::before(refusal, &plan)),
            }
        };
        let looked = looking
            .into_actor(self)
            .map(move |looked, actor, context| match looked {
                Ok((plan, turn)) => actor.intend(plan, turn, order, context),
                Err(stuck) => actor.keep(stuck, context),
            });
        context.spawn(looked);
    }

    /// Images, then directories.
    pub(super) fn delete(&mut self, plan: Plan, turn: Turn, order: RemoveOrder, context: &mut Context<Self>) {
        let (begun, own) = (self.begun(), self.shared.places.disks());
        let directories = [
            self.shared.places.vm_runtime(&self.record.id),
            self.shared.places.vm_data(&self.record.id),
        ];
        let disks = self.record.spec.disks.iter();
        let disks: Vec<PathBuf> = disks.map(|disk| disk.path.clone()).collect();
        let aside = self.shared.asides.of(&self.record.id);
        let deleting = async move {
            let _turn = turn;
            let work = move || {
                let deleted = delete_files(plan, &own, &disks, &directories);
                deleted.map_err(|refusal| Stuck::after(refusal, &begun, &own))
            };
            aside.run(work).await?
        };
        let deleted = deleting
            .into_actor(self)
            .map(move |deleted, actor, context| match deleted {
                Ok(outcome) => actor.forget_record(outcome, order.key, context),
                Err(stuck) => actor.keep(stuck, context),
            });
        context.spawn(deleted);
    }

    /// What is to be done with its images; the specs of others are read when it is their turn.
    fn images(&self, order: &RemoveOrder) -> deletion::Order {
        deletion::Order {
            disks: self.record.spec.disks.clone(),
            files: self.record.files.clone(),
            delete: order.delete_storage,
            keep_snapshots: order.keep_snapshots,
            begun: self.begun(),
            own: self.shared.places.disks(),
            resumed: order.resumed,
            bases: self.bases(),
            policy: self.shared.policy.clone(),
            boot_id: self.shared.boot_id.clone(),
        }
    }

    /// Images that keep external snapshots.
    fn bases(&self) -> Vec<PathBuf> {
        let snapshots = self.record.externals.snapshots.iter();
        let layers = snapshots.flat_map(|snapshot| &snapshot.layers);
        layers.map(|layer| layer.base().to_owned()).collect()
    }

    fn forget_record(&mut self, outcome: Outcome, key: Option<String>, context: &mut Context<Self>) {
        pass(Point::FilesGone);
        let Outcome {
            deleted,
            kept,
            reasons,
        } = outcome;
        let mut event = self.event("vm.removed");
        if !deleted.is_empty() {
            event = event.with("deleted", serde_json::to_value(&deleted).unwrap_or_default());
        }
        if !reasons.is_empty() {
            event = event.with("kept", serde_json::to_value(&reasons).unwrap_or_default());
        }
        let removed = Removed {
            id: self.record.id.clone(),
            vm: self.name().to_owned(),
            deleted,
            kept,
            reasons,
        };
        let change = Change::remove(self.record.id.clone()).event(event);
        let mut change = self.strike_vm(change);
        if let Some(key) = key {
            change = change.answering(key, serde_json::to_value(&removed).unwrap_or_default());
        }
        let durable = self.persist(change);
        let done = durable
            .into_actor(self)
            .map(move |result, actor, context| match result {
                Ok(()) => actor.forgotten(removed, context),
                Err(refusal) => actor.keep(Stuck::at_the_end(refusal, removed.deleted), context),
            });
        context.spawn(done);
    }

    /// It is not removed. The runner of its last launch has gone meanwhile.
    pub(super) fn keep(&mut self, stuck: Stuck, context: &mut Context<Self>) {
        self.strike_left(context);
        let refusal = self.left_half_way(stuck, context);
        self.finish(Err(refusal));
        // A restart that was due is due again.
        self.arm(context);
    }

    fn forgotten(&mut self, removed: Removed, context: &mut Context<Self>) {
        pass(Point::RecordGone);
        let id = removed.id.clone();
        let supervisor = self.shared.supervisor();
        let told = async move { SupervisorActor::tell(supervisor, VmForgotten(id)).await };
        let gone = told.into_actor(self).map(move |(), actor, context| {
            actor.finish(Ok(Done::Removed(removed)));
            actor.shared.board.clear(&actor.record.id);
            actor.shared.asides.forget(&actor.record.id);
            context.stop();
        });
        context.spawn(gone);
    }
}

/// Removes a VM once what was under way has ended, or takes part in the removal that this turned out to be.
async fn forget_when_ended(stopping: Accepted, order: RemoveOrder, vm: Addr<VmActor>, operation: Operation) {
    let outcome = match stopping.outcome().await {
        Ok(Done::Removed(removed)) => Ok(Done::Removed(removed)),
        Ok(
            Done::Started(_) | Done::Stopped(_) | Done::Snapshot(_) | Done::Listed(_) | Done::Maintained(_),
        ) => {
            let message = RemoveVm {
                force: true,
                delete_storage: order.delete_storage,
                keep_snapshots: order.keep_snapshots,
                key: order.key,
            };
            match vm.send(message).await {
                Ok(Ok(accepted)) => accepted.outcome().await,
                Ok(Err(refusal)) => Err(refusal),
                Err(gone) => {
                    Err(Refusal::new(RefusalCode::Busy, "the VM is being removed").cause(gone.to_string()))
                }
            }
        }
        Err(refusal) => Err(refusal),
    };
    operation.finish(outcome);
}

/// Decides about the images. Nobody begins anything with them from now on, and what others have or need of them stays.
async fn look(images: deletion::Order, (id, name): (VmId, String), shared: &Shared) -> Result<Plan, Refusal> {
    let aside = shared.asides.of(&id);
    if !images.delete {
        return aside
            .run(move || deletion::plan(&images, deletion::candidates(&images), &[]))
            .await;
    }
    let (images, candidates) = aside
        .run(move || {
            let candidates = deletion::candidates(&images);
            (images, candidates)
        })
        .await?;
    let mut own: Vec<Changing> = candidates.iter().filter_map(changing).collect();
    let mut used = shared.leases.hold(&id, &name, &own, &shared.board);
    let found = standing::dependents(&id, own.clone(), Reach::Others, shared).await?;
    used.extend(found.into_iter().map(deletion::Use::from));
    let plan = aside
        .run(move || deletion::plan(&images, candidates, &used))
        .await?;
    // What stays is for others to begin something with.
    let doomed = plan.doomed();
    own.retain(|one| doomed.contains(&one.path));
    shared.leases.hold(&id, &name, &own, &shared.board);
    Ok(plan)
}

fn changing(candidate: &deletion::Candidate) -> Option<Changing> {
    let (path, file) = candidate.own()?;
    let (disk, path) = (String::new(), path.to_owned());
    Some(Changing { disk, path, file })
}

/// Images, then directories. Blocks.
fn delete_files(
    plan: Plan,
    own: &Path,
    disks: &[PathBuf],
    directories: &[PathBuf],
) -> Result<Outcome, Refusal> {
    let outcome = plan.carry_out()?;
    // What is left empty was made for these, or for disks that nobody came to make; one that holds something else stays.
    let parents = outcome
        .deleted
        .iter()
        .chain(disks)
        .filter_map(|path| path.parent());
    for parent in parents.filter(|parent| parent.starts_with(own) && *parent != own) {
        drop(std::fs::remove_dir(parent));
    }
    for directory in directories {
        remove(remove_directory(directory), directory)?;
    }
    Ok(outcome)
}

/// The VM's description may be written once more while its directory is being emptied.
fn remove_directory(directory: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            std::fs::remove_dir_all(directory)
        }
        removed => removed,
    }
}

/// What is gone already is no failure.
fn remove(result: std::io::Result<()>, path: &Path) -> Result<(), Refusal> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let message = format!("cannot delete `{}`", path.display());
            Err(Refusal::new(RefusalCode::Internal, message).cause(error.to_string()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Shared {
    /// The root actor.
    pub(crate) fn supervisor(&self) -> Option<Addr<SupervisorActor>> {
        self.supervisor.borrow().clone()
    }
}
