//! The daily copies of the store.

use maqet_protocol::control::StoreStatus;
use maqet_state::clock;

use super::{Check, Outcome};
use crate::render::units;

/// How old the newest is, and whether the next one failed. A store in which nothing changes gets none.
pub(super) fn check(status: &StoreStatus) -> Check {
    let newest = status.newest_backup.as_ref();
    let what = newest.map_or_else(
        || "there is none yet; the first is made when the store is an hour old".to_owned(),
        |newest| {
            let age = clock::now().since(newest.at).as_secs();
            format!("the newest daily copy is {} old", units::uptime(age))
        },
    );
    let check = match &status.backup_failed {
        None => Check::new("backups", Outcome::Ok, what),
        Some(failed) => {
            let what = format!("a copy failed at {}: {}; {what}", failed.at, failed.reason);
            Check::new("backups", Outcome::Warn, what)
                .hint("maqet state backup FILE; it is tried again within the hour")
        }
    };
    match newest {
        Some(newest) => check.at(&newest.path.display()),
        None => check,
    }
}

#[cfg(test)]
mod tests {
    use maqet_protocol::control::{BackupFailure, StoreBackup};
    use maqet_state::clock::Timestamp;

    use super::*;

    #[test]
    fn the_age_of_the_newest_and_a_failure_are_told() {
        let mut status = StoreStatus::default();
        let none = check(&status);
        assert_eq!(none.outcome, Outcome::Ok);
        assert!(none.what.starts_with("there is none yet"), "{none:?}");
        let now = clock::now();
        status.newest_backup = Some(StoreBackup {
            path: "/d/backups/a.redb".into(),
            at: Timestamp(now.0 - 5 * 3_600_000),
        });
        let sound = check(&status);
        assert_eq!(
            (sound.outcome, sound.place.as_deref()),
            (Outcome::Ok, Some("/d/backups/a.redb"))
        );
        assert!(
            sound.what.contains("is 5h") && sound.what.ends_with(" old"),
            "{sound:?}"
        );
        status.backup_failed = Some(BackupFailure {
            at: now,
            reason: "No space left".to_owned(),
        });
        let failed = check(&status);
        assert_eq!(failed.outcome, Outcome::Warn);
        assert!(
            failed.what.contains("No space left; the newest daily"),
            "{failed:?}"
        );
    }
}
