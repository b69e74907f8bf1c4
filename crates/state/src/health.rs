//! Whether a VM's disks may be written: how its last run ended, and what is known to be damaged. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::lifecycle::Cause;

/// What is known of the health of a VM's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Its last QEMU was not brought to an end in order: what it had open is checked before the next one writes to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unclean: bool,
    /// Images that were found damaged, by their paths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    damaged: BTreeMap<PathBuf, Damage>,
}

/// What is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What was found, a clause for people.
    pub found: String,
    /// When.
    pub at: Timestamp,
    /// A person said that it be used nevertheless.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
}

/// Whether a start may hand an image to QEMU for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'h> {
    /// It may.
    Go,
    /// Only once it was checked.
    Check,
    /// Not before it was repaired or accepted.
    Quarantined(&'h Damage),
}

impl Health {
    /// Nothing is known against any disk.
    pub const fn good() -> Self {
        Self {
            unclean: false,
            damaged: BTreeMap::new(),
        }
    }

    /// Whether nothing is known against any disk.
    pub fn is_good(&self) -> bool {
        *self == Self::good()
    }

    /// What a start has to do about the image at `path`, which says of itself that it is `suspect` or not.
    pub fn judge(&self, path: &Path, suspect: bool) -> Verdict<'_> {
        match self.damaged.get(path) {
            Some(damage) if damage.accepted => Verdict::Go,
            Some(damage) => Verdict::Quarantined(damage),
            None if self.unclean || suspect => Verdict::Check,
            None => Verdict::Go,
        }
    }

    /// What is wrong with the image at `path`, if something is.
    pub fn of(&self, path: &Path) -> Option<&Damage> {
        self.damaged.get(path)
    }

    /// The image at `path` was found damaged.
    #[must_use]
    pub fn damaged(mut self, path: PathBuf, found: String, at: Timestamp) -> Self {
        let accepted = false;
        self.damaged.insert(path, Damage { found, at, accepted });
        self
    }

    /// A person wants the image at `path` to be used as it is.
    #[must_use]
    pub fn accepted(mut self, path: &Path) -> Self {
        if let Some(damage) = self.damaged.get_mut(path) {
            damage.accepted = true;
        }
        self
    }

    /// The image at `path` is whole, or gone.
    #[must_use]
    pub fn mended(mut self, path: &Path) -> Self {
        self.damaged.remove(path);
        self
    }

    /// After an end. What was accepted is accepted for the run that follows; a start that came to nothing changes nothing.
    #[must_use]
    pub fn ended(mut self, cause: Cause) -> Self {
        if cause == Cause::StartFailed {
            return self;
        }
        self.unclean = !is_clean(cause);
        self.damaged.retain(|_path, damage| !damage.accepted);
        self
    }
}

/// Whether QEMU has written out and closed its images after an end for this cause.
const fn is_clean(cause: Cause) -> bool {
    match cause {
        Cause::GuestShutdown
        | Cause::GuestReset
        | Cause::GuestPanic
        | Cause::Stop
        | Cause::HostShutdown
        | Cause::HelperLost => true,
        Cause::StopForced
        | Cause::StartFailed
        | Cause::QemuExited
        | Cause::QemuCrashed
        | Cause::QemuKilled
        | Cause::HostRebooted
        | Cause::RunnerLost
        | Cause::EndedUnknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp(7);

    #[test]
    fn every_end_but_an_orderly_one_has_disks_checked() {
        let path = Path::new("/vm/root");
        for cause in Cause::ALL {
            let health = Health::good().ended(cause);
            let expected = match cause.as_str() {
                "guest-shutdown" | "guest-reset" | "guest-panic" | "stop" | "host-shutdown"
                | "helper-lost" | "start-failed" => Verdict::Go,
                _ => Verdict::Check,
            };
            assert_eq!(health.judge(path, false), expected, "{cause}");
            assert_eq!(health.judge(path, true), Verdict::Check, "{cause}");
        }
    }

    #[test]
    fn a_start_that_fails_forgets_nothing() {
        let unclean = Health::good().ended(Cause::QemuKilled);
        assert_eq!(unclean.clone().ended(Cause::StartFailed), unclean);
        assert!(unclean.ended(Cause::Stop).is_good());
    }

    #[test]
    fn what_is_damaged_stays_so_until_it_is_mended_or_accepted_for_one_run() {
        let path = Path::new("/vm/root");
        let damaged = Health::good().damaged(path.to_owned(), "3 errors".to_owned(), AT);
        let still = damaged.clone().ended(Cause::StartFailed).ended(Cause::Stop);
        assert!(
            matches!(still.judge(path, false), Verdict::Quarantined(damage) if damage.found == "3 errors")
        );
        assert_eq!(still.judge(Path::new("/vm/data"), false), Verdict::Go);
        assert!(damaged.clone().mended(path).is_good());
        let accepted = damaged.accepted(path);
        assert_eq!(accepted.judge(path, true), Verdict::Go);
        assert!(accepted.clone().ended(Cause::Stop).is_good());
        let again = accepted.ended(Cause::QemuKilled);
        assert_eq!(again.judge(path, false), Verdict::Check);
    }

    #[test]
    fn it_is_stored_and_read() {
        let health =
            Health::good()
                .ended(Cause::QemuKilled)
                .damaged("/vm/root".into(), "3 errors".to_owned(), AT);
        let text = serde_json::to_string(&health).unwrap();
        assert_eq!(serde_json::from_str::<Health>(&text).unwrap(), health);
        assert_eq!(serde_json::from_str::<Health>("{}").unwrap(), Health::good());
        assert_eq!(serde_json::to_string(&Health::good()).unwrap(), "{}");
    }
}
