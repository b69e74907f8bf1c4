//! One list of VMs out of a backup and the VMs' own directories. Pure.
//!
//! A directory is written before every commit, so it is never older than a copy of the store: where both know a VM, the
//! one that has seen more launches wins, and the directory if both have seen the same. Two VMs of one name keep it in the
//! order *directory before backup, running before resting, newer before older*; the others are renamed, never lost.
//!
//! A removal that has begun is not taken over: nothing is deleted on the word of a copy, or of a directory that says what was
//! about to be committed and may not have been.

use std::collections::{BTreeMap, BTreeSet};

use maqet_spec::name::VmName;

use crate::id::VmId;
use crate::record::VmRecord;

/// Where a VM's record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Its own directory.
    Directory,
    /// A copy of the store.
    Backup,
}

/// A VM that is in the new store.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// Its record.
    pub record: VmRecord,
    /// Where that came from.
    pub origin: Origin,
    /// Its name before, when another VM has it now.
    pub renamed_from: Option<String>,
}

/// Digits of its id that a renamed VM gets behind its name: as few as tell it from all others.
const SUFFIX_DIGITS: [usize; 3] = [8, 16, VmId::LENGTH];

/// Characters of a name.
const NAME_CHARACTERS_MAX: usize = 63;

/// Merges what a backup and the directories know, by id.
pub fn merge(backup: Vec<VmRecord>, directories: Vec<VmRecord>) -> Vec<Restored> {
    let mut known: BTreeMap<VmId, (VmRecord, Origin)> = BTreeMap::new();
    for record in backup {
        known.insert(record.id.clone(), (record, Origin::Backup));
    }
    for record in directories {
        let newer = |(held, _): &(VmRecord, Origin)| held.generation > record.generation;
        if !known.get(&record.id).is_some_and(newer) {
            known.insert(record.id.clone(), (record, Origin::Directory));
        }
    }
    let mut order: Vec<(VmRecord, Origin)> = known.into_values().collect();
    order.sort_by_key(|(record, origin)| {
        let resting = record.state.launch().is_none();
        (*origin, resting, std::cmp::Reverse(record.created_at))
    });
    let mut names = BTreeSet::new();
    let mut restored: Vec<Restored> = order
        .into_iter()
        .map(|(mut record, origin)| {
            record.removal = None;
            name_apart(record, origin, &mut names)
        })
        .collect();
    restored.sort_by(|one, other| one.record.id.cmp(&other.record.id));
    restored
}

fn name_apart(mut record: VmRecord, origin: Origin, names: &mut BTreeSet<String>) -> Restored {
    let name = record.name().to_owned();
    if names.insert(name.clone()) {
        return Restored {
            record,
            origin,
            renamed_from: None,
        };
    }
    let other = SUFFIX_DIGITS
        .iter()
        .filter_map(|digits| other_name(&name, &record.id, *digits).parse::<VmName>().ok())
        .find(|other| names.insert(other.as_str().to_owned()));
    if let Some(other) = other {
        record.spec.name = other;
    }
    Restored {
        record,
        origin,
        renamed_from: Some(name),
    }
}

/// The name with the last `digits` of the id behind it.
fn other_name(name: &str, id: &VmId, digits: usize) -> String {
    let kept: String = name
        .chars()
        .take(NAME_CHARACTERS_MAX.saturating_sub(digits + 1))
        .collect();
    let suffix: String = id.as_str().chars().skip(VmId::LENGTH - digits).collect();
    format!("{kept}-{suffix}")
}
