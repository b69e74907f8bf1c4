//! Processes that do nothing but live: what a runner, a gate and a QEMU are to the kernel.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs;
use std::io::{PipeWriter, Write};
use std::path::Path;

use maqet_process::error::ProcessError;
use maqet_process::pidfd::ProcessHandle;
use maqet_process::signal::{Sent, Signal};
use maqet_process::spawn::Spawn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A shell that waits for one line and does what it says; at the end of its input it ends.
const WAIT: &str = "ulimit -c 0; read -r words <&3; eval \"$words\"";

/// A process that waits to be told how to end. It ends with its owner.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) handle: ProcessHandle,
    orders: RefCell<Option<PipeWriter>>,
    /// Somebody but the product ended it.
    played: Cell<bool>,
    /// It was seen dead, and need not be looked at again.
    dead: Cell<bool>,
}

impl Body {
    /// A process that shows `shown` on its command line.
    pub(super) fn new(program: &Path, shown: &[OsString]) -> Result<Self, ProcessError> {
        let (inherited, orders) = std::io::pipe().unwrap();
        let mut spawn = Spawn::new(program);
        spawn.args = vec!["-c".into(), WAIT.into(), "played".into()];
        spawn.args.extend_from_slice(shown);
        spawn.fds = vec![(inherited.into(), 3)];
        let body = Self {
            handle: spawn.spawn()?.handle,
            orders: RefCell::new(Some(orders)),
            played: Cell::default(),
            dead: Cell::default(),
        };
        body.rest();
        Ok(body)
    }

    pub(super) fn lives(&self) -> bool {
        if !self.dead.get() {
            self.dead.set(self.handle.has_exited());
        }
        !self.dead.get()
    }

    /// Whether it ended, and not because a test played that.
    pub(super) fn was_ended(&self) -> bool {
        !self.lives() && !self.played.get()
    }

    /// Whether a zombie of it is left.
    pub(super) fn is_zombie(&self) -> bool {
        state_of(self.handle.pid()) == Some('Z')
    }

    /// Has it do something; without effect on one that has ended.
    pub(super) fn order(&self, words: &str) {
        if let Some(orders) = self.orders.borrow_mut().as_mut() {
            drop(writeln!(orders, "{words}"));
        }
        self.rest();
    }

    /// Has it become another program, which waits in the same way.
    pub(super) fn become_program(&self, program: &Path, shown: &str) {
        let wait = WAIT.replace('"', "\\\"").replace('$', "\\$");
        self.order(&format!(
            "exec {} -c \"{wait}\" played {shown}",
            program.display()
        ));
    }

    /// Has it end with a code.
    pub(super) fn exit(&self, code: i32) {
        self.end(|body| body.order(&format!("exit {code}")));
    }

    /// Has it crash.
    pub(super) fn crash(&self) {
        self.end(|body| body.order("kill -SEGV $$"));
    }

    /// Ends it from outside.
    pub(super) fn kill(&self) {
        self.end(|body| assert_eq!(body.handle.signal(Signal::Kill).unwrap(), Sent::Delivered));
    }

    fn end(&self, how: impl FnOnce(&Self)) {
        if self.lives() {
            self.played.set(true);
            how(self);
            let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
            let limit = Timespec {
                tv_sec: 20,
                tv_nsec: 0,
            };
            assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "a process does not end");
        }
    }

    /// Returns once it waits again or has ended: nothing is on its way to it.
    pub(super) fn rest(&self) {
        while self.lives() && !matches!(state_of(self.handle.pid()), Some('S' | 'Z') | None) {
            std::thread::yield_now();
        }
    }
}

fn state_of(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
