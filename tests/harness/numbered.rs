//! Children whose process number the caller chooses, as only the first processes of a PID namespace may.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use maqet_process::{ProcessHandle, Signal};
use nix::libc;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::wait::{self, PATIENCE};

/// What such a child does.
#[derive(Clone, Copy, Debug)]
pub enum Does<'a> {
    /// Becomes this program; the words are all of its argv, its name included.
    Run(&'a str, &'a [&'a str]),
    /// Stays what it was forked from, and does nothing.
    Stay,
}

/// A child that was given its number. Ended and collected when dropped.
#[derive(Debug)]
pub struct Numbered {
    handle: ProcessHandle,
}

/// `struct clone_args` of `linux/sched.h`, its second version, which has `set_tid`.
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

impl Numbered {
    /// Starts a child, with this number if one is given; returns once it does what it should.
    ///
    /// # Errors
    /// What the kernel says: `EEXIST` for a number that is taken, `EPERM` without the right to choose.
    pub fn start(number: Option<i32>, does: Does<'_>) -> io::Result<Self> {
        let (program, words) = match does {
            Does::Run(program, words) => (
                c_string(program),
                words.iter().map(|word| c_string(word)).collect(),
            ),
            Does::Stay => (CString::default(), Vec::new()),
        };
        let mut argv: Vec<_> = words.iter().map(|word: &CString| word.as_ptr()).collect();
        argv.push(std::ptr::null());
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let pidfd = clone3(number, &program, &argv)?;
        drop(write);
        if matches!(does, Does::Run(..)) {
            // Ends when the child's copy does: at exec.
            rustix::io::retry_on_intr(|| rustix::io::read(&read, &mut [0_u8; 1][..]))?;
        }
        let handle = ProcessHandle::from_fd(pidfd).map_err(io::Error::other)?;
        Ok(Self { handle })
    }

    /// The child.
    pub fn handle(&self) -> &ProcessHandle {
        &self.handle
    }

    /// Ends it, and gives its number free. The handle goes on naming it.
    pub fn end(mut self) -> ProcessHandle {
        self.collect();
        self.handle.try_clone().unwrap()
    }

    fn collect(&mut self) {
        self.handle.signal(Signal::Kill).map(|_sent| ()).unwrap();
        assert!(wait::exited(&self.handle, PATIENCE), "a child survives SIGKILL");
        assert!(self.handle.exit_status().is_some(), "a child cannot be collected");
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.collect();
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// Forks by `clone3`; the child execs, or pauses for ever when there are no words. Returns its pidfd.
#[expect(
    unsafe_code,
    reason = "no crate wraps clone3, the only call that lets a number be chosen"
)]
fn clone3(number: Option<i32>, program: &CString, argv: &[*const libc::c_char]) -> io::Result<OwnedFd> {
    let mut pidfd: libc::c_int = -1;
    let numbers = [number.unwrap_or_default()];
    let mut wishes = CloneArgs {
        flags: u64::try_from(libc::CLONE_PIDFD).map_err(io::Error::other)?,
        pidfd: address(&raw mut pidfd)?,
        exit_signal: u64::try_from(libc::SIGCHLD).map_err(io::Error::other)?,
        ..CloneArgs::default()
    };
    if number.is_some() {
        wishes.set_tid = address(numbers.as_ptr())?;
        wishes.set_tid_size = 1;
    }
    let stays = argv.len() == 1;
    // SAFETY: `wishes` has the layout and the size announced, and what it points to outlives the call. Without CLONE_VM
    // the child has a copy of this memory; it makes system calls only, on strings that were built before.
    unsafe {
        let result = libc::syscall(libc::SYS_clone3, &raw mut wishes, size_of::<CloneArgs>());
        if result == 0 {
            if stays {
                loop {
                    libc::pause();
                }
            }
            libc::execv(program.as_ptr(), argv.as_ptr());
            libc::_exit(127);
        }
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
        assert!(pidfd.as_raw_fd() >= 0, "the kernel made no pidfd");
        Ok(OwnedFd::from_raw_fd(pidfd))
    }
}

/// For the kernel to read or write, so the compiler has to know that somebody may.
fn address<T>(pointer: *const T) -> io::Result<u64> {
    u64::try_from(pointer.expose_provenance()).map_err(io::Error::other)
}
