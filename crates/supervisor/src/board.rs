//! The board: what `ls` shows, without asking anybody.
//!
//! Each VM's actor writes its line. Beside it hangs the pidfd of its QEMU: the kernel is asked before a line that says
//! *running* is shown, so that nobody reads of a QEMU that is dead, however new the death is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use maqet_process::pidfd::ProcessHandle;
use maqet_protocol::control::VmSummary;
use maqet_state::clock;
use maqet_state::id::VmId;
use maqet_state::lifecycle::{Activity, Status};
use tokio::sync::Notify;

/// A runner tells how its QEMU ended within a few milliseconds of the death; a reader of the board waits so long for it,
/// and then reads what the kernel alone can tell.
const SETTLING_DEADLINE: Duration = Duration::from_millis(100);

/// The line each VM shows, written by its actor. One stuck VM never holds up `ls`.
#[derive(Debug, Default)]
pub(crate) struct Board {
    lines: RefCell<BTreeMap<VmId, VmSummary>>,
    qemus: RefCell<BTreeMap<VmId, ProcessHandle>>,
    settled: Notify,
}

impl Board {
    /// Puts up a VM's line.
    pub(crate) fn show(&self, line: VmSummary) {
        self.lines.borrow_mut().insert(line.id.clone(), line);
    }

    /// A VM's line.
    pub(crate) fn line(&self, id: &VmId) -> Option<VmSummary> {
        self.lines.borrow().get(id).cloned()
    }

    /// What is under way with a VM, as its line has it.
    pub(crate) fn activity(&self, id: &VmId) -> Option<Activity> {
        self.lines.borrow().get(id).map(|line| line.activity)
    }

    /// Takes a VM's line down.
    pub(crate) fn clear(&self, id: &VmId) {
        self.lines.borrow_mut().remove(id);
        self.ended(id);
    }

    /// The VM's line may say *running* for as long as this process lives.
    pub(crate) fn runs(&self, id: &VmId, qemu: &ProcessHandle) {
        match qemu.try_clone() {
            Ok(qemu) => drop(self.qemus.borrow_mut().insert(id.clone(), qemu)),
            Err(error) => tracing::warn!(%id, %error, "QEMU's death will be shown a moment late"),
        }
    }

    /// How the VM's QEMU ended is on its line.
    pub(crate) fn ended(&self, id: &VmId) {
        if self.qemus.borrow_mut().remove(id).is_some() {
            self.settled.notify_waiters();
        }
    }

    /// Returns when no line says *running* of a dead QEMU any more: at once, nearly always.
    pub(crate) async fn settled(&self) {
        let is_dying = || self.qemus.borrow().values().any(ProcessHandle::has_exited);
        self.settle(is_dying).await;
    }

    /// The same for one VM.
    pub(crate) async fn settled_of(&self, id: &VmId) {
        let is_dying = || self.qemus.borrow().get(id).is_some_and(ProcessHandle::has_exited);
        self.settle(is_dying).await;
    }

    async fn settle(&self, is_dying: impl Fn() -> bool) {
        let settling = async {
            // One thread: nothing can happen between the look and the wait.
            while is_dying() {
                self.settled.notified().await;
            }
        };
        if tokio::time::timeout(SETTLING_DEADLINE, settling).await.is_err() {
            tracing::debug!("a QEMU is dead and its runner has not told how");
        }
    }

    /// All lines by name, with their uptime as of now.
    pub(crate) fn lines(&self, status: Option<Status>) -> Vec<VmSummary> {
        let now = clock::now();
        let mut lines: Vec<_> = self
            .lines
            .borrow()
            .values()
            .filter(|line| status.is_none_or(|status| line.status == status))
            .cloned()
            .collect();
        for line in &mut lines {
            if line.uptime_s.is_some() {
                line.uptime_s = Some(now.since(line.since).as_secs());
            }
        }
        lines.sort_by(|one, other| one.name.cmp(&other.name));
        lines
    }
}
