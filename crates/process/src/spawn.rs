//! Starting programs with an exact set of descriptors, and what a started program does to itself first.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::error::ProcessError;
use crate::kernel;
use crate::pidfd::ProcessHandle;

/// A program to be started.
///
/// It inherits the working directory, the user and the signal mask of the calling thread; of the descriptors
/// only those given here. Standard input is `/dev/null`.
#[derive(Debug)]
pub struct Spawn {
    /// The program; absolute, or relative to the working directory. PATH is not consulted.
    pub program: PathBuf,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// Start from an empty environment.
    pub env_clear: bool,
    /// Variables set on top.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory; `None` keeps the caller's.
    pub workdir: Option<PathBuf>,
    /// Descriptors handed over, each with its number in the child, 3 or more. The parent's are closed.
    pub fds: Vec<(OwnedFd, i32)>,
    /// The kernel ends it, by SIGKILL, when the thread that starts it ends, for whatever reason. So it never outlives this
    /// process, and whoever wants it to live keeps that thread.
    pub ends_with_thread: bool,
    /// Standard output; `None` is `/dev/null`.
    pub stdout: Option<OwnedFd>,
    /// Standard error; `None` is `/dev/null`.
    pub stderr: Option<OwnedFd>,
}

/// A started child, not reaped. Never ended by dropping it.
#[derive(Debug)]
pub struct Child {
    /// Handle on the child.
    pub handle: ProcessHandle,
}

impl Spawn {
    /// A program without arguments that inherits the environment and nothing else.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env_clear: false,
            env: Vec::new(),
            workdir: None,
            fds: Vec::new(),
            ends_with_thread: false,
            stdout: None,
            stderr: None,
        }
    }

    /// Starts the program. Returns once it is exec'd, or could not be.
    ///
    /// The child's number cannot be reused before its pidfd is open, because nobody has reaped it: see the
    /// invariants of this crate.
    ///
    /// # Errors
    /// [`ProcessError::Spawn`] when there is no such program or it cannot be exec'd;
    /// [`ProcessError::DescriptorTaken`] for numbers given twice or below 3.
    #[expect(
        clippy::disallowed_methods,
        reason = "its own child, not reaped yet: the number is still its own"
    )]
    pub fn spawn(self) -> Result<Child, ProcessError> {
        check_numbers(&self.fds)?;
        let numbers: Vec<i32> = self.fds.iter().map(|(_, number)| *number).collect();
        let program = self.program.clone();
        // The usual mistakes, found where nothing can garble the answer: see `hold_numbers`.
        rustix::fs::access(&program, rustix::fs::Access::EXEC_OK).map_err(|error| ProcessError::Spawn {
            program: program.clone(),
            source: error.into(),
        })?;
        let mut command = self.command()?;
        let held = hold_numbers(&numbers)?;
        let spawned = command.spawn();
        drop(held);
        let mut child = spawned.map_err(|source| ProcessError::Spawn { program, source })?;
        match open_child(&child) {
            Ok(handle) => Ok(Child { handle }),
            Err(error) => {
                // Without a handle nobody could ever end it. It is unreaped, so its number is still its own.
                child
                    .kill()
                    .and_then(|()| child.wait())
                    .map_err(ProcessError::call("end a child without pidfd"))?;
                Err(error)
            }
        }
    }

    fn command(self) -> Result<Command, ProcessError> {
        // A bare name would make the standard library search PATH.
        let program = if self.program.components().count() == 1 {
            PathBuf::from(".").join(&self.program)
        } else {
            self.program
        };
        let mut command = Command::new(program);
        command.args(self.args).stdin(Stdio::null());
        command.stdout(self.stdout.map_or_else(Stdio::null, Stdio::from));
        command.stderr(self.stderr.map_or_else(Stdio::null, Stdio::from));
        if self.env_clear {
            command.env_clear();
        }
        command.envs(self.env);
        if let Some(workdir) = self.workdir {
            command.current_dir(workdir);
        }
        kernel::inherit_nothing(&mut command);
        if self.ends_with_thread {
            kernel::end_with_starter(&mut command, rustix::process::getpid());
        }
        let mappings = self
            .fds
            .into_iter()
            .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command
            .fd_mappings(mappings.collect())
            .map_err(|_| ProcessError::DescriptorTaken { number: 0 })?;
        Ok(command)
    }
}

fn check_numbers(fds: &[(OwnedFd, i32)]) -> Result<(), ProcessError> {
    let mut numbers: Vec<i32> = fds.iter().map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    let low = numbers.first().filter(|number| **number < 3);
    let twice = numbers
        .windows(2)
        .find_map(|pair| (pair.first() == pair.last()).then_some(pair.first()));
    match low.or(twice.flatten()) {
        Some(number) => Err(ProcessError::DescriptorTaken { number: *number }),
        None => Ok(()),
    }
}

/// Occupies every free number up to the highest the child will use.
///
/// The standard library reports a failed exec through a pipe of its own. Were that pipe to get one of the
/// child's numbers, mapping would close it, and a failed exec would look like a child that exited at once. Only
/// a number that another thread frees at this very moment escapes.
fn hold_numbers(numbers: &[i32]) -> Result<Vec<OwnedFd>, ProcessError> {
    use std::os::fd::AsRawFd;

    let mut held = Vec::new();
    let Some(highest) = numbers.iter().max() else {
        return Ok(held);
    };
    let stand_in = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
        .map_err(ProcessError::call("reserve descriptors"))?;
    loop {
        let copy = fcntl_dupfd_cloexec(&stand_in, 3).map_err(ProcessError::call("reserve descriptors"))?;
        if copy.as_fd().as_raw_fd() > *highest {
            held.push(stand_in);
            return Ok(held);
        }
        held.push(copy);
    }
}

fn open_child(child: &std::process::Child) -> Result<ProcessHandle, ProcessError> {
    let pid = i32::try_from(child.id())
        .map_err(|error| ProcessError::call("read a pid")(io::Error::other(error)))?;
    ProcessHandle::open(pid)?.ok_or(ProcessError::Gone { pid })
}

/// Starts a session of our own, so that nothing done to the starter's terminal or group reaches us.
///
/// Already leading one is fine.
///
/// # Errors
/// [`ProcessError::Call`] when the process leads a process group in another's session.
pub fn become_session_leader() -> Result<(), ProcessError> {
    match rustix::process::setsid() {
        Ok(_) => Ok(()),
        Err(Errno::PERM) if rustix::process::getsid(None) == Ok(rustix::process::getpid()) => Ok(()),
        Err(error) => Err(ProcessError::call("start a session")(error)),
    }
}

/// Makes orphans among our descendants our children, so that we can reap them and learn how they ended.
///
/// # Errors
/// [`ProcessError::Call`] when the kernel refuses.
pub fn become_subreaper() -> Result<(), ProcessError> {
    nix::sys::prctl::set_child_subreaper(true).map_err(ProcessError::call("become a subreaper"))
}

/// Raises the limit on open descriptors as far as it goes without privilege. Returns the new limit.
///
/// # Errors
/// [`ProcessError::Call`] when the kernel refuses.
pub fn raise_nofile_limit() -> Result<u64, ProcessError> {
    let action = "raise the limit on open files";
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(ProcessError::call(action))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(ProcessError::call(action))?;
    }
    Ok(hard)
}
