//! What this kernel offers of what maqet uses; for telling people.

use std::os::fd::AsFd;

use crate::identity::PidfsHandle;
use crate::kernel;
use crate::pidfd::ProcessHandle;

/// What this kernel offers. maqet works without any of it, with weaker evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// Processes have inodes that are never used twice (Linux 6.9).
    pub inodes: bool,
    /// Processes have handles that outlive descriptors (Linux 6.14).
    pub handles: bool,
    /// A pidfd tells of its process, `PIDFD_GET_INFO` (Linux 6.13; how it ended, 6.15).
    pub info: bool,
    /// Version of the Landlock interface; `None` without one.
    pub landlock_abi: Option<u32>,
}

impl Offers {
    /// Asks the kernel.
    pub fn look() -> Self {
        let own = ProcessHandle::current().ok();
        let own = own.as_ref();
        Self {
            inodes: own.is_some_and(|own| own.inode().is_some()),
            handles: own.is_some_and(|own| PidfsHandle::of(own).is_some()),
            info: own.is_some_and(|own| kernel::tells_info(own.as_fd())),
            landlock_abi: kernel::landlock_abi(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_come_with_inodes() {
        let offers = Offers::look();
        assert!(offers.inodes || !offers.handles, "{offers:?}");
        assert_ne!(offers.landlock_abi, Some(0));
    }
}
