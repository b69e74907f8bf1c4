//! Processes that may not connect to the runner, whatever they know: QEMU itself, and who serves its shares.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use maqet_process::identity::ProcessIdentity;
use maqet_state::record::Helper;

/// Pidfd inodes of QEMU and its helpers, shared between the session that learns them and the socket that refuses them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Barred(Arc<Mutex<BTreeSet<u64>>>);

impl Barred {
    /// Bars these processes, and none but these; nothing is barred where the kernel has no such inodes.
    pub(crate) fn bar(&self, qemu: &ProcessIdentity, helpers: &[Helper]) {
        let helpers = helpers.iter().map(|helper| &helper.identity);
        let all = std::iter::once(qemu).chain(helpers);
        self.set(all.filter_map(|identity| identity.pidfs_inode).collect());
    }

    fn set(&self, inodes: BTreeSet<u64>) {
        if let Ok(mut barred) = self.0.lock() {
            *barred = inodes;
        }
    }

    /// Whether this process may not connect. No process has inode 0. A poisoned lock says so of everybody.
    pub(crate) fn refuses(&self, inode: u64) -> bool {
        inode != 0 && self.0.lock().map_or(true, |barred| barred.contains(&inode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_processes_are_barred() {
        let barred = Barred::default();
        let same = barred.clone();
        assert!(!same.refuses(0) && !same.refuses(7));
        barred.set([7, 9].into());
        assert!(same.refuses(7) && same.refuses(9) && !same.refuses(8));
        barred.set([0].into());
        assert!(!same.refuses(7) && !same.refuses(0));
    }
}
