//! Which images go with a VM, and why the others stay. [`plan()`] looks and decides, [`Plan::carry_out`] deletes; [`decide`] is
//! pure.

mod candidate;
mod plan;

use std::collections::BTreeSet;
use std::path::PathBuf;

use maqet_process::identity::{FileId, FileMark};
use maqet_spec::vm::Disk;
use maqet_state::disk::DiskRecords;
use maqet_storage::PathPolicy;

use self::candidate::Whose;
pub(crate) use self::candidate::{Candidate, candidates};
pub(crate) use self::plan::{Outcome, Plan, missing};
use crate::standing::{Dependent, Tie};

/// What a removal is to do with images.
#[derive(Debug)]
pub(crate) struct Order {
    /// Disks of the VM.
    pub(crate) disks: Vec<Disk>,
    /// What is known of its files.
    pub(crate) files: DiskRecords,
    /// Images that maqet made go.
    pub(crate) delete: bool,
    /// Less those that hold snapshots.
    pub(crate) keep_snapshots: bool,
    /// Images that a removal before this one was to delete.
    pub(crate) begun: Vec<PathBuf>,
    /// Directories below this one are maqet's own, and go with what was in them.
    pub(crate) own: PathBuf,
    /// It goes on after it was cut off, and takes nothing that was not to go then.
    pub(crate) resumed: bool,
    /// Images that keep external snapshots.
    pub(crate) bases: Vec<PathBuf>,
    /// Where images may be.
    pub(crate) policy: PathPolicy,
    /// This boot of the host.
    pub(crate) boot_id: String,
}

/// An image that another VM has, or that one of its disks stands on.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    /// The image.
    pub(crate) file: FileId,
    /// Who has it and how, as a clause about it.
    pub(crate) how: String,
}

impl From<Dependent> for Use {
    fn from(found: Dependent) -> Self {
        let Dependent {
            vm, disk, on, tie, ..
        } = found;
        let how = match tie {
            Tie::Is => format!("it is disk `{disk}` of `{vm}` as well"),
            Tie::Stands => format!("disk `{disk}` of `{vm}` stands on it"),
            Tie::Stood => {
                format!(
                    "disk `{disk}` of `{vm}` cannot be looked at, and was or stood on it when it was last used"
                )
            }
        };
        Self {
            file: on.file.id,
            how,
        }
    }
}

/// What is to become of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Delete(FileMark),
    Keep(String),
    /// Nothing was to be deleted.
    Leave,
}

/// Decides about the VM's images, of which `used` are others' too. Blocks.
pub(crate) fn plan(order: &Order, candidates: Vec<Candidate>, used: &[Use]) -> Plan {
    let fates = if order.delete {
        decide(&candidates, used, order.keep_snapshots)
    } else {
        vec![Fate::Leave; candidates.len()]
    };
    let paths = candidates.into_iter().map(|candidate| candidate.path);
    let mut fates: Vec<_> = paths.zip(fates).collect();
    if order.resumed {
        for (path, fate) in &mut fates {
            if matches!(fate, Fate::Delete(_)) && !order.begun.contains(path) {
                *fate = Fate::Keep(UNANNOUNCED.to_owned());
            }
        }
    }
    let gone = missing(&order.begun, &order.own);
    let settled: BTreeSet<_> = fates.iter().map(|(path, _)| path).chain(&gone).cloned().collect();
    let unseen = order.begun.iter().filter(|path| !settled.contains(*path));
    fates.extend(unseen.map(|path| (path.clone(), Fate::Keep(UNSEEN.to_owned()))));
    Plan::new(fates, gone, order.policy.clone())
}

const UNANNOUNCED: &str = "it was not among those that were to go when the removal began";

const UNSEEN: &str = "its directory is not there, or cannot be looked into";

const ANOTHER: &str = "it is another file than the one maqet made";

/// What becomes of each candidate, in their order.
fn decide(candidates: &[Candidate], used: &[Use], keep_snapshots: bool) -> Vec<Fate> {
    let mut fates: Vec<_> = candidates
        .iter()
        .map(|candidate| first_fate(candidate, used, keep_snapshots))
        .collect();
    // What stays must keep what it stands on.
    for (number, candidate) in candidates.iter().enumerate() {
        let stay = candidates.iter().zip(&fates);
        let mut stay = stay.filter(|(_, fate)| matches!(fate, Fate::Keep(_)));
        let why = stay.find_map(|(other, _)| kept_for(other, candidate));
        if let (Some(why), Some(fate @ Fate::Delete(_))) = (why, fates.get_mut(number)) {
            *fate = Fate::Keep(why);
        }
    }
    fates
}

/// Why an image stays for another one, if it does.
fn kept_for(other: &Candidate, candidate: &Candidate) -> Option<String> {
    let above = other.path.display();
    if other.path == candidate.path {
        None
    } else if stands_on(&other.stands_on, candidate) {
        Some(format!("`{above}` stands on it and is kept"))
    } else if other.is_blind && !candidate.is_disk {
        // Images that no disk is made of lie below one, or did.
        let words = "is kept, and what it stands on cannot be followed";
        Some(format!("`{above}` {words}"))
    } else {
        None
    }
}

fn first_fate(candidate: &Candidate, used: &[Use], keep_snapshots: bool) -> Fate {
    let file = match &candidate.whose {
        Whose::Ours(file) => *file,
        Whose::Unseen(why) => return Fate::Keep(why.clone()),
        Whose::Another => return Fate::Keep(ANOTHER.to_owned()),
        Whose::Unrecorded => {
            return Fate::Keep("it was made by an earlier version, and not started since".to_owned());
        }
        Whose::Theirs => return Fate::Keep("maqet did not make it".to_owned()),
    };
    let used = used.iter().find(|used| used.file == file.id);
    match (used, candidate.snapshots) {
        (Some(used), _) => Fate::Keep(used.how.clone()),
        (None, 1) if keep_snapshots => Fate::Keep("it holds a snapshot".to_owned()),
        (None, count @ 2..) if keep_snapshots => Fate::Keep(format!("it holds {count} snapshots")),
        (None, _) => Fate::Delete(file),
    }
}

fn stands_on(images: &[FileId], candidate: &Candidate) -> bool {
    candidate
        .stands_on
        .first()
        .is_some_and(|file| images.contains(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(inode: u64) -> FileId {
        FileId { dev: 1, inode }
    }

    fn mark(inode: u64) -> FileMark {
        let id = id(inode);
        FileMark { id, born_ns: None }
    }

    fn ours(inodes: &[u64]) -> Candidate {
        Candidate {
            path: format!("/vm/{}", inodes[0]).into(),
            whose: Whose::Ours(mark(inodes[0])),
            stands_on: inodes.iter().copied().map(id).collect(),
            snapshots: 0,
            is_disk: true,
            is_blind: false,
        }
    }

    fn holding(snapshots: u32, inodes: &[u64]) -> Candidate {
        Candidate {
            snapshots,
            ..ours(inodes)
        }
    }

    fn theirs(inodes: &[u64]) -> Candidate {
        Candidate {
            whose: Whose::Theirs,
            ..ours(inodes)
        }
    }

    fn used(inode: u64, how: &str) -> Use {
        Use {
            file: id(inode),
            how: how.to_owned(),
        }
    }

    /// What is kept, in words; an empty word is a deletion.
    fn kept(candidates: &[Candidate], others: &[Use], keep_snapshots: bool) -> Vec<String> {
        let fates = decide(candidates, others, keep_snapshots).into_iter();
        fates
            .map(|fate| match fate {
                Fate::Delete(_) | Fate::Leave => String::new(),
                Fate::Keep(why) => why,
            })
            .collect()
    }

    #[test]
    fn only_what_maqet_made_and_still_is_that_file_goes() {
        let of = |whose| Candidate { whose, ..ours(&[1]) };
        for (whose, words) in [
            (Whose::Ours(mark(1)), ""),
            (Whose::Another, "it is another file than the one maqet made"),
            (
                Whose::Unrecorded,
                "it was made by an earlier version, and not started since",
            ),
            (Whose::Unseen("it is away".to_owned()), "it is away"),
            (Whose::Theirs, "maqet did not make it"),
        ] {
            assert_eq!(kept(&[of(whose)], &[], false), [words]);
        }
    }

    #[test]
    fn what_another_vm_has_or_stands_on_stays() {
        let others = [
            used(9, "it is disk `data` of `db` as well"),
            used(1, "stands on it"),
        ];
        assert_eq!(
            kept(
                &[ours(&[1]), ours(&[9]), ours(&[2]), ours(&[3, 1])],
                &others,
                false
            ),
            ["stands on it", "it is disk `data` of `db` as well", "", ""]
        );
    }

    #[test]
    fn snapshots_stay_with_their_chain_if_that_was_asked_for() {
        let chain = [
            ours(&[3, 2, 1]),
            holding(2, &[2, 1]),
            ours(&[1]),
            holding(1, &[5]),
        ];
        assert_eq!(
            kept(&chain, &[], true),
            [
                "",
                "it holds 2 snapshots",
                "`/vm/2` stands on it and is kept",
                "it holds a snapshot"
            ]
        );
        assert_eq!(kept(&chain, &[], false), ["", "", "", ""]);
    }

    /// What lies below an image that stays is not known while nobody can look.
    #[test]
    fn what_may_be_below_an_image_that_is_away_stays() {
        let away = Candidate {
            whose: Whose::Unseen("away".to_owned()),
            is_blind: true,
            stands_on: Vec::new(),
            ..ours(&[3])
        };
        let below = Candidate {
            is_disk: false,
            ..ours(&[1])
        };
        let words = "`/vm/3` is kept, and what it stands on cannot be followed";
        assert_eq!(kept(&[away, ours(&[2]), below], &[], false), ["away", "", words]);
    }

    #[test]
    fn what_people_made_keeps_what_it_stands_on() {
        let candidates = [ours(&[1]), theirs(&[2, 1])];
        assert_eq!(
            kept(&candidates, &[], false),
            ["`/vm/2` stands on it and is kept", "maqet did not make it"]
        );
    }
}
