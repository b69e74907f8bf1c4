//! Disks in trouble while the VM runs: what is shown, told and put on record.

use actix::Context;
use maqet_protocol::control::{DiskProblem, DiskTrouble};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::change::Change;
use maqet_storage::image::{self, ROOM_BYTES};

use super::VmActor;

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
            let change = self.trouble_told(disk, trouble);
            self.persist_later(change, context);
        }
        self.show();
    }

    fn trouble_told(&mut self, disk: &str, trouble: Option<DiskTrouble>) -> Change {
        let path = self.record.spec.disks.iter().find(|known| known.name == disk);
        let path = path.map(|known| known.path.clone()).unwrap_or_default();
        let kind = match trouble.as_ref().map(|trouble| trouble.problem) {
            None => "vm.disk-resumed",
            Some(DiskProblem::HostFull) => "vm.disk-full",
            Some(DiskProblem::Error) => "vm.disk-error",
            Some(DiskProblem::Damaged) => "vm.disk-damaged",
        };
        let event = self
            .event(kind)
            .with("disk", disk)
            .with("path", path.display().to_string());
        let event = match image::free_bytes(&path) {
            Ok(free) => event.with("free_bytes", free),
            Err(_gone) => event,
        };
        let Some(DiskTrouble {
            problem,
            detail,
            since,
        }) = trouble
        else {
            return Change::default().event(event);
        };
        let event = match &detail {
            Some(detail) => event.with("detail", detail.clone()),
            None => event,
        };
        if problem != DiskProblem::Damaged {
            return Change::default().event(event);
        }
        let found = detail.unwrap_or_else(|| "QEMU found it damaged".to_owned());
        let health = std::mem::take(&mut self.record.health);
        self.record.health = health.damaged(path, found, since);
        Change::update(self.record.clone()).event(event)
    }

    /// Refuses to let a guest run that would be halted again at once.
    ///
    /// # Errors
    /// `wrong-state` while the host has no room for one of its disks.
    pub(super) fn room_to_go_on(&self) -> Result<(), Refusal> {
        let Some(live) = &self.live else { return Ok(()) };
        let halted = |disk: &str| {
            let trouble = live.troubles.get(disk);
            trouble.is_some_and(|trouble| trouble.problem == DiskProblem::HostFull)
        };
        for disk in self.record.spec.disks.iter().filter(|disk| halted(&disk.name)) {
            let free = image::free_bytes(&disk.path).unwrap_or(u64::MAX);
            if free < ROOM_BYTES {
                let (vm, path) = (self.name(), disk.path.display());
                let message = format!("`{vm}` waits for room for its disk `{}`", disk.name);
                return Err(Refusal::new(RefusalCode::WrongState, message)
                    .vm(vm)
                    .state("io-error")
                    .cause(format!("{ROOM_BYTES} bytes needed beside `{path}`, {free} free"))
                    .hint("free some space: the VM then goes on by itself"));
            }
        }
        Ok(())
    }
}
