//! What is recorded of snapshots that are files of their own.

use std::path::PathBuf;

use actix::fut::ready;
use actix::{ActorFutureExt, Context, Handler, ResponseActFuture, WrapFuture};
use maqet_protocol::control::SnapshotDone;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::external::{Discarded, ExternalStep, ExternalWork, lowered, raised, with_images};
use maqet_state::lifecycle::Status;
use maqet_state::snapshot::SnapshotAction;

use super::VmActor;
use crate::messages::{AskDisks, DisksNow, RecordExternal};

impl VmActor {
    /// What is recorded of a step.
    ///
    /// # Errors
    /// `wrong-state` for one that comes too late.
    fn external_change(&mut self, step: RecordExternal) -> Result<Change, Refusal> {
        Ok(match step {
            RecordExternal::NotSwitched => {
                self.unswitch()?;
                Change::update(self.record.clone())
            }
            RecordExternal::Begun(work) => {
                self.may_begin(&work.step)?;
                self.record.externals.work = Some(work);
                Change::update(self.record.clone())
            }
            RecordExternal::Stacked {
                snapshot,
                made,
                discard,
                done,
                key,
            } => {
                self.record.spec = raised(self.record.spec.clone(), &snapshot.layers);
                let externals = std::mem::take(&mut self.record.externals);
                self.record.externals = externals.stacked(*snapshot);
                let files = std::mem::take(&mut self.record.files);
                self.record.files = with_images(files, &made, &self.shared.boot_id, clock::now());
                self.external_done(discard, *done, key)
            }
            RecordExternal::Switched { done, key } => {
                self.record = self.record.clone().switched(clock::now());
                self.external_done(Vec::new(), *done, key)
            }
            RecordExternal::MergedOne { disk, discard, rest } => {
                self.lower_one(disk, discard, rest);
                Change::update(self.record.clone())
            }
            RecordExternal::Merged { discard, done, key } => {
                self.lower(&done.name, &done.disks);
                self.external_done(discard, *done, key)
            }
            RecordExternal::Failed { settled, refusal } => {
                if settled {
                    self.record.externals.work = None;
                }
                let event = self.snapshot_event(&Err(*refusal));
                Change::update(self.record.clone()).event(event)
            }
            RecordExternal::Struck { gone } => {
                self.strike(&gone);
                Change::update(self.record.clone())
            }
        })
    }

    /// Nothing is left of the work, nor of these files.
    fn strike(&mut self, gone: &[PathBuf]) {
        self.record.externals.work = None;
        let files = std::mem::take(&mut self.record.files);
        self.record.files = gone.iter().fold(files, |files, path| files.forgotten(path));
    }

    /// Disks stand on the base of a snapshot again.
    fn lower(&mut self, name: &str, disks: &[String]) {
        let of = |disk: &String| self.record.externals.layer(name, disk).cloned();
        let layers: Vec<_> = disks.iter().filter_map(of).collect();
        self.record.spec = lowered(self.record.spec.clone(), &layers);
        let externals = std::mem::take(&mut self.record.externals);
        self.record.externals = externals.merged(name, disks);
    }

    /// One disk does, and the work goes on.
    fn lower_one(&mut self, disk: String, discard: Vec<Discarded>, disks: Vec<String>) {
        let Some(mut work) = self.record.externals.work.clone() else {
            return tracing::error!(vm = self.name(), disk, "a merge that nobody has begun");
        };
        self.lower(&work.name, &[disk]);
        work.step = ExternalStep::Merging { disks, discard };
        self.record.externals.work = Some(work);
    }

    /// Nothing that a QEMU is to do begins once it has ended.
    fn may_begin(&self, step: &ExternalStep) -> Result<(), Refusal> {
        let switches = matches!(step, ExternalStep::Switching(_));
        if switches && self.record.status() != Status::Running {
            let message = format!("`{}` has ended meanwhile", self.name());
            return Err(Refusal::new(RefusalCode::WrongState, message));
        }
        Ok(())
    }

    /// QEMU is not on the new images: from now on they are what somebody has made and deletes.
    fn unswitch(&mut self) -> Result<(), Refusal> {
        let Some(switch) = self.record.externals.switching() else {
            let message = format!("`{}` has ended, and its disks are on the new images", self.name());
            return Err(Refusal::new(RefusalCode::WrongState, message));
        };
        self.record.externals.work = Some(ExternalWork {
            action: SnapshotAction::Create,
            name: switch.snapshot.name.clone(),
            step: ExternalStep::Making {
                layers: switch.snapshot.layers.clone(),
            },
        });
        Ok(())
    }

    fn external_done(&mut self, discard: Vec<Discarded>, done: SnapshotDone, key: Option<String>) -> Change {
        if !discard.is_empty() {
            self.record.externals.work = Some(ExternalWork {
                action: done.action,
                name: done.name.clone(),
                step: ExternalStep::Discarding { files: discard },
            });
        }
        let answer = key.map(|key| (key, serde_json::to_value(&done).unwrap_or_default()));
        let event = self.snapshot_event(&Ok(done));
        let change = Change::update(self.record.clone()).event(event);
        match answer {
            Some((key, answer)) => change.answering(key, answer),
            None => change,
        }
    }
}

impl Handler<RecordExternal> for VmActor {
    type Result = ResponseActFuture<Self, Result<(), Refusal>>;

    /// What a store does not take has not happened; what is left of work may be kept until it does.
    fn handle(&mut self, step: RecordExternal, _context: &mut Context<Self>) -> Self::Result {
        let fact = matches!(
            step,
            RecordExternal::Failed { .. } | RecordExternal::Struck { .. }
        );
        let before = self.before();
        let change = match self.external_change(step) {
            Ok(change) => change,
            Err(refusal) => return Box::pin(ready(Err(refusal))),
        };
        if fact {
            let kept = self.persist_fact(change).into_actor(self);
            return Box::pin(kept.map(|kept, actor, _context| {
                actor.told_late(kept);
                Ok(())
            }));
        }
        let durable = self.persist(change);
        Box::pin(durable.into_actor(self).map(move |durable, actor, context| {
            if durable.is_err() {
                actor.undo(before, context);
            }
            durable
        }))
    }
}

impl Handler<AskDisks> for VmActor {
    type Result = DisksNow;

    fn handle(&mut self, _message: AskDisks, _context: &mut Context<Self>) -> DisksNow {
        DisksNow {
            spec: self.record.spec.clone(),
            files: self.record.files.clone(),
            externals: self.record.externals.clone(),
        }
    }
}
