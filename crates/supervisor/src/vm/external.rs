//! What is recorded of snapshots that are files of their own.

use std::path::{Path, PathBuf};

use actix::{ActorFutureExt, Context, Handler, ResponseActFuture, WrapFuture};
use maqet_process::identity::FileMark;
use maqet_protocol::control::SnapshotDone;
use maqet_protocol::refusal::Refusal;
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::disk::{DiskRecords, Opened};
use maqet_state::external::{Discarded, ExternalStep, ExternalWork, lowered, raised};

use super::VmActor;
use crate::messages::RecordExternal;

impl VmActor {
    fn external_change(&mut self, step: RecordExternal) -> Change {
        match step {
            RecordExternal::Begun(work) => {
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
                self.record.files = with_made(files, made, &self.shared.boot_id);
                self.external_done(discard, *done, key)
            }
            RecordExternal::Merged { discard, done, key } => {
                let layers = done
                    .disks
                    .iter()
                    .filter_map(|disk| self.record.externals.layer(&done.name, disk).cloned())
                    .collect::<Vec<_>>();
                self.record.spec = lowered(self.record.spec.clone(), &layers);
                let externals = std::mem::take(&mut self.record.externals);
                self.record.externals = externals.merged(&done.name, &done.disks);
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
                self.record.externals.work = None;
                let files = std::mem::take(&mut self.record.files);
                self.record.files = gone
                    .iter()
                    .fold(files, |files, path: &PathBuf| files.forgotten(Path::new(path)));
                Change::update(self.record.clone())
            }
        }
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

/// maqet made them, and none is ever made anew: one that is missing is lost.
fn with_made(files: DiskRecords, made: Vec<(PathBuf, FileMark)>, boot_id: &str) -> DiskRecords {
    made.into_iter().fold(files, |files, (path, file)| {
        let opened = Opened {
            path: path.clone(),
            file,
        };
        let files = files.made(path, file, boot_id, clock::now());
        files.used(&[opened], boot_id, clock::now())
    })
}

impl Handler<RecordExternal> for VmActor {
    type Result = ResponseActFuture<Self, Result<(), Refusal>>;

    /// What a store does not take has not happened; what is left of work may be kept until it does.
    fn handle(&mut self, step: RecordExternal, _context: &mut Context<Self>) -> Self::Result {
        let fact = matches!(
            step,
            RecordExternal::Failed { .. } | RecordExternal::Struck { .. }
        );
        let before = (
            self.record.spec.clone(),
            self.record.externals.clone(),
            self.record.files.clone(),
        );
        let change = self.external_change(step);
        if fact {
            let kept = self.persist_fact(change).into_actor(self);
            return Box::pin(kept.map(|kept, actor, _context| {
                actor.told_late(kept);
                Ok(())
            }));
        }
        let durable = self.persist(change);
        Box::pin(durable.into_actor(self).map(move |durable, actor, _context| {
            if durable.is_err() {
                let record = &mut actor.record;
                (record.spec, record.externals, record.files) = before;
            }
            durable
        }))
    }
}
