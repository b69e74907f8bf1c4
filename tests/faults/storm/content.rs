//! What the disks of a VM may hold, after all that was asked for and all that may have come of it.

use std::collections::{BTreeMap, BTreeSet};

use maqet_tests::Output;

use super::plan::{Order, Verb};

/// A byte that was written to each of the two disks, zero before anything was.
pub(super) type Held = [u8; 2];

/// What a snapshot keeps: of the second disk too, or of the first alone.
type Kept = (Held, bool);

/// What one VM's disks may hold, and what may be kept in its snapshots.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// Exactly one, once somebody has looked.
    pub(super) present: BTreeSet<Held>,
    snapshots: BTreeMap<String, BTreeSet<Kept>>,
    /// There are snapshots that are files of their own, and images below with snapshots that are not listed for now.
    layered: bool,
}

/// An order and the exit code of its client.
pub(super) type Done = (Order, i32);

/// Whoever was refused changed nothing, unless another order came in its place. Under a dead supervisor the client asks the
/// next one, which may find the order in its own way.
pub(super) fn may_have_changed(output: &Output, asked_twice: bool) -> bool {
    match output.code {
        2..=4 => false,
        5 => asked_twice || output.stderr.contains("cut short by another command"),
        _ => true,
    }
}

impl Content {
    /// Disks on which nothing was written.
    pub(super) fn blank() -> Self {
        Self {
            present: BTreeSet::from([[0, 0]]),
            ..Self::default()
        }
    }

    /// Both disks hold this now.
    pub(super) fn written(&mut self, byte: u8) {
        self.present = BTreeSet::from([[byte, byte]]);
    }

    /// What may be so after these orders, carried out in any order, each whole or not at all.
    pub(super) fn after(&mut self, done: &[Done]) {
        if let [(order, 0)] = done {
            return self.surely(order);
        }
        for _ in done {
            for (order, _) in done {
                self.step(order);
            }
        }
    }

    /// After an order that nothing came between, and that was done.
    fn surely(&mut self, order: &Order) {
        if order.verb.is_load() {
            self.present = self.loaded(order.name);
        } else {
            if !self.layered {
                // What it replaces is gone.
                self.snapshots.remove(order.name);
            }
            self.step(order);
        }
    }

    fn step(&mut self, order: &Order) {
        if order.verb.is_load() {
            let loaded = self.loaded(order.name);
            self.present.extend(loaded);
        } else if order.verb.is_create() {
            let whole = !order.is_of_root();
            let kept = self.present.iter().map(|held| (*held, whole));
            self.snapshots
                .entry(order.name.to_owned())
                .or_default()
                .extend(kept);
        }
    }

    /// What the disks hold once they went back to a snapshot.
    fn loaded(&self, name: &str) -> BTreeSet<Held> {
        let kept = self.snapshots.get(name).into_iter().flatten();
        kept.flat_map(|(kept, whole)| {
            self.present
                .iter()
                .map(move |now| [kept[0], if *whole { kept[1] } else { now[1] }])
        })
        .collect()
    }

    /// These snapshots are there, and no others.
    pub(super) fn listed(&mut self, names: &BTreeSet<String>, layered: bool) {
        let unknown = names.iter().find(|name| !self.snapshots.contains_key(*name));
        assert_eq!(unknown, None, "a snapshot that nobody asked for");
        self.layered = layered;
        self.snapshots.retain(|name, _| layered || names.contains(name));
    }

    /// Somebody looked.
    pub(super) fn seen(&mut self, held: Held) {
        assert!(
            self.present.contains(&held),
            "the disks hold {held:?} instead of one of {:?}",
            self.present
        );
        self.present = BTreeSet::from([held]);
    }

    /// What a disk may have held when the snapshot was made.
    pub(super) fn kept(&self, name: &str, disk: usize) -> BTreeSet<u8> {
        let kept = self.snapshots.get(name).into_iter().flatten();
        kept.map(|(held, _)| held[disk]).collect()
    }
}

impl Verb {
    fn is_load(self) -> bool {
        matches!(self, Self::Load | Self::LoadMemory)
    }

    fn is_create(self) -> bool {
        matches!(
            self,
            Self::Create | Self::CreateMemory | Self::CreateExternal | Self::Replace
        )
    }

    /// It concerns what disks hold.
    pub(super) fn is_of_content(self) -> bool {
        self.is_load() || self.is_create() || self == Self::Delete
    }
}
