//! Copies of the store that a new one may begin as.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use maqet_state::clock;
use maqet_state::journal::JournalLimits;
use maqet_state::store::Draft;

use crate::args::Places;
use crate::link::chain;

/// The newest copy that can be read in full. Copies are read, never changed.
pub(super) fn newest(places: &Places, limits: JournalLimits) -> Option<(Draft, PathBuf)> {
    let now = UNIX_EPOCH + Duration::from_millis(clock::now().0);
    let mut copies: Vec<_> = [places.backups(), places.data.clone()]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
        .filter(|entry| is_backup(&entry.path(), places))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        // One from under a clock that was ahead comes last.
        .map(|(modified, path)| (modified <= now, modified, path))
        .collect();
    copies.sort();
    copies.into_iter().rev().find_map(
        |(_, _, path)| match Draft::copy_of(&path, &places.store(), limits) {
            Ok(draft) => Some((draft, path)),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = chain(&error), "a backup that is no good");
                None
            }
        },
    )
}

/// `backups/*.redb`, and what a migration left beside the store.
fn is_backup(path: &Path, places: &Places) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if path.parent() == Some(&places.backups()) {
        return Path::new(name).extension().is_some_and(|ending| ending == "redb");
    }
    name.starts_with("state.redb.v") && Path::new(name).extension().is_some_and(|ending| ending == "bak")
}
