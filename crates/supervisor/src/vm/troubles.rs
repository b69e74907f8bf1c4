//! Disks in trouble while the VM runs: what is shown, told and put on record.

use std::cell::RefCell;
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use maqet_protocol::control::{DiskProblem, DiskTrouble};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_state::journal::NewEvent;
use maqet_storage::image::{self, ROOM_BYTES};

use super::VmActor;

/// A file system tells its free space at once, or hangs.
const ROOM_LIMIT: Duration = Duration::from_secs(1);

/// An entry of the journal that waits for the free space to go into it.
pub(super) type Untold = Rc<RefCell<Option<NewEvent>>>;

impl VmActor {
    /// The runner is about to tell what is wrong.
    pub(super) fn nothing_is_wrong_yet(&mut self) {
        if let Some(live) = &mut self.live {
            live.troubles.clear();
        }
    }

    /// The runner told of a disk. What it had told before (`again`) is in the journal already.
    pub(super) fn disk_in_trouble(
        &mut self,
        disk: &str,
        trouble: Option<DiskTrouble>,
        again: bool,
        context: &mut Context<Self>,
    ) {
        let Some(live) = &mut self.live else { return };
        match &trouble {
            Some(trouble) => live.troubles.insert(disk.to_owned(), trouble.clone()),
            None => live.troubles.remove(disk),
        };
        if !again {
            self.tell_trouble(disk, trouble, context);
        }
        self.show();
    }

    fn tell_trouble(&mut self, disk: &str, trouble: Option<DiskTrouble>, context: &mut Context<Self>) {
        let path = self.record.spec.disks.iter().find(|known| known.name == disk);
        let path = path.map(|known| known.path.clone()).unwrap_or_default();
        let kind = match trouble.as_ref().map(|trouble| trouble.problem) {
            None => "vm.disk-resumed",
            Some(DiskProblem::HostFull) => "vm.disk-full",
            Some(DiskProblem::Error) => "vm.disk-error",
            Some(DiskProblem::Damaged) => "vm.disk-damaged",
        };
        let event = self.event(kind).with("disk", disk);
        let event = event.with("path", path.display().to_string());
        let event = match trouble.as_ref().and_then(|trouble| trouble.detail.as_ref()) {
            Some(detail) => event.with("detail", detail.clone()),
            None => event,
        };
        match trouble.filter(|trouble| trouble.problem == DiskProblem::Damaged) {
            Some(damage) => {
                let change = self.put_damage(path, damage).event(event);
                self.persist_later(change, context);
            }
            None => self.tell_with_room(event, path, context),
        }
    }

    fn put_damage(&mut self, path: PathBuf, damage: DiskTrouble) -> Change {
        let found = damage
            .detail
            .unwrap_or_else(|| "QEMU found it damaged".to_owned());
        let health = std::mem::take(&mut self.record.health);
        self.record.health = health.damaged(path, found, damage.since);
        Change::update(self.record.clone())
    }

    /// Told together with the bytes that are free there; without them when nobody answers, or something else is to be told.
    fn tell_with_room(&mut self, event: NewEvent, path: PathBuf, context: &mut Context<Self>) {
        self.tell_untold();
        let untold = Rc::new(RefCell::new(Some(event)));
        self.untold = Rc::clone(&untold);
        let aside = self.shared.asides.of(&self.record.id);
        let asked = aside.glance(ROOM_LIMIT, move || image::free_bytes(&path).ok());
        let told = asked.into_actor(self).map(move |free, actor, context| {
            let Some(event) = untold.take() else { return };
            let event = match free.flatten() {
                Some(free) => event.with("free_bytes", free),
                None => event,
            };
            actor.persist_later(Change::default().event(event), context);
        });
        context.spawn(told);
    }

    /// The future ends when it is known whether a guest that is let run would be halted again at once.
    ///
    /// # Errors
    /// `wrong-state` while the host has no room for one of its disks. One that nobody can ask is QEMU's to judge.
    pub(super) fn room_to_go_on(&self) -> impl Future<Output = Result<(), Refusal>> + 'static {
        let halted = self.live.iter().flat_map(|live| &live.troubles);
        let halted = halted.filter(|(_, trouble)| trouble.problem == DiskProblem::HostFull);
        let halted: Vec<_> = halted.map(|(disk, _)| disk.clone()).collect();
        let disks = self.record.spec.disks.iter();
        let disks: Vec<_> = disks
            .filter(|disk| halted.contains(&disk.name))
            .map(|disk| (disk.name.clone(), disk.path.clone()))
            .collect();
        let (vm, aside) = (self.name().to_owned(), self.shared.asides.of(&self.record.id));
        async move {
            if disks.is_empty() {
                return Ok(());
            }
            let room = aside.glance(ROOM_LIMIT, move || first_without_room(disks)).await;
            match room.flatten() {
                Some(full) => Err(no_room(&vm, &full)),
                None => Ok(()),
            }
        }
    }
}

/// A disk that cannot grow.
struct Full {
    disk: String,
    path: PathBuf,
    free: u64,
}

/// Blocks.
fn first_without_room(disks: Vec<(String, PathBuf)>) -> Option<Full> {
    disks.into_iter().find_map(|(disk, path)| {
        let free = image::free_bytes(&path).ok()?;
        (free < ROOM_BYTES).then_some(Full { disk, path, free })
    })
}

fn no_room(vm: &str, Full { disk, path, free }: &Full) -> Refusal {
    let path = path.display();
    Refusal::new(
        RefusalCode::WrongState,
        format!("`{vm}` waits for room for its disk `{disk}`"),
    )
    .vm(vm)
    .state("io-error")
    .cause(format!("{ROOM_BYTES} bytes needed beside `{path}`, {free} free"))
    .hint("free some space: the VM then goes on by itself")
}
