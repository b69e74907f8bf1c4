//! Daily copies of the store: their names, when the next one is due, and which are too many.
//!
//! The clock may jump. A copy that is dated more than [`EVERY`] ahead of it was made under another clock: it stops no
//! newer one, and is the first to go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Timestamp;

/// Time between two of them.
pub const EVERY: Duration = Duration::from_hours(24);

/// Age of a store at which it gets its first one. Before that the VMs' own directories hold all but the journal's
/// first hour, and a store of a short-lived sandbox needs no copy.
pub const FIRST: Duration = Duration::from_hours(1);

/// How many are kept.
pub const KEPT: usize = 3;

const PREFIX: &str = "state-";
const SUFFIX: &str = ".redb";
/// `state-20260131T235959Z.redb`.
const NAME_CHARACTERS: usize = PREFIX.len() + "20260131T235959Z".len() + SUFFIX.len();

/// One of them, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daily {
    /// When it was made, by the clock of that moment.
    pub at: Timestamp,
    /// The file.
    pub path: PathBuf,
}

/// Name of a copy that is made now.
pub fn name(at: Timestamp) -> String {
    let text = at.to_string();
    let seconds = text.split('.').next().unwrap_or_default();
    let plain: String = seconds.chars().filter(|letter| !"-:".contains(*letter)).collect();
    format!("{PREFIX}{plain}Z{SUFFIX}")
}

/// When the copy of this name was made; `None` for every other file, which is nobody's to delete.
pub(crate) fn moment(name: &str) -> Option<Timestamp> {
    if name.len() != NAME_CHARACTERS || !name.is_ascii() {
        return None;
    }
    let plain = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let part = |from, to| plain.get(from..to);
    let (date, time) = (
        [part(0, 4)?, part(4, 6)?, part(6, 8)?].join("-"),
        [part(9, 11)?, part(11, 13)?, part(13, 15)?].join(":"),
    );
    let at = humantime::parse_rfc3339(&format!("{date}T{time}Z")).ok()?;
    let at = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    let at = Timestamp(u64::try_from(at.as_millis()).ok()?);
    // What the other parts of the name say: only a name that we would give is one of ours.
    (self::name(at) == name).then_some(at)
}

/// Those in a directory, the oldest first; those dated ahead of `now` before all others. None when there is no directory.
///
/// # Errors
/// When it cannot be read.
pub fn list(directory: &Path, now: Timestamp) -> io::Result<Vec<Daily>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let at = entry.file_name().to_str().and_then(moment);
        found.extend(at.map(|at| Daily {
            at,
            path: entry.path(),
        }));
    }
    found.sort_by_key(|daily| (!is_ahead(daily.at, now), daily.at));
    Ok(found)
}

fn is_ahead(at: Timestamp, now: Timestamp) -> bool {
    at.since(now) >= EVERY
}

/// How long until the next one is due: [`EVERY`] after the newest, [`FIRST`] after the store's `beginning` when there is
/// none. Never longer than [`EVERY`], whatever the clock did.
pub fn due_in(newest: Option<Timestamp>, beginning: Timestamp, now: Timestamp) -> Duration {
    let (last, pause) = match newest.filter(|at| !is_ahead(*at, now)) {
        Some(at) => (at, EVERY),
        None if is_ahead(beginning, now) => return Duration::ZERO,
        None => (beginning, FIRST),
    };
    pause.saturating_sub(now.since(last))
}

/// Those that are too many, of a list as [`list`] gives it.
pub fn too_many(dailies: &[Daily]) -> &[Daily] {
    dailies
        .get(..dailies.len().saturating_sub(KEPT))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn hours(ago: i64) -> Timestamp {
        let ago = ago * i64::try_from(HOUR).unwrap();
        Timestamp(NOW.0.checked_add_signed(-ago).unwrap())
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(name(Timestamp(1_769_903_999_999)), "state-20260131T235959Z.redb");
        for at in [Timestamp(0), NOW, hours(999)] {
            assert_eq!(moment(&name(at)).unwrap().0, at.0 / 1000 * 1000);
        }
        for foreign in [
            "state.redb",
            "state-20260131T235959Z.redb.new",
            "state-20260231T235959Z.redb",
            "state-20260131x235959Z.redb",
            "state-20260131T235959Z.rdb",
            "state-2026013ÄT23595Z.redb",
            "mine-20260131T235959Z.redb",
        ] {
            assert_eq!(moment(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn one_is_due_a_day_after_the_newest_whatever_the_clock_did() {
        let due = |newest: Option<i64>, beginning| {
            due_in(newest.map(hours), hours(beginning), NOW).as_secs() / 3600
        };
        assert_eq!(due(None, 0), 1);
        assert_eq!(due(None, 1), 0);
        assert_eq!(due(Some(0), 99), 24);
        assert_eq!(due(Some(23), 99), 1);
        assert_eq!(due(Some(24), 99), 0);
        assert_eq!(due(Some(9999), 9999), 0);
        // A little ahead is a clock that was put right; far ahead is another clock.
        assert_eq!(due(Some(-1), 99), 24);
        assert_eq!(due(Some(-24), 99), 0);
        assert_eq!(due(Some(-9999), -9999), 0);
    }

    #[test]
    fn the_newest_three_stay_and_those_from_the_future_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let missing = list(&dir.path().join("none"), NOW).unwrap();
        assert_eq!(missing, []);
        for ago in [1, 25, 49, 73, -100, -200] {
            fs::write(dir.path().join(name(hours(ago))), "").unwrap();
        }
        for other in ["1.redb", "state.redb.v1.bak", "mine.redb"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        let found = list(dir.path(), NOW).unwrap();
        let order: Vec<_> = found.iter().map(|daily| daily.at.0 / 1000).collect();
        let wanted = [-100, -200, 73, 49, 25, 1].map(|ago| hours(ago).0 / 1000);
        assert_eq!(order, wanted);
        let gone: Vec<_> = too_many(&found).iter().map(|daily| daily.at.0 / 1000).collect();
        assert_eq!(gone, wanted[..3]);
        assert_eq!(too_many(&found[4..]), []);
    }
}
