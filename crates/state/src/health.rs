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
    /// Images that a load by QEMU was cut off in, by their paths: they may hold different moments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    between: BTreeMap<PathBuf, CutLoad>,
}

/// A load that may have reached some disks and not others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutLoad {
    /// Name of the snapshot.
    pub snapshot: String,
    /// When it was noticed.
    pub at: Timestamp,
    /// A person said that the image be used as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
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
    /// Not before a snapshot was loaded in all disks, or a person accepted what the image holds.
    Between(&'h CutLoad),
}

impl Health {
    /// Nothing is known against any disk.
    pub const fn good() -> Self {
        Self {
            unclean: false,
            damaged: BTreeMap::new(),
            between: BTreeMap::new(),
        }
    }

    /// Whether nothing is known against any disk.
    pub fn is_good(&self) -> bool {
        *self == Self::good()
    }

    /// What a start has to do about the image at `path`, which says of itself that it is `suspect` or not.
    pub fn judge(&self, path: &Path, suspect: bool) -> Verdict<'_> {
        match (self.damaged.get(path), self.between(path)) {
            (Some(damage), _) if !damage.accepted => Verdict::Quarantined(damage),
            (_, Some(load)) => Verdict::Between(load),
            (Some(_accepted), None) => Verdict::Go,
            (None, None) if self.unclean || suspect => Verdict::Check,
            (None, None) => Verdict::Go,
        }
    }

    /// What is wrong with the image at `path`, if something is.
    pub fn of(&self, path: &Path) -> Option<&Damage> {
        self.damaged.get(path)
    }

    /// The load that was cut off in the image at `path`, if nobody has accepted what it holds.
    pub fn between(&self, path: &Path) -> Option<&CutLoad> {
        self.between.get(path).filter(|load| !load.accepted)
    }

    /// A load of `snapshot` into the images at these paths was cut off: which of them it reached is not known.
    #[must_use]
    pub fn cut_off(mut self, paths: Vec<PathBuf>, snapshot: &str, at: Timestamp) -> Self {
        let load = |path| {
            let (snapshot, accepted) = (snapshot.to_owned(), false);
            (
                path,
                CutLoad {
                    snapshot,
                    at,
                    accepted,
                },
            )
        };
        self.between.extend(paths.into_iter().map(load));
        self
    }

    /// One snapshot was loaded into all images at these paths. Only a load that reaches every image which another was cut off
    /// in makes them agree.
    #[must_use]
    pub fn loaded(mut self, paths: &[PathBuf]) -> Self {
        if self.between.keys().all(|path| paths.contains(path)) {
            self.between.clear();
        }
        self
    }

    /// The same without the loads that were cut off: for whoever is about to load a snapshot, which mends that.
    #[must_use]
    pub fn for_load(mut self) -> Self {
        self.between.clear();
        self
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
        if let Some(load) = self.between.get_mut(path) {
            load.accepted = true;
        }
        self
    }

    /// The tables of the image at `path` are whole.
    #[must_use]
    pub fn mended(mut self, path: &Path) -> Self {
        self.damaged.remove(path);
        self
    }

    /// The image at `path` is gone.
    #[must_use]
    pub fn gone(mut self, path: &Path) -> Self {
        self.damaged.remove(path);
        self.between.remove(path);
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
        self.between.retain(|_path, load| !load.accepted);
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
    fn a_load_that_was_cut_off_is_mended_by_a_load_of_all_these_disks_alone() {
        let paths = ["/vm/root", "/vm/data"].map(PathBuf::from);
        let cut = Health::good().cut_off(paths.to_vec(), "snap", AT);
        let is_between = |health: &Health, path: &Path| matches!(health.judge(path, false), Verdict::Between(load) if load.snapshot == "snap");
        let [root, data] = &paths;
        let still = cut
            .clone()
            .ended(Cause::QemuKilled)
            .ended(Cause::Stop)
            .mended(root);
        let still = still.loaded(std::slice::from_ref(root));
        assert!(is_between(&still, root) && is_between(&still, data));
        assert!(cut.clone().loaded(&paths).is_good());
        assert!(cut.clone().gone(root).gone(data).is_good());
        assert_eq!(cut.clone().for_load().judge(root, false), Verdict::Go);
    }

    #[test]
    fn a_load_that_was_cut_off_is_accepted_disk_by_disk_and_outlasts_a_repair() {
        let paths = ["/vm/root", "/vm/data"].map(PathBuf::from);
        let [root, data] = &paths;
        let cut = Health::good().cut_off(paths.to_vec(), "snap", AT);
        let accepted = cut.clone().accepted(root);
        assert_eq!(accepted.judge(root, false), Verdict::Go);
        assert!(accepted.between(data).is_some());
        assert!(accepted.accepted(data).ended(Cause::Stop).is_good());
        let damaged = cut.damaged(root.clone(), "3 errors".to_owned(), AT);
        assert!(matches!(damaged.judge(root, false), Verdict::Quarantined(_)));
        assert!(damaged.mended(root).between(root).is_some());
    }

    #[test]
    fn it_is_stored_and_read() {
        let health = Health::good()
            .ended(Cause::QemuKilled)
            .damaged("/vm/root".into(), "3 errors".to_owned(), AT)
            .cut_off(vec!["/vm/root".into()], "snap", AT);
        let text = serde_json::to_string(&health).unwrap();
        assert_eq!(serde_json::from_str::<Health>(&text).unwrap(), health);
        assert_eq!(serde_json::from_str::<Health>("{}").unwrap(), Health::good());
        assert_eq!(serde_json::to_string(&Health::good()).unwrap(), "{}");
    }
}
