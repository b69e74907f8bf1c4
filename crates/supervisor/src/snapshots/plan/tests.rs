//! Work cut off after any step comes to an old or a new end, whatever is settled how often.

use maqet_state::clock::Timestamp;

use super::*;

/// Images as the steps leave them, with what each snapshot and the disk itself holds.
#[derive(Clone, Debug, PartialEq)]
struct Disk {
    holds: u32,
    snapshots: Vec<(u32, String, u32)>,
    next: u32,
}

#[derive(Clone, Debug, PartialEq)]
struct Images(BTreeMap<String, Disk>);

const DISKS: [&str; 2] = ["root", "data"];
/// What the disks hold, and what the old snapshot holds.
const NOW: u32 = 7;
const OLD: u32 = 3;

impl Images {
    fn new(with_old: bool) -> Self {
        let snapshots = if with_old {
            vec![(1, "snap".to_owned(), OLD)]
        } else {
            Vec::new()
        };
        let disk = Disk {
            holds: NOW,
            snapshots,
            next: 2,
        };
        Self(DISKS.map(|name| (name.to_owned(), disk.clone())).into())
    }

    fn found(&self) -> Found {
        let entry = |disk: &str, (id, name, _): &(u32, String, u32)| SnapshotEntry {
            disk: disk.to_owned(),
            id: id.to_string(),
            name: name.clone(),
            at: Timestamp(u64::from(*id)),
            vm_state_bytes: 0,
            vm_clock_ms: 0,
        };
        let of = |(name, disk): (&String, &Disk)| {
            (
                name.clone(),
                disk.snapshots.iter().map(|one| entry(name, one)).collect(),
            )
        };
        self.0.iter().map(of).collect()
    }

    /// Takes a step disk by disk, and no more than `budget` disks in all: then it is cut off.
    fn take(&mut self, step: &Step, budget: &mut u32) -> bool {
        let (disks, one) = match step {
            Step::Create { disks, .. } | Step::Apply { disks, .. } => (disks.clone(), None),
            Step::Delete { disk, .. } => (Vec::new(), Some(disk.clone())),
        };
        for disk in disks.into_iter().chain(one) {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            self.change(step, &disk);
        }
        true
    }

    fn change(&mut self, step: &Step, disk: &str) {
        let disk = self.0.get_mut(disk).unwrap();
        match step {
            Step::Create { name, .. } => {
                disk.snapshots.push((disk.next, name.clone(), disk.holds));
                disk.next += 1;
            }
            Step::Apply { name, .. } => {
                disk.holds = disk.snapshots.iter().find(|one| one.1 == *name).unwrap().2;
            }
            Step::Delete { name, .. } => {
                let at = disk.snapshots.iter().position(|one| one.1 == *name).unwrap();
                disk.snapshots.remove(at);
            }
        }
    }

    /// What each disk has of snapshots, by name and content.
    fn kept(&self) -> Vec<Vec<(String, u32)>> {
        let of = |disk: &Disk| {
            let named = disk.snapshots.iter();
            named.map(|(_, name, holds)| (name.clone(), *holds)).collect()
        };
        self.0.values().map(of).collect()
    }

    /// Brings to its end what cannot be made once more; `None` when it is cut off.
    fn resign(&mut self, work: &SnapshotWork, budget: &mut u32) -> Option<End> {
        let settlement = replacement::resign(work, &self.found());
        let mut steps = settlement.steps.iter();
        steps
            .all(|step| self.take(step, budget))
            .then_some(settlement.end)
    }

    /// Settles with a budget; `None` when it is cut off.
    fn settle(&mut self, work: &SnapshotWork, budget: &mut u32) -> Option<bool> {
        let settlement = settle(work, &self.found());
        settlement
            .steps
            .iter()
            .all(|step| self.take(step, budget))
            .then_some(settlement.end == End::Reached)
    }

    /// What every disk holds, and what the snapshot on it holds, if all agree.
    fn agreed(&self) -> Option<(u32, Option<u32>)> {
        let of = |disk: &Disk| {
            let named: Vec<_> = disk.snapshots.iter().filter(|one| one.1 == "snap").collect();
            assert!(
                named.len() <= 1 && named.len() == disk.snapshots.len(),
                "{disk:?}"
            );
            (disk.holds, named.first().map(|one| one.2))
        };
        let all: Vec<_> = self.0.values().map(of).collect();
        all.windows(2).all(|two| two[0] == two[1]).then(|| all[0])
    }
}

fn work(action: SnapshotAction, overwrites: bool) -> SnapshotWork {
    let one = || Numbers::All(vec!["1".to_owned()]);
    let old = DISKS.map(|disk| (disk.to_owned(), one()));
    SnapshotWork {
        action,
        name: "snap".to_owned(),
        disks: DISKS.map(str::to_owned).to_vec(),
        replaces: if overwrites { old.into() } else { BTreeMap::new() },
        memory: false,
        live: false,
        key: None,
    }
}

/// Every work, what it begins with, and its two ends: what the disks and the snapshot hold.
fn works() -> [(SnapshotWork, bool, (u32, Option<u32>)); 4] {
    [
        (work(SnapshotAction::Create, false), false, (NOW, Some(NOW))),
        (work(SnapshotAction::Create, true), true, (NOW, Some(NOW))),
        (work(SnapshotAction::Load, false), true, (OLD, Some(OLD))),
        (work(SnapshotAction::Delete, false), true, (NOW, None)),
    ]
}

#[test]
fn work_that_is_not_disturbed_is_achieved() {
    for (work, with_old, new) in works() {
        let mut images = Images::new(with_old);
        let mut budget = u32::MAX;
        assert!(begin(&work).is_none_or(|step| images.take(&step, &mut budget)));
        assert_eq!(images.settle(&work, &mut budget), Some(true), "{work:?}");
        assert_eq!(images.agreed(), Some(new), "{work:?}");
    }
}

#[test]
fn work_cut_off_anywhere_and_again_while_it_is_settled_ends_old_or_new() {
    for (work, with_old, new) in works() {
        let old = Images::new(with_old).agreed().unwrap();
        for (first, second) in (0..12).flat_map(|first| (0..12).map(move |second| (first, second))) {
            let mut images = Images::new(with_old);
            let mut budget = first;
            let begun = begin(&work).is_none_or(|step| images.take(&step, &mut budget));
            if begun {
                images.settle(&work, &mut budget);
            }
            let mut budget = second;
            images.settle(&work, &mut budget);
            let achieved = images.settle(&work, &mut u32::MAX.clone()).unwrap();
            let expected = if achieved { new } else { old };
            let context = format!("{work:?} cut off after {first} and {second}");
            // A load that has come to its end before is not told from one that never began; both ends are whole.
            let whole = [Some(old), Some(new)].contains(&images.agreed());
            let exact = work.action == SnapshotAction::Load || images.agreed() == Some(expected);
            assert!(whole && exact, "{context}: {images:?}");
        }
    }
}

/// The old one, or a new one under the name that was wanted or under that of its keeper, on all disks.
#[test]
fn memory_that_cannot_be_kept_again_stays_under_another_name() {
    let work = SnapshotWork {
        memory: true,
        live: true,
        ..work(SnapshotAction::Create, true)
    };
    let mut ends = Vec::new();
    for (first, second) in (0..12).flat_map(|first| (0..12).map(move |second| (first, second))) {
        let mut images = Images::new(true);
        let mut budget = first;
        if images.take(&begin(&work).unwrap(), &mut budget) {
            images.settle(&work, &mut budget);
        }
        let mut budget = second;
        images.resign(&work, &mut budget);
        let end = images.resign(&work, &mut u32::MAX.clone()).unwrap();
        let expected = match end {
            End::Before => vec![("snap".to_owned(), OLD)],
            End::Reached => vec![("snap".to_owned(), NOW)],
            End::KeptAs => vec![("snap.new".to_owned(), NOW)],
        };
        let kept = images.kept();
        assert_eq!(
            kept,
            [expected.clone(), expected],
            "cut off after {first} and {second}"
        );
        ends.push(end);
    }
    assert!(
        [End::Before, End::Reached, End::KeptAs]
            .iter()
            .all(|end| ends.contains(end))
    );
}

/// Other programs make several of one name.
#[test]
fn a_new_one_takes_the_place_of_all_of_its_name() {
    let mut images = Images::new(true);
    for disk in images.0.values_mut() {
        disk.snapshots.push((2, "snap".to_owned(), OLD));
        disk.next = 3;
    }
    let found = images.found();
    let numbers = |disk: &str| (disk.to_owned(), numbers_of(&found, disk, "snap").unwrap());
    let work = SnapshotWork {
        replaces: DISKS.map(numbers).into(),
        ..work(SnapshotAction::Create, true)
    };
    let before = images.clone();
    for cut in 0..16 {
        let mut images = before.clone();
        let mut budget = cut;
        if images.take(&begin(&work).unwrap(), &mut budget) {
            images.settle(&work, &mut budget);
        }
        let achieved = images.settle(&work, &mut u32::MAX.clone()).unwrap();
        let expected = if achieved { vec![NOW] } else { vec![OLD, OLD] };
        let named = |holds| ("snap".to_owned(), holds);
        let expected: Vec<_> = expected.into_iter().map(named).collect();
        assert_eq!(images.kept(), [expected.clone(), expected], "cut off after {cut}");
    }
}

#[test]
fn a_load_that_cannot_be_finished_goes_back() {
    let work = work(SnapshotAction::Load, false);
    let mut images = Images::new(true);
    let mut budget = u32::MAX;
    assert!(images.take(&begin(&work).unwrap(), &mut budget));
    images.change(&apply(&work, "snap"), "root");
    assert!(retreat(&work).iter().all(|step| images.take(step, &mut budget)));
    assert_eq!(images.agreed(), Some((NOW, Some(OLD))));
}

#[test]
fn a_load_by_qemu_is_never_repeated() {
    let work = SnapshotWork {
        live: true,
        ..work(SnapshotAction::Load, false)
    };
    assert_eq!(settle(&work, &Images::new(true).found()).steps, []);
    assert_eq!(begin(&work), Some(apply(&work, "snap")));
}

#[test]
fn snapshots_are_shown_by_name_and_age() {
    let mut images = Images::new(true);
    let keeper = Step::Create {
        name: SnapshotWork::KEEPER.to_owned(),
        disks: vec!["data".to_owned()],
        memory: false,
    };
    images.take(&keeper, &mut u32::MAX.clone());
    images.change(
        &Step::Create {
            name: "a".to_owned(),
            disks: Vec::new(),
            memory: false,
        },
        "root",
    );
    let disks = DISKS.map(str::to_owned);
    let shown = summaries(&images.found(), &disks, 2);
    let shown: Vec<_> = shown
        .iter()
        .map(|info| (info.name.as_str(), info.disks.len(), info.complete))
        .collect();
    assert_eq!(shown, [("snap", 2, true), ("a", 1, false)]);
}
