//! Children that nobody waits for.
//!
//! The supervisor is a child subreaper: a gate or QEMU whose runner died becomes its child. Whoever holds a pidfd of a
//! child collects it; what is left over is collected here, so that no zombie stays behind. Children of the storage
//! helpers (`qemu-img`) belong to tokio and are told apart by their name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;

use maqet_state::id::VmId;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Names, cut to 15 bytes by the kernel, under which a runner, a gate of it, or a helper dies.
const OWN_NAMES: [&str; 3] = ["maqet-runner", "maqet-runner-un", "virtiofsd"];

/// Who waits for which child.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    awaited: RefCell<BTreeMap<i32, VmId>>,
}

impl Reaper {
    /// The owner of this VM holds a pidfd of this child and will collect it.
    pub(crate) fn await_by_owner(&self, pid: i32, id: &VmId) {
        self.awaited.borrow_mut().insert(pid, id.clone());
    }

    /// The owner of this VM was lost: nobody but the one after it waits for children of the VM, and only for these.
    pub(crate) fn inherited(&self, id: &VmId, pids: &[i32]) {
        let kept = |pid: &i32, owner: &VmId| owner != id || pids.contains(pid);
        self.awaited.borrow_mut().retain(|pid, owner| kept(pid, owner));
        self.sweep();
    }

    /// The owner has collected it.
    pub(crate) fn collected(&self, pid: i32) {
        self.awaited.borrow_mut().remove(&pid);
        self.sweep();
    }

    /// Collects dead children that nobody awaits. Called for every SIGCHLD.
    pub(crate) fn sweep(&self) {
        while let Some(pid) = self.next_orphan() {
            let collected = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            tracing::debug!(
                pid = pid.as_raw_nonzero().get(),
                ?collected,
                "collected an orphan"
            );
            if !matches!(collected, Ok(Some(_))) {
                return;
            }
        }
    }

    fn next_orphan(&self) -> Option<Pid> {
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::All, peek).ok()??;
        let children = fs::read_to_string("/proc/thread-self/children").ok()?;
        let awaited = self.awaited.borrow();
        children
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid| !awaited.contains_key(pid))
            .filter(|pid| is_dead_orphan(*pid))
            .find_map(Pid::from_raw)
    }
}

/// A zombie by the name of the runner, its gate, or QEMU. `Z` may also be a leader thread that ended before the others;
/// collecting such a one is refused by the kernel (`WNOHANG` finds nothing), so nothing is lost by asking.
fn is_dead_orphan(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let Some((head, tail)) = stat.rsplit_once(')') else {
        return false;
    };
    let name = head.split_once('(').map_or("", |(_, name)| name);
    let ours = OWN_NAMES.contains(&name) || name.starts_with("qemu-system");
    ours && tail.trim_start().starts_with('Z')
}
