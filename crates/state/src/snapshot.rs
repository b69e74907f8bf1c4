//! Work on snapshots that has begun, as it is recorded before the first image is touched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotAction {
    /// A snapshot is made.
    Create,
    /// The disks are brought back to one.
    Load,
    /// One is deleted.
    Delete,
}

/// How a snapshot is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotKind {
    /// Inside the images.
    #[default]
    Internal,
    /// As files of its own: the image stays as it was, below a new one.
    External,
}

impl SnapshotKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

/// Work on the snapshots of a VM that may be cut off at any step: whoever finds it recorded looks at the images, and
/// takes it back or finishes it before anything else is done with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotWork {
    /// What.
    pub action: SnapshotAction,
    /// Name of the snapshot.
    pub name: String,
    /// Names of the disks it is about.
    pub disks: Vec<String>,
    /// Snapshots of that name which a new one replaces: QEMU's numbers, by disk. Other programs make several of one name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replaces: BTreeMap<String, Numbers>,
    /// The machine's memory is part of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory: bool,
    /// QEMU does it, of a VM that runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live: bool,
    /// Idempotency key of the call that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// QEMU's numbers of snapshots in one image. Stores of before have a single one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Numbers {
    /// One.
    One(String),
    /// All of one name.
    All(Vec<String>),
}

impl Numbers {
    /// Whether this is one of them.
    pub fn contains(&self, number: &str) -> bool {
        match self {
            Self::One(one) => one == number,
            Self::All(all) => all.iter().any(|one| one == number),
        }
    }
}

/// Longest name of a snapshot that a person gives, bytes.
const NAME_BYTES_MAX: usize = 63;

impl SnapshotWork {
    /// Name of the snapshot that keeps what could be lost until the work is done. No snapshot of a person has such a name.
    pub const KEEPER: &'static str = ".maqet-work";
    /// How the name of one ends that is kept under another name than was wanted.
    const NEW: &'static str = ".new";

    /// Name of the snapshot that keeps what could be lost until this work is done. One with memory cannot be made a second time
    /// once its QEMU has ended, so that it has a name by which it can be loaded.
    pub fn keeper(&self) -> String {
        if !self.replaces_memory() {
            return Self::KEEPER.to_owned();
        }
        let room = NAME_BYTES_MAX - Self::NEW.len();
        let end = (0..=room.min(self.name.len())).rfind(|end| self.name.is_char_boundary(*end));
        let kept = end.and_then(|end| self.name.get(..end)).unwrap_or_default();
        format!("{kept}{}", Self::NEW)
    }

    /// Whether a new snapshot with memory is to take the place of one.
    pub fn replaces_memory(&self) -> bool {
        self.action == SnapshotAction::Create && self.memory && !self.replaces.is_empty()
    }

    /// Whether it needs a keeper.
    pub fn is_kept(&self) -> bool {
        match self.action {
            SnapshotAction::Create => !self.replaces.is_empty(),
            SnapshotAction::Load => !self.live,
            SnapshotAction::Delete => false,
        }
    }

    /// Whether a QEMU goes back to the snapshot, from disk to disk: where it is cut off, disks may hold different moments.
    pub fn is_load_by_qemu(&self) -> bool {
        self.live && self.action == SnapshotAction::Load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replacing(name: &str, memory: bool) -> SnapshotWork {
        SnapshotWork {
            action: SnapshotAction::Create,
            name: name.to_owned(),
            disks: Vec::new(),
            replaces: [("root".to_owned(), Numbers::All(vec!["1".to_owned()]))].into(),
            memory,
            live: memory,
            key: None,
        }
    }

    #[test]
    fn what_keeps_memory_can_be_named_by_a_person() {
        assert_eq!(replacing("warm", false).keeper(), ".maqet-work");
        assert_eq!(replacing("warm", true).keeper(), "warm.new");
        let long = replacing(&"x".repeat(63), true).keeper();
        assert_eq!((long.len(), long.ends_with("xx.new")), (63, true));
    }

    #[test]
    fn work_on_record_of_before_is_understood() {
        let json = r#"{"action":"create","name":"a","disks":["root"],"replaces":{"root":"3"}}"#;
        let work: SnapshotWork = serde_json::from_str(json).unwrap();
        assert!(work.replaces["root"].contains("3"));
        let again = serde_json::to_value(replacing("a", true)).unwrap();
        assert_eq!(again["replaces"]["root"], serde_json::json!(["1"]));
    }
}
