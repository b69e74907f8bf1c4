//! A new snapshot in the place of an old one of the same name.
//!
//! A keeper with the new content is on every disk before an old one goes, and goes last. Memory can be kept only while its QEMU lives:
//! where the new snapshot cannot be made a second time, under its name, the keeper is what is left of it, and has a name that a
//! person can give.

use maqet_protocol::control::SnapshotEntry;
use maqet_state::snapshot::SnapshotWork;

use super::{End, Found, Settlement, Step, create, delete, deletions, entries, has};

/// The old one goes only once every disk has what the new one is to hold.
pub(super) fn settle(work: &SnapshotWork, found: &Found) -> Settlement {
    let looked = Looked { work, found };
    let achieved = looked.all(|disk| looked.is_kept(disk) || looked.is_new(disk));
    let mut steps = Vec::new();
    if achieved {
        steps.extend(looked.outdated());
        let (made, missing): (Vec<_>, Vec<_>) =
            work.disks.iter().cloned().partition(|disk| looked.is_new(disk));
        if work.memory && !missing.is_empty() {
            // Memory belongs to all disks at one moment.
            steps.extend(made.iter().map(|disk| delete(&work.name, disk)));
            steps.push(create(work, &work.name, &work.disks));
        } else if !missing.is_empty() {
            steps.push(create(work, &work.name, &missing));
        }
    }
    steps.extend(deletions(work, found, &work.keeper()));
    Settlement {
        steps,
        end: End::reached(achieved),
    }
}

/// The same where nothing with memory can be made any more: what is there on all disks stays, the wanted name before the old
/// snapshot before the keeper.
pub(crate) fn resign(work: &SnapshotWork, found: &Found) -> Settlement {
    let looked = Looked { work, found };
    let keepers = || deletions(work, found, &work.keeper());
    if looked.all(|disk| looked.is_new(disk)) {
        let mut steps = looked.outdated();
        steps.extend(keepers());
        let end = End::Reached;
        return Settlement { steps, end };
    }
    if looked.all(|disk| looked.has_all_old(disk)) {
        let (steps, end) = (keepers(), End::Before);
        return Settlement { steps, end };
    }
    if looked.all(|disk| looked.is_kept(disk)) {
        let (steps, end) = (deletions(work, found, &work.name), End::KeptAs);
        return Settlement { steps, end };
    }
    // Somebody else was there: nothing is deleted that may be the last of its kind.
    let (steps, end) = (Vec::new(), End::Before);
    Settlement { steps, end }
}

struct Looked<'l> {
    work: &'l SnapshotWork,
    found: &'l Found,
}

impl<'l> Looked<'l> {
    fn all(&self, is_so: impl Fn(&str) -> bool) -> bool {
        self.work.disks.iter().all(|disk| is_so(disk))
    }

    fn named(&self, disk: &str) -> impl Iterator<Item = &'l SnapshotEntry> {
        entries(self.found, disk).filter(|entry| entry.name == self.work.name)
    }

    fn is_old(&self, disk: &str, entry: &SnapshotEntry) -> bool {
        let old = self.work.replaces.get(disk);
        old.is_some_and(|old| old.contains(&entry.id))
    }

    fn has_old(&self, disk: &str) -> bool {
        self.named(disk).any(|entry| self.is_old(disk, entry))
    }

    /// What one disk had of the old one it still has.
    fn has_all_old(&self, disk: &str) -> bool {
        !self.work.replaces.contains_key(disk) || self.has_old(disk)
    }

    fn is_kept(&self, disk: &str) -> bool {
        has(self.found, disk, &self.work.keeper())
    }

    fn is_new(&self, disk: &str) -> bool {
        self.named(disk).any(|entry| !self.is_old(disk, entry)) && !self.has_old(disk)
    }

    /// A step for each old one. Both sorts have one name, of which the oldest goes first.
    fn outdated(&self) -> Vec<Step> {
        let of = |disk: &String| {
            let old = self.named(disk).filter(|entry| self.is_old(disk, entry)).count();
            vec![delete(&self.work.name, disk); old]
        };
        self.work.disks.iter().flat_map(of).collect()
    }
}
