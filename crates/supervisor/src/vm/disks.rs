//! What is on record of a VM's disks, and how it changes.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use actix::{ActorFutureExt, Context, Handler, ResponseActFuture, WrapFuture};
use maqet_process::ProcessError;
use maqet_process::identity::FileMark;
use maqet_protocol::control::DiskAccepted;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::OpenedFile;
use maqet_spec::vm::Disk;
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::disk::{DiskRecords, Opened};
use maqet_state::ledger::{LedgerEdit, LedgerKind};
use maqet_state::lifecycle::{Activity, Command, Decision};
use maqet_storage::PathPolicy;
use maqet_storage::error::StorageError;
use maqet_storage::image::{self, Found};

use super::VmActor;
use crate::aside::Aside;
use crate::link::chain;
use crate::messages::AcceptDisk;

impl VmActor {
    /// maqet has an image for this VM that is about to get its name: it is the VM's whatever comes between.
    pub(super) fn making_file(&mut self, path: &Path, file: FileMark) -> Change {
        let files = std::mem::take(&mut self.record.files);
        let files = files.made(path.to_owned(), file, &self.shared.boot_id, clock::now());
        let disk = self.record.spec.disks.iter().find(|disk| disk.path == path);
        let image = disk.and_then(|disk| disk.from.as_ref());
        self.record.files = image
            .into_iter()
            .fold(files, |files, image| files.standing_on(path, image.as_str()));
        Change::update(self.record.clone())
    }

    /// It has its name. An earlier version had it in the ledger instead.
    pub(super) fn file_made(&self, path: &Path) -> Change {
        let what = path.display().to_string();
        let event = self.event("disk.created").with("path", what.clone());
        let kind = LedgerKind::File;
        Change::default()
            .event(event)
            .ledger(LedgerEdit::Strike { kind, what })
    }

    /// Somebody else's file has it, or it could not be given.
    pub(super) fn file_not_made(&mut self, path: &Path) -> Change {
        let files = std::mem::take(&mut self.record.files);
        self.record.files = files.forgotten(path);
        Change::update(self.record.clone())
    }

    /// A QEMU is about to have these, which are the ones on record where any were.
    pub(super) fn files_used(&mut self, opened: Vec<OpenedFile>) {
        let opened: Vec<Opened> = opened
            .into_iter()
            .map(|OpenedFile { path, file }| Opened { path, file })
            .collect();
        let files = std::mem::take(&mut self.record.files);
        self.record.files = files.used(&opened, &self.shared.boot_id, clock::now());
    }

    /// An image is damaged: it is not written to before somebody has had a say.
    pub(super) fn disk_damaged(&mut self, disk: &str, path: PathBuf, found: String) -> Change {
        let event = self
            .event("vm.disk-quarantined")
            .with("disk", disk)
            .with("path", path.display().to_string())
            .with("found", found.clone());
        let health = std::mem::take(&mut self.record.health);
        self.record.health = health.damaged(path, found, clock::now());
        Change::update(self.record.clone()).event(event)
    }

    /// A disk of a VM that rests.
    fn disk_at_rest(&mut self, name: &str, context: &mut Context<Self>) -> Result<Disk, Refusal> {
        let disk = self.disk(name)?;
        match self.meet(Command::Maintain, context) {
            Decision::Deny(denial) => Err(self.deny(denial)),
            Decision::Do(_) | Decision::Join | Decision::AlreadyDone => Ok(disk),
        }
    }

    /// A disk of the spec.
    pub(super) fn disk(&self, name: &str) -> Result<Disk, Refusal> {
        let disk = self.record.spec.disks.iter().find(|disk| disk.name == name);
        disk.cloned().ok_or_else(|| self.no_disk(name))
    }

    fn no_disk(&self, name: &str) -> Refusal {
        let vm = self.name();
        let disks: Vec<_> = self.record.spec.disks.iter().map(|disk| &*disk.name).collect();
        let refusal = Refusal::new(RefusalCode::DiskNotFound, format!("`{vm}` has no disk `{name}`")).vm(vm);
        match disks.as_slice() {
            [] => refusal.hint(format!("`{vm}` has no disks at all")),
            disks => refusal.hint(format!("its disks are: {}", disks.join(", "))),
        }
    }

    /// What is on record once a person has accepted what was found at a disk's path, and below it.
    fn accepted(&self, disk: &Disk, found: &[Opened]) -> DiskRecords {
        let (files, boot_id) = (self.record.files.clone(), &self.shared.boot_id);
        let (top, below) = match found {
            [] => return files.forgotten(&disk.path),
            [top, below @ ..] => (top, below),
        };
        let unknown = files.get(&top.path).is_none_or(|known| known.file.is_none());
        let exchanged = |files: &DiskRecords, Opened { path, file }: &Opened| {
            files.exchanged([(path.as_path(), file)], boot_id).is_some()
        };
        let mut anew: Vec<_> = below.iter().filter(|file| exchanged(&files, file)).collect();
        if unknown || exchanged(&files, top) {
            anew.push(top);
        }
        let accept = |files: DiskRecords, Opened { path, file }: &Opened| {
            files.accepted(path.clone(), *file, boot_id, clock::now())
        };
        anew.into_iter().fold(files, accept)
    }

    /// Makes durable what a person accepted; if that fails, nothing was accepted.
    fn put_on_record(
        &mut self,
        disk: &Disk,
        found: Result<Vec<Opened>, Refusal>,
    ) -> ResponseActFuture<Self, Result<DiskAccepted, Refusal>> {
        let before = self.before_at_rest();
        let (accepted, change) = match found.and_then(|found| self.accept(disk, &found)) {
            Ok(settled) => settled,
            Err(refusal) => return Box::pin(async { Err(refusal) }.into_actor(self)),
        };
        let durable: Pin<Box<dyn Future<Output = Result<(), Refusal>>>> = Box::pin(self.persist(change));
        let done = durable.into_actor(self).map(move |durable, actor, context| {
            if durable.is_err() {
                actor.undo(before, context);
            }
            durable.map(|()| accepted)
        });
        Box::pin(done)
    }

    /// The change that puts it on record; nothing while the VM is busy with something that began meanwhile.
    fn accept(&mut self, disk: &Disk, found: &[Opened]) -> Result<(DiskAccepted, Change), Refusal> {
        if self.activity != Activity::Idle || self.record.state.launch().is_some() {
            let message = format!("`{}` was started meanwhile", self.name());
            return Err(Refusal::new(RefusalCode::Busy, message)
                .vm(self.name())
                .hint("try again"));
        }
        let files = self.accepted(disk, found);
        let damage = self
            .record
            .health
            .of(&disk.path)
            .filter(|damage| !damage.accepted);
        let cut_off = self.record.health.between(&disk.path);
        let cut_off = cut_off.map(|load| format!("loading `{}` was cut off", load.snapshot));
        let damage = damage.map(|damage| damage.found.clone()).or(cut_off);
        let already = files == self.record.files && damage.is_none();
        self.record.files = files;
        let health = std::mem::take(&mut self.record.health);
        let found = found.first().map(|top| top.file);
        self.record.health = match found {
            Some(_) => health.accepted(&disk.path),
            None => health.gone(&disk.path),
        };
        let event = self
            .event("vm.disk-accepted")
            .with("disk", disk.name.clone())
            .with("path", disk.path.display().to_string());
        let event = match found {
            Some(file) => event.with("file", file.to_string()),
            None => event.with("missing", true),
        };
        let event = match damage {
            Some(damage) => event.with("damage", damage),
            None => event,
        };
        let accepted = DiskAccepted {
            vm: self.name().to_owned(),
            disk: disk.name.clone(),
            path: disk.path.clone(),
            already,
            file: found,
        };
        let change = Change::update(self.record.clone()).event(event);
        Ok((accepted, if already { Change::default() } else { change }))
    }
}

impl Handler<AcceptDisk> for VmActor {
    type Result = ResponseActFuture<Self, Result<DiskAccepted, Refusal>>;

    fn handle(&mut self, AcceptDisk(name): AcceptDisk, context: &mut Context<Self>) -> Self::Result {
        let disk = match self.disk_at_rest(&name, context) {
            Ok(disk) => disk,
            Err(refusal) => return Box::pin(async { Err(refusal) }.into_actor(self)),
        };
        let (vm, looked_at) = (self.name().to_owned(), disk.clone());
        let (aside, policy) = (self.shared.asides.of(&self.record.id), self.shared.policy.clone());
        let found = async move {
            find(&looked_at, policy, &aside)
                .await
                .map_err(|refusal| refusal.vm(vm))
        };
        let accepted = found
            .into_actor(self)
            .then(move |found, actor, _context| actor.put_on_record(&disk, found));
        Box::pin(accepted)
    }
}

/// The file at a disk's path, and those below it as far as they can be followed; nothing when there is none.
async fn find(disk: &Disk, policy: PathPolicy, aside: &Aside) -> Result<Vec<Opened>, Refusal> {
    let unusable = |why: String| {
        let message = format!("the file of disk `{}` cannot be used", disk.name);
        Refusal::new(RefusalCode::InvalidSpec, message).cause(why)
    };
    let looked_at = disk.clone();
    match aside.run(move || files_of(&looked_at, &policy)).await? {
        Ok(found) => found.map_err(|error| unusable(chain(&error))),
        Err(error) if error.is_missing() => Ok(Vec::new()),
        Err(error) => Err(tell(unusable(chain(&error)), &error)),
    }
}

/// Blocks.
fn files_of(disk: &Disk, policy: &PathPolicy) -> Result<Result<Vec<Opened>, ProcessError>, StorageError> {
    let top = image::open(&disk.path, disk.readonly)?;
    let path = disk.path.clone();
    let top = FileMark::of_fd(&top.fd).map(|file| Opened { path, file });
    let look = image::look(&disk.path, disk.format, policy);
    let below = look.chain.into_iter().skip(1);
    let below = below.map(|Found { named, file, .. }| Opened { path: named, file });
    Ok(top.map(|top| std::iter::once(top).chain(below).collect()))
}

fn tell(refusal: Refusal, error: &StorageError) -> Refusal {
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}
