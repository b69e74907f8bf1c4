//! A directory as a program's own: a mount of it that no other process sees, at a fixed place, read-only if need be.
//!
//! For programs that make a directory their root, which takes a privilege. Where the user has none, the program gets it in a
//! user namespace, in which it is root over nothing but what this user owns: no file becomes anybody else's there.
//!
//! The place is one that only root could exchange, so whoever finds the directory by its name there finds this directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::error::ProcessError;
use crate::kernel;

/// Where the directory is for the program. What is there for everybody else the program does without.
pub const PLACE: &str = "/sys";

/// A directory among the descriptors that a gate is given, which becomes the program's [`PLACE`]. Mounts below it are not part
/// of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enclosure {
    /// Number of the descriptor. It is not passed on.
    pub directory: i32,
    /// Nothing below it can be changed, owners, modes and times included.
    pub readonly: bool,
}

/// What an error of it says, in a gate's report as well.
pub const REFUSED: &str = "give the program a mount of its own";

/// What allows it to users who are not root.
pub const ALLOW: &str = "user namespaces allow it to this user: look at the sysctls `user.max_user_namespaces`, \
                         `kernel.unprivileged_userns_clone` and `kernel.apparmor_restrict_unprivileged_userns`";

impl Enclosure {
    /// Puts the process into namespaces of its own and the directory in its place. One thread only.
    ///
    /// # Errors
    /// [`ProcessError::Call`] where the user may not, or the kernel (before Linux 5.12) cannot.
    pub(crate) fn enter(self, directory: impl AsFd) -> Result<(), ProcessError> {
        let enclosed = Separation::new().enclose(directory.as_fd(), self.readonly);
        enclosed.map_err(ProcessError::call::<io::Error>(REFUSED))
    }
}

/// Tries with any directory, in a child that does nothing else, whether this user may have programs enclosed.
///
/// # Errors
/// As [`Enclosure::enter`]; [`ProcessError::File`] when the directory cannot be opened.
pub fn attempt(directory: &Path) -> Result<(), ProcessError> {
    let opened = File::open(directory).map_err(ProcessError::file("open", directory))?;
    let separation = Separation::new();
    kernel::in_child(move || separation.enclose(opened.as_fd(), true)).map_err(ProcessError::call(REFUSED))
}

/// What a user namespace of this user says. It is made beforehand: a child must not allocate.
#[derive(Debug)]
struct Separation {
    users: String,
    groups: String,
}

impl Separation {
    fn new() -> Self {
        Self {
            users: format!("0 {} 1", geteuid().as_raw()),
            groups: format!("0 {} 1", getegid().as_raw()),
        }
    }

    /// A mount that was opened before belongs to the namespace that is left; the working directory comes along.
    fn enclose(&self, directory: BorrowedFd<'_>, readonly: bool) -> io::Result<()> {
        rustix::process::fchdir(directory)?;
        self.separate()?;
        kernel::keep_mounts_here()?;
        kernel::mount_here_at(readonly, c"/sys")?;
        rustix::process::chdir("/")?;
        Ok(())
    }

    /// A mount namespace, and where that is not allowed a user namespace around it.
    fn separate(&self) -> io::Result<()> {
        match kernel::unshare(libc::CLONE_NEWNS) {
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {}
            done => return done,
        }
        kernel::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
        // Without this a group may not be mapped: one could be shed that is kept out of something.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", &self.users)?;
        fs::write("/proc/self/gid_map", &self.groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the child did stays with it.
    #[test]
    fn an_attempt_changes_nothing_here() {
        let directory = tempfile::tempdir().unwrap();
        let before = fs::read_link("/proc/self/ns/mnt").unwrap();
        if let Err(error) = attempt(directory.path()) {
            assert_eq!(error.to_string(), REFUSED);
            assert!(!geteuid().is_root(), "{error:?}");
        }
        assert_eq!(fs::read_link("/proc/self/ns/mnt").unwrap(), before);
        assert!(fs::exists("/sys/kernel").unwrap());
        assert!(attempt(&directory.path().join("absent")).is_err());
    }
}
