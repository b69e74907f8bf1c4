//! Images that maqet made for the VM, and what may become of them: none goes before it is on record that it will.

use std::collections::BTreeSet;
use std::path::PathBuf;

use maqet_process::identity::FileMark;
use maqet_protocol::control::Removed;
use maqet_state::disk::DiskRecords;
use maqet_state::record::VmRecord;

use super::play::Play;
use crate::args::Places;

/// More than one, so that a removal can be cut off between them.
const NAMES: [&str; 3] = ["root", "data", "more"];

fn images(places: &Places) -> Vec<PathBuf> {
    let place = places.disks().join("web");
    NAMES.iter().map(|name| place.join(name)).collect()
}

/// Makes them; what is on record of them.
pub(super) fn make(places: &Places, record: &VmRecord) -> DiskRecords {
    let boot_id = maqet_process::identity::boot_id().unwrap();
    std::fs::create_dir_all(places.disks().join("web")).unwrap();
    let made = images(places).into_iter();
    made.fold(DiskRecords::new(), |records, path| {
        std::fs::write(&path, [0; 512]).unwrap();
        let file = FileMark::of_fd(std::fs::File::open(&path).unwrap()).unwrap();
        records.made(path, file, &boot_id, record.created_at)
    })
}

fn missing(places: &Places) -> BTreeSet<PathBuf> {
    images(places).into_iter().filter(|path| !path.exists()).collect()
}

impl Play {
    /// Nothing moves: what is gone is on record as going, or the VM is gone as well.
    pub(super) fn check_images(&self) {
        let missing = missing(&self.places);
        let record = self.world.store.vm(&self.world.vm).unwrap();
        let Some(record) = record.filter(|_| !missing.is_empty()) else {
            return;
        };
        let going = record.removal.is_some_and(|removal| {
            let known = |path: &PathBuf| removal.images.contains(path);
            missing.iter().all(known)
        });
        if !going {
            self.world
                .blame(format!("{missing:?} are gone, and no removal is on record"));
        }
    }

    /// In the end: a removal on record has failed after something was gone, and says what.
    pub(super) fn check_half_removed(&self, record: &VmRecord) {
        let missing = missing(&self.places);
        let told: Option<BTreeSet<_>> = record
            .removal
            .as_deref()
            .map(|removal| removal.gone.iter().cloned().collect());
        if told.as_ref().is_some_and(BTreeSet::is_empty) || told.unwrap_or_default() != missing {
            self.world
                .blame(format!("{missing:?} are gone, on record is {:?}", record.removal));
        }
    }

    /// What the journal says is deleted is gone, and nothing else.
    pub(super) fn check_deleted(&self) {
        let journal = self.journal().into_iter();
        let removed = journal.rev().find(|entry| entry.kind == "vm.removed");
        let told = removed.and_then(|entry| entry.data.get("deleted").cloned());
        let told: BTreeSet<PathBuf> =
            told.map_or_else(BTreeSet::new, |told| serde_json::from_value(told).unwrap());
        if told != missing(&self.places) {
            self.world.blame(format!("{told:?} are told as deleted"));
        }
    }

    /// What somebody was told of a removal.
    pub(super) fn check_told(&self, removed: &Removed) {
        let there = |path: &PathBuf| path.exists();
        if removed.deleted.iter().any(there) {
            self.world.blame(format!("was told of {removed:?}"));
        }
    }
}
