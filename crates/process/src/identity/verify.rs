//! From a record back to a living process, or to the certainty that there is none.
//!
//! The order of the steps matters. A handle of a process outside our PID namespace fails like that of a dead
//! one, so the namespace is compared first. Only what the kernel says definitely counts as death; whatever
//! could not be read leaves the matter open.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Abilities, PidfsHandle, ProcessIdentity, boot_id, pidns_inode};
use crate::error::ProcessError;
use crate::pidfd::ProcessHandle;
use crate::{kernel, procfs};

/// Inode of the first PID namespace, in which every process has a number: the kernel's `PID_NS_INIT_INO`.
const PIDNS_INIT_INODE: u64 = 0xEFFF_FFFC;

/// What became of a recorded process.
#[derive(Debug)]
pub enum Liveness {
    /// It lives, and this is a handle on exactly it.
    Alive(ProcessHandle),
    /// It has ended, reaped or not.
    Dead,
    /// Nobody can tell, for this reason. Do not signal it and free nothing that it may hold.
    Unknown(String),
}

impl Liveness {
    fn unknown(error: &ProcessError) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Self::Unknown(text)
    }

    /// A process that is surely the recorded one.
    fn of(handle: ProcessHandle) -> Self {
        if handle.has_exited() {
            Self::Dead
        } else {
            Self::Alive(handle)
        }
    }
}

/// What a recorded file handle leads to.
enum Reopened {
    Process(ProcessHandle),
    Dead,
    /// The kernel cannot say; go by the number.
    NoAnswer,
}

impl ProcessIdentity {
    /// Finds out what became of the process. Costs a few microseconds and never blocks.
    pub fn verify(&self) -> Liveness {
        self.verify_with(Abilities::ALL)
    }

    /// Whether the handle is on the recorded process. False when nobody can tell.
    pub fn matches_handle(&self, handle: &ProcessHandle) -> bool {
        self.matches_with(handle, Abilities::ALL)
    }

    /// Whether the process behind the handle shows neither an image nor the launch id of the record: then the record
    /// was not taken of it, whatever its numbers say. False when that cannot be read.
    pub fn is_belied_by(&self, handle: &ProcessHandle) -> bool {
        let belied = matches!(self.witnesses(handle), Ok(Witness::Other));
        // One that is just ending shows nothing at all.
        belied && !handle.has_exited()
    }

    /// As [`Self::matches_handle`] with only these abilities of the kernel.
    pub fn matches_with(&self, handle: &ProcessHandle, abilities: Abilities) -> bool {
        if !boot_id().is_ok_and(|boot| boot == self.boot_id) {
            return false;
        }
        match (self.pidfs_inode, handle.inode()) {
            (Some(recorded), Some(found)) if abilities.inodes => recorded == found,
            _ => {
                let here = pidns_inode().is_ok_and(|inode| inode == self.pidns_inode);
                let same =
                    here && self.pid == handle.pid() && matches!(self.witnesses(handle), Ok(Witness::Same));
                // Witnesses are about the number; a reaped process no longer has it.
                same && matches!(handle.is_reaped(), Ok(false))
            }
        }
    }

    /// As [`Self::verify`] with only these abilities of the kernel.
    pub fn verify_with(&self, abilities: Abilities) -> Liveness {
        match self.verify_here(abilities) {
            Ok(liveness) => liveness,
            Err(error) => Liveness::unknown(&error),
        }
    }

    fn verify_here(&self, abilities: Abilities) -> Result<Liveness, ProcessError> {
        if boot_id()? != self.boot_id {
            return Ok(Liveness::Dead);
        }
        let here = pidns_inode()?;
        if here != self.pidns_inode {
            return self.verify_from_outside(here, abilities);
        }
        if let Some(recorded) = self.pidfs_handle.as_ref().filter(|_| abilities.handles) {
            match recorded.reopen()? {
                Reopened::Dead => return Ok(Liveness::Dead),
                Reopened::Process(handle) if handle.pid() != self.pid => {
                    let found = handle.pid();
                    let text = format!(
                        "its record contradicts itself: number {}, but handle of {found}",
                        self.pid
                    );
                    return Ok(Liveness::Unknown(text));
                }
                Reopened::Process(handle) => return Ok(Liveness::of(handle)),
                Reopened::NoAnswer => {}
            }
        }
        self.verify_by_number(abilities)
    }

    /// Its number means nothing here. In the first PID namespace, though, no process is out of sight: a handle that leads
    /// nowhere there is that of a dead one, such as of everything in a namespace that has ended.
    fn verify_from_outside(&self, here: u64, abilities: Abilities) -> Result<Liveness, ProcessError> {
        let handle = self.pidfs_handle.as_ref().filter(|_| abilities.handles);
        if let Some(recorded) = handle.filter(|_| here == PIDNS_INIT_INODE)
            && matches!(recorded.reopen()?, Reopened::Dead)
        {
            return Ok(Liveness::Dead);
        }
        let why = "it was recorded in another PID namespace";
        Ok(Liveness::Unknown(why.to_owned()))
    }

    fn verify_by_number(&self, abilities: Abilities) -> Result<Liveness, ProcessError> {
        let Some(handle) = ProcessHandle::open(self.pid)? else {
            return Ok(Liveness::Dead);
        };
        match (self.pidfs_inode, handle.inode()) {
            (Some(recorded), Some(found)) if abilities.inodes && recorded == found => {
                Ok(Liveness::of(handle))
            }
            (Some(_), Some(_)) if abilities.inodes => Ok(Liveness::Dead),
            _ => Ok(self.verify_by_witnesses(handle)),
        }
    }

    /// Without unique inodes: what `/proc` says, trusted because the pidfd was not readable afterwards.
    fn verify_by_witnesses(&self, handle: ProcessHandle) -> Liveness {
        let witness = self.witnesses(&handle);
        if handle.has_exited() {
            // Either it is the recorded process, which has ended, or the number belonged to another.
            return Liveness::Dead;
        }
        match witness {
            Ok(Witness::Same) => Liveness::Alive(handle),
            Ok(Witness::Other) => Liveness::Dead,
            Ok(Witness::Unclear(what)) => Liveness::Unknown(format!("process {} {what}", self.pid)),
            Err(error) => Liveness::unknown(&error),
        }
    }

    /// Start time first: it never changes. Image and launch id only tell apart what started in one tick, and only
    /// once it has exec'd: until then they are those of its parent, which may well be of this launch.
    fn witnesses(&self, handle: &ProcessHandle) -> Result<Witness, ProcessError> {
        let stat = procfs::stat(handle.pid())?;
        if stat.start_ticks != self.start_ticks {
            return Ok(Witness::Other);
        }
        let image = self.executables.contains(&procfs::executable(handle.pid())?);
        let launch = mentions(&procfs::command_line(handle.pid())?, &self.launch_id);
        Ok(match (image, launch) {
            (true, true) if !stat.has_execed => {
                Witness::Unclear("has not exec'd and shows its parent's image")
            }
            (true, true) => Witness::Same,
            (false, false) => Witness::Other,
            (true, false) | (false, true) => Witness::Unclear("shows only part of what was recorded"),
        })
    }
}

/// What `/proc` says about a process with the recorded number.
#[derive(Debug, PartialEq, Eq)]
enum Witness {
    Same,
    Other,
    /// Nobody can tell, for this reason.
    Unclear(&'static str),
}

fn mentions(command_line: &[u8], launch_id: &str) -> bool {
    let wanted = launch_id.as_bytes();
    !wanted.is_empty() && command_line.windows(wanted.len()).any(|window| window == wanted)
}

impl PidfsHandle {
    fn reopen(&self) -> Result<Reopened, ProcessError> {
        let Some(bytes) = self.decoded() else {
            return Ok(Reopened::NoAnswer);
        };
        // Any pidfd is on the right file system, and before 6.16 there is no other way to name it.
        let mount = ProcessHandle::current()?;
        let fd = match kernel::open_handle(mount.as_fd(), self.kind, &bytes) {
            Ok(fd) => fd,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::STALE) => return Ok(Reopened::Dead),
            Err(_) => return Ok(Reopened::NoAnswer),
        };
        match ProcessHandle::from_fd(fd) {
            Ok(handle) => Ok(Reopened::Process(handle)),
            // Reaped between the two calls.
            Err(ProcessError::Gone { pid: -1 }) => Ok(Reopened::Dead),
            Err(error) => Err(error),
        }
    }
}
