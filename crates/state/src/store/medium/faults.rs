//! Disks that fail on purpose: from a given write or flush on, for so many times.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The failures that await the writers of one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<Plan>>);

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
    /// The disk under the file at `path`, which does not fail yet.
    pub(crate) fn under(path: &Path) -> Self {
        let metadata = std::fs::metadata(path).unwrap();
        let faults = Self::default();
        let key = (metadata.dev(), metadata.ino());
        PLANS.lock().unwrap().insert(key, faults.clone());
        faults
    }

    /// Lets `count` writes and flushes fail, beginning with the `first` from now.
    pub(crate) fn plan(&self, first: u64, count: u64) {
        *self.0.lock().unwrap() = Plan {
            seen: 0,
            first,
            count,
        };
    }

    /// Writes and flushes since the plan was made.
    pub(crate) fn seen(&self) -> u64 {
        self.0.lock().unwrap().seen
    }

    pub(super) fn strike(&self) -> io::Result<()> {
        let mut plan = self.0.lock().unwrap();
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
    let metadata = file.metadata().unwrap();
    PLANS
        .lock()
        .unwrap()
        .get(&(metadata.dev(), metadata.ino()))
        .cloned()
}
