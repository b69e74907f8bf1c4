//! A directory as a program's own: a mount of it that no other process sees, at a fixed place, read-only if need be.
//!
//! For programs that make a directory their root, which takes a privilege. Where the user has none, the program gets it in a
//! user namespace, in which it is root over nothing but what this user owns: no file becomes anybody else's there.
//!
//! The place is one that only root could exchange, so whoever finds the directory by its name there finds this directory.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

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

impl Enclosure {
    /// Puts the process into namespaces of its own and the directory in its place. One thread only.
    ///
    /// # Errors
    /// [`ProcessError::Call`] where the user may not, or the kernel (before Linux 5.12) cannot.
    pub(crate) fn enter(self, directory: OwnedFd) -> Result<(), ProcessError> {
        self.mount(directory).map_err(ProcessError::call::<io::Error>(
            "give the program a mount of its own",
        ))
    }

    /// A mount that was opened before belongs to the namespace that is left; the working directory comes along.
    fn mount(self, directory: OwnedFd) -> io::Result<()> {
        rustix::process::fchdir(directory)?;
        separate()?;
        kernel::keep_mounts_here()?;
        kernel::mount_here_at(self.readonly, c"/sys")?;
        rustix::process::chdir("/")?;
        Ok(())
    }
}

/// A mount namespace, and where that is not allowed a user namespace around it.
fn separate() -> io::Result<()> {
    match kernel::unshare(libc::CLONE_NEWNS) {
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {}
        done => return done,
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    kernel::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
    // Without this a group may not be mapped: one could be shed that is kept out of something.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}
