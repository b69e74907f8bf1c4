//! What is known of the files of a VM's disks.
//!
//! A disk is a path in a spec; which file that means is on record from the moment maqet made it, or a start opened it, so
//! that no other file is ever taken for it. Pure: who opens files is elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use maqet_process::identity::FileMark;
use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::Timestamp;

/// What is known of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Where it is, as the spec says; absolute.
    pub path: PathBuf,
    /// The file; `None` when it was made before files were recorded, and no start has opened it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileMark>,
    /// Boot of the host in which its device number holds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// Made by maqet for this VM; what people made is never deleted.
    #[serde(default)]
    pub made: bool,
    /// A QEMU has had it: it may hold something.
    #[serde(default)]
    pub used: bool,
    /// Image of the library it was made to stand on, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// When `file` was recorded.
    #[serde(default)]
    pub at: Timestamp,
}

impl DiskRecord {
    /// Whether `file` may stand where this one is expected, in the boot `boot_id`.
    pub fn admits(&self, file: &FileMark, boot_id: &str) -> bool {
        let same_boot = self.boot_id == boot_id;
        self.file.is_none_or(|recorded| recorded.is_file(file, same_boot))
    }
}

/// What is known of the files of one VM, at most one entry a path. Entries stay when a spec moves its disk elsewhere:
/// the file is still there, and still this VM's if maqet made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DiskRecords(Vec<DiskRecord>);

/// Another file than the one on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged<'r, 'f> {
    /// What is on record.
    pub record: &'r DiskRecord,
    /// What was found instead.
    pub found: &'f FileMark,
}

/// A file that a QEMU has open, or is about to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Where it is, as the spec says.
    pub path: PathBuf,
    /// The file.
    pub file: FileMark,
}

impl DiskRecords {
    /// No file is known.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether no file is known.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is known of the file at `path`.
    pub fn get(&self, path: &Path) -> Option<&DiskRecord> {
        self.0.iter().find(|record| record.path == path)
    }

    /// The first of these files that is another than the one on record at its path, in the boot `boot_id`.
    pub fn exchanged<'f>(
        &self,
        found: impl IntoIterator<Item = (&'f Path, &'f FileMark)>,
        boot_id: &str,
    ) -> Option<Exchanged<'_, 'f>> {
        found.into_iter().find_map(|(path, found)| {
            let record = self.get(path).filter(|known| !known.admits(found, boot_id))?;
            Some(Exchanged { record, found })
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &DiskRecord> {
        self.0.iter()
    }

    /// maqet made this one.
    #[must_use]
    pub fn made(self, path: PathBuf, file: FileMark, boot_id: &str, at: Timestamp) -> Self {
        self.with(DiskRecord {
            path,
            file: Some(file),
            boot_id: boot_id.to_owned(),
            made: true,
            used: false,
            base: None,
            at,
        })
    }

    /// The one at `path` stands on an image of the library.
    #[must_use]
    pub fn standing_on(mut self, path: &Path, image: &str) -> Self {
        if let Some(record) = self.0.iter_mut().find(|record| record.path == path) {
            record.base = Some(image.to_owned());
        }
        self
    }

    /// A QEMU gets these, which were compared with what is on record.
    #[must_use]
    pub fn used(self, opened: &[Opened], boot_id: &str, at: Timestamp) -> Self {
        opened.iter().fold(self, |records, Opened { path, file }| {
            let known = records.get(path).cloned();
            let recorded_at = known
                .as_ref()
                .filter(|known| known.file.is_some())
                .map_or(at, |known| known.at);
            records.with(DiskRecord {
                path: path.clone(),
                file: Some(*file),
                boot_id: boot_id.to_owned(),
                made: known.as_ref().is_some_and(|known| known.made),
                used: true,
                base: known.and_then(|known| known.base),
                at: recorded_at,
            })
        })
    }

    /// A person says that this is the file, although another one is on record. maqet did not make it.
    #[must_use]
    pub fn accepted(self, path: PathBuf, file: FileMark, boot_id: &str, at: Timestamp) -> Self {
        self.with(DiskRecord {
            path,
            file: Some(file),
            boot_id: boot_id.to_owned(),
            made: false,
            used: true,
            base: None,
            at,
        })
    }

    /// The file at `path` is gone for good.
    #[must_use]
    pub fn forgotten(mut self, path: &Path) -> Self {
        self.0.retain(|record| record.path != path);
        self
    }

    fn with(self, record: DiskRecord) -> Self {
        let mut records = self.forgotten(&record.path);
        records.0.push(record);
        records
    }
}

impl<'de> Deserialize<'de> for DiskRecords {
    /// Reads what earlier versions wrote as well: the paths alone of the files that maqet made.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut seen = BTreeSet::new();
        let mut records = Vec::<Stored>::deserialize(deserializer)?
            .into_iter()
            .map(Stored::read)
            .collect::<Vec<_>>();
        records.retain(|record| seen.insert(record.path.clone()));
        Ok(Self(records))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Path(PathBuf),
    Record(DiskRecord),
}

impl Stored {
    fn read(self) -> DiskRecord {
        match self {
            Self::Record(record) => record,
            // Whether a QEMU had it is not known: it is not made anew without a word.
            Self::Path(path) => DiskRecord {
                path,
                file: None,
                boot_id: String::new(),
                made: true,
                used: true,
                base: None,
                at: Timestamp::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use maqet_process::identity::FileId;
    use serde_json::json;

    use super::*;

    fn mark(inode: u64) -> FileMark {
        let id = FileId { dev: 1, inode };
        FileMark {
            id,
            born_ns: Some(inode),
        }
    }

    fn opened(inode: u64) -> [Opened; 1] {
        let path = PathBuf::from("/vm/root");
        [Opened {
            path,
            file: mark(inode),
        }]
    }

    const AT: Timestamp = Timestamp(7);
    const LATER: Timestamp = Timestamp(9);

    #[test]
    fn a_made_file_stays_made_and_keeps_its_time_when_it_is_used() {
        let made = DiskRecords::new().made("/vm/root".into(), mark(3), "b", AT);
        let fresh = made.get(Path::new("/vm/root")).unwrap();
        assert!(fresh.made && !fresh.used);
        let used = made.used(&opened(3), "later boot", LATER);
        let record = used.get(Path::new("/vm/root")).unwrap();
        assert!(record.made && record.used);
        assert_eq!((record.at, record.boot_id.as_str()), (AT, "later boot"));
        assert_eq!(used.iter().count(), 1);
    }

    #[test]
    fn another_file_is_admitted_only_after_it_was_accepted() {
        let records = DiskRecords::new().used(&opened(3), "b", AT);
        let path = Path::new("/vm/root");
        assert!(records.get(path).unwrap().admits(&mark(3), "b"));
        assert!(!records.get(path).unwrap().admits(&mark(4), "b"));
        let records = records.accepted(path.to_owned(), mark(4), "b", LATER);
        let record = records.get(path).unwrap();
        assert!(record.admits(&mark(4), "b") && !record.made && record.used);
        assert!(records.forgotten(path).is_empty());
    }

    #[test]
    fn paths_of_earlier_versions_are_files_that_maqet_made() {
        let stored = json!(["/vm/root", "/vm/root", {"path": "/vm/data", "made": false, "later": 1}]);
        let records: DiskRecords = serde_json::from_value(stored).unwrap();
        let root = records.get(Path::new("/vm/root")).unwrap();
        assert!(root.made && root.used && root.admits(&mark(5), "b"));
        assert!(!records.get(Path::new("/vm/data")).unwrap().made);
        let again = serde_json::from_value(serde_json::to_value(&records).unwrap()).unwrap();
        assert_eq!(records, again);
        // The first start takes what it finds.
        let used = records.used(&opened(5), "b", AT);
        let root = used.get(Path::new("/vm/root")).unwrap();
        assert_eq!((root.file, root.made, root.at), (Some(mark(5)), true, AT));
    }
}
