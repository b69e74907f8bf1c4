//! Removing: what maqet made for a VM goes with it, what people made stays.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use actix::{ActorContext, ActorFutureExt, Addr, AsyncContext, Context, WrapFuture};
use maqet_process::point::{Point, pass};
use maqet_protocol::control::Removed;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_state::lifecycle::{Activity, Command, Decision, Effect};

use super::{Then, VmActor};
use crate::messages::{RemoveVm, StopBy, VmForgotten};
use crate::operation::{Accepted, Done, Operation};
use crate::shared::Shared;
use crate::supervisor::SupervisorActor;

/// What a removal was asked with.
#[derive(Debug)]
pub(super) struct RemoveOrder {
    delete_storage: bool,
    key: Option<String>,
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
        let order = RemoveOrder {
            delete_storage: message.delete_storage,
            key: message.key,
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

    /// Files first, record last: a death in between leaves a VM that can be removed again, not files nobody knows.
    pub(super) fn forget(&mut self, order: RemoveOrder, context: &mut Context<Self>) {
        self.activity = Activity::Removing;
        self.show();
        let files = if order.delete_storage {
            let made = self.record.files.iter().filter(|record| record.made);
            made.map(|record| record.path.clone()).collect()
        } else {
            Vec::new()
        };
        let directories = [
            self.shared.places.vm_runtime(&self.record.id),
            self.shared.places.vm_data(&self.record.id),
        ];
        let (leaving, turn) = (self.leaving.take(), Arc::clone(&self.turn));
        let shared = Rc::clone(&self.shared);
        let deleting = async move {
            let _turn = turn.lock_owned().await;
            if let Some(runner) = leaving {
                super::start::see_off(&runner, &shared).await;
            }
            pass(Point::RemoveBegun);
            // Known beforehand, a store that takes nothing leaves the VM all that it has, and the note of its end.
            crate::launch::check_writable(&shared).await?;
            delete(files, directories).await
        };
        let deleted = deleting
            .into_actor(self)
            .map(move |deleted, actor, context| match deleted {
                Ok(deleted) => actor.forget_record(deleted, order.key, context),
                Err(refusal) => actor.keep(refusal.vm(actor.name()), context),
            });
        context.spawn(deleted);
    }

    fn forget_record(&mut self, deleted: Vec<PathBuf>, key: Option<String>, context: &mut Context<Self>) {
        pass(Point::FilesGone);
        let disks = self.record.spec.disks.iter().map(|disk| disk.path.clone());
        let removed = Removed {
            id: self.record.id.clone(),
            vm: self.name().to_owned(),
            kept: disks
                .filter(|path| !deleted.contains(path) && path.exists())
                .collect(),
            deleted,
        };
        let change = Change::remove(self.record.id.clone()).event(self.event("vm.removed"));
        let mut change = self.strike_vm(change);
        if let Some(key) = key {
            change = change.answering(key, serde_json::to_value(&removed).unwrap_or_default());
        }
        let durable = self.persist(change);
        let done = durable
            .into_actor(self)
            .map(move |result, actor, context| match result {
                Ok(()) => actor.forgotten(removed, context),
                Err(refusal) => actor.keep(refusal, context),
            });
        context.spawn(done);
    }

    /// It is not removed. The runner of its last launch has gone meanwhile.
    fn keep(&mut self, refusal: Refusal, context: &mut Context<Self>) {
        self.strike_left(context);
        self.finish(Err(refusal));
    }

    fn forgotten(&mut self, removed: Removed, context: &mut Context<Self>) {
        pass(Point::RecordGone);
        let id = removed.id.clone();
        let supervisor = self.shared.supervisor();
        let told = async move { SupervisorActor::tell(supervisor, VmForgotten(id)).await };
        let gone = told.into_actor(self).map(move |(), actor, context| {
            actor.finish(Ok(Done::Removed(removed)));
            actor.shared.board.clear(&actor.record.id);
            context.stop();
        });
        context.spawn(gone);
    }
}

/// Removes a VM once what was under way has ended, or takes part in the removal that this turned out to be.
async fn forget_when_ended(stopping: Accepted, order: RemoveOrder, vm: Addr<VmActor>, operation: Operation) {
    let outcome = match stopping.outcome().await {
        Ok(Done::Removed(removed)) => Ok(Done::Removed(removed)),
        Ok(Done::Started(_) | Done::Stopped(_)) => {
            let message = RemoveVm {
                force: true,
                delete_storage: order.delete_storage,
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

async fn delete(files: Vec<PathBuf>, directories: [PathBuf; 2]) -> Result<Vec<PathBuf>, Refusal> {
    let work = tokio::task::spawn_blocking(move || {
        let mut deleted = Vec::new();
        for file in files {
            if remove(std::fs::remove_file(&file), &file)? {
                deleted.push(file);
            }
        }
        for directory in directories {
            remove(remove_directory(&directory), &directory)?;
        }
        Ok(deleted)
    });
    work.await.unwrap_or_else(|panic| {
        Err(Refusal::new(RefusalCode::Internal, "the deletion ended unexpectedly").cause(panic.to_string()))
    })
}

/// The VM's description may be written once more while its directory is being emptied.
fn remove_directory(directory: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            std::fs::remove_dir_all(directory)
        }
        removed => removed,
    }
}

/// Whether there was something; what is gone already is no failure.
fn remove(result: std::io::Result<()>, path: &std::path::Path) -> Result<bool, Refusal> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Refusal::new(
            RefusalCode::Internal,
            format!("cannot delete `{}`", path.display()),
        )
        .cause(error.to_string())),
    }
}

impl Shared {
    /// The root actor.
    pub(crate) fn supervisor(&self) -> Option<Addr<SupervisorActor>> {
        self.supervisor.borrow().clone()
    }
}
