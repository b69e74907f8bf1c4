//! The process that may not connect to the runner, whatever it knows: QEMU itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pidfd inode of QEMU, shared between the session that learns it and the socket that refuses it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Barred(Arc<AtomicU64>);

impl Barred {
    /// Bars the process with this pidfd inode; `None` where the kernel has none.
    pub(crate) fn bar(&self, inode: Option<u64>) {
        self.0.store(inode.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether this process may not connect. No process has inode 0.
    pub(crate) fn refuses(&self, inode: u64) -> bool {
        inode != 0 && self.0.load(Ordering::Relaxed) == inode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_process_is_barred() {
        let barred = Barred::default();
        let same = barred.clone();
        assert!(!same.refuses(0) && !same.refuses(7));
        barred.bar(Some(7));
        assert!(same.refuses(7) && !same.refuses(8));
        barred.bar(None);
        assert!(!same.refuses(7) && !same.refuses(0));
    }
}
