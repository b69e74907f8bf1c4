//! Carries out what disks in trouble need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_protocol::runner::RunnerFact;
use maqet_qmp::command::{BlockInfo, Cont, QueryBlock};
use maqet_qmp::{Event, Qmp, QmpError, RunState};
use maqet_state::clock;
use maqet_storage::image::{ROOM_BYTES, free_bytes};
use tokio::time::Instant;

use super::{News, Session, Stage};
use crate::troubles::{Due, Told, Wants};

/// Time for a question that QEMU answers at once.
const QUESTION: Duration = Duration::from_secs(10);

impl Session {
    /// QEMU reported something that may be about a disk.
    pub(super) fn disk_event(&mut self, event: &Event) {
        let Stage::Up(live) = &mut self.stage else { return };
        let told = live.troubles.event(&event.name, &event.data, clock::now());
        self.tell_of_disks(told);
    }

    /// The run state is known: a guest that was halted by a disk has others ask why, one that runs has that counted.
    pub(super) fn disks_after(&mut self, run_state: &RunState) {
        let Stage::Up(live) = &mut self.stage else { return };
        live.troubles.runs(run_state, Instant::now());
        let Some(qmp) = live.qmp.clone().filter(|_| *run_state == RunState::IoError) else {
            return;
        };
        self.expect(async move { News::Blocks(qmp.execute(&QueryBlock, QUESTION).await) });
    }

    /// QEMU told of its disks.
    pub(super) fn blocks_known(&mut self, blocks: Result<Vec<BlockInfo>, QmpError>) {
        let Stage::Up(live) = &mut self.stage else { return };
        let blocks = match blocks {
            Ok(blocks) => blocks,
            Err(error) => return tracing::warn!(%error, "QEMU did not tell why the guest is halted"),
        };
        if live.run_state == RunState::IoError {
            let told = live.troubles.halted(&blocks, clock::now(), Instant::now());
            self.tell_of_disks(told);
        }
    }

    /// Somebody looked for room; `false` when there was none.
    pub(super) fn looked_for_room(&mut self, let_run: bool) {
        let Stage::Up(live) = &mut self.stage else { return };
        if let_run {
            live.troubles.let_run(Instant::now());
            self.ask_run_state();
        } else {
            live.troubles.no_room(Instant::now());
        }
    }

    /// Something may be due.
    pub(super) fn tick_disks(&mut self) {
        let ending = self.ending.is_some();
        let Stage::Up(live) = &mut self.stage else { return };
        let wants = match (ending, live.qemu.paused) {
            (true, _) => Wants::End,
            (false, true) => Wants::Rest,
            (false, false) => Wants::Run,
        };
        match live.troubles.due(&live.run_state, wants, Instant::now()) {
            Due::Nothing => {}
            Due::Over(told) => self.tell_of_disks(told),
            Due::Look(disks) => {
                let images = live.qemu.images.iter();
                let images: Vec<PathBuf> = images
                    .filter(|(name, _)| disks.contains(name))
                    .map(|(_, path)| path.clone())
                    .collect();
                let qmp = live.qmp.clone();
                self.expect(async move { News::LookedForRoom(go_on(qmp, images).await) });
            }
        }
    }

    /// A person halts the guest, or lets it go on. A later runner has to know.
    pub(super) fn held(&mut self, held: bool) {
        let Stage::Up(live) = &mut self.stage else { return };
        if std::mem::replace(&mut live.qemu.paused, held) == held {
            return;
        }
        if let Stage::Up(live) = &self.stage {
            self.leave_note(&live.qemu);
        }
    }

    /// QEMU has a disk more, in the place of one that did not come, if one was expected.
    pub(super) fn plugged(&mut self, place: usize, disk: String, path: PathBuf) {
        let Stage::Up(live) = &mut self.stage else { return };
        live.troubles.learn(place, disk.clone());
        live.qemu.images.truncate(place);
        live.qemu.images.push((disk, path));
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(&self.stage, Stage::Up(live) if live.qemu.paused)
    }

    pub(super) fn disk_names(&self) -> Vec<String> {
        let Stage::Up(live) = &self.stage else {
            return Vec::new();
        };
        live.qemu
            .images
            .iter()
            .map(|(name, _path)| name.clone())
            .collect()
    }

    fn tell_of_disks(&mut self, told: impl IntoIterator<Item = Told>) {
        for (disk, trouble) in told {
            tracing::warn!(disk, ?trouble, "a disk is in trouble, or is not any more");
            let again = false;
            self.publish(&RunnerFact::Disk { disk, trouble, again });
        }
    }

    /// What a new watcher has to hear of disks.
    pub(super) fn troubles_told(&self) -> Vec<RunnerFact> {
        let Stage::Up(live) = &self.stage else {
            return Vec::new();
        };
        let facts = live.troubles.iter().map(|(disk, trouble)| RunnerFact::Disk {
            disk: disk.clone(),
            trouble: Some(trouble.clone()),
            again: true,
        });
        facts.collect()
    }
}

/// Lets the guest run if there is room for every disk. Whether it was told to.
async fn go_on(qmp: Option<Qmp>, images: Vec<PathBuf>) -> bool {
    let room = tokio::task::spawn_blocking(move || images.iter().all(|image| has_room(image)));
    let (Some(qmp), Ok(true)) = (qmp, room.await) else {
        return false;
    };
    match qmp.execute(&Cont, QUESTION).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "the guest cannot be let run");
            false
        }
    }
}

/// Whether there is room beside an image. One that cannot be looked at is QEMU's to judge.
fn has_room(image: &Path) -> bool {
    free_bytes(image).map_or(true, |free| free >= ROOM_BYTES)
}
