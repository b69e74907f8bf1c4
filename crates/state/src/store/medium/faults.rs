//! Disks that fail on purpose: from a given write or flush on, for so many times. In builds for tests alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The failures that await the writers of one file.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    /// Writes and flushes so far.
    seen: u64,
    /// The first that fails, counted from 1; 0 for none.
    first: u64,
    /// How many fail from there.
    count: u64,
}

/// Plans by inode: tests share a process with others.
static PLANS: Mutex<BTreeMap<(u64, u64), Faults>> = Mutex::new(BTreeMap::new());

impl Faults {
    /// The disk under the file at `path`, which does not fail yet. Asked before a store opens that file.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn under(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        let faults = Self::default();
        let key = (metadata.dev(), metadata.ino());
        locked(&PLANS).insert(key, faults.clone());
        Ok(faults)
    }

    /// Lets `count` writes and flushes fail, beginning with the `first` from now; none when `first` is 0.
    pub fn plan(&self, first: u64, count: u64) {
        *locked(&self.0) = Plan {
            seen: 0,
            first,
            count,
        };
    }

    /// Writes and flushes since the plan was made.
    pub fn seen(&self) -> u64 {
        locked(&self.0).seen
    }

    pub(super) fn strike(&self) -> io::Result<()> {
        let mut plan = locked(&self.0);
        plan.seen += 1;
        let due = plan.first > 0 && (plan.first..plan.first.saturating_add(plan.count)).contains(&plan.seen);
        if due {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}

pub(super) fn of(file: &File) -> Option<Faults> {
    let metadata = file.metadata().ok()?;
    locked(&PLANS).get(&(metadata.dev(), metadata.ino())).cloned()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
