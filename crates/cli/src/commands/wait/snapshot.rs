//! What is known of one VM while it is waited for, and what that means for a condition. Pure.

use std::collections::BTreeSet;

use maqet_protocol::control::{Event, VmSummary};
use maqet_state::lifecycle::{Activity, Status};

use super::has_ended;
use crate::args::condition::Condition;

/// What is known of one VM. Conditions latch: what held once has held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// QEMU runs now.
    pub(crate) running: bool,
    /// How it ended, while it neither runs nor is being started.
    pub(crate) ended: Option<Status>,
    /// The VM is gone from the store.
    pub(crate) removed: bool,
    /// Starts seen; tells one run from the next.
    pub(crate) runs: u64,
    /// Bytes of the serial log when the present, or last, run began.
    pub(crate) serial_offset: u64,
    /// An end was seen while waiting, not found at the beginning.
    ended_meanwhile: bool,
    /// Statuses that the VM had at some moment of the waiting.
    had: BTreeSet<Status>,
    /// Kinds of events seen.
    kinds: BTreeSet<String>,
}

/// What a snapshot means for a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It holds, or has held.
    Holds,
    /// It cannot hold any more.
    Hopeless,
    /// It may yet hold.
    Open,
}

impl Snapshot {
    /// What the status says at the beginning.
    pub(crate) fn of(vm: &VmSummary) -> Self {
        let mut snapshot = Self {
            running: vm.status == Status::Running,
            ..Self::default()
        };
        if vm.activity != Activity::Starting {
            snapshot.ended = has_ended(vm.status).then_some(vm.status);
            snapshot.had.insert(vm.status);
        }
        snapshot
    }

    /// Takes in an event of this VM.
    pub(crate) fn take(&mut self, event: &Event) {
        self.kinds.insert(event.kind.clone());
        match event.kind.as_str() {
            "vm.starting" => self.ended = None,
            "vm.running" => self.begin(event),
            "vm.stopped" => self.end(Status::Stopped),
            "vm.failed" => self.end(Status::Failed),
            "vm.removed" => self.removed = true,
            _ => {}
        }
    }

    fn begin(&mut self, event: &Event) {
        self.running = true;
        self.ended = None;
        self.runs += 1;
        self.serial_offset = serial_offset(event);
        self.had.insert(Status::Running);
    }

    fn end(&mut self, status: Status) {
        self.running = false;
        self.ended = Some(status);
        self.ended_meanwhile = true;
        self.had.insert(status);
    }

    /// What this means for a condition. For `serial`, `port` and `agent` it only tells when there is no hope; `file` is
    /// not the VM's business.
    pub(crate) fn judge(&self, condition: &Condition) -> Verdict {
        let holds = match condition {
            Condition::Running => self.had.contains(&Status::Running),
            Condition::Stopped => self.had.contains(&Status::Stopped),
            Condition::Failed => self.had.contains(&Status::Failed),
            Condition::Exit => self.had.contains(&Status::Stopped) || self.had.contains(&Status::Failed),
            Condition::Event(kind) => {
                self.kinds.contains(kind) || self.kinds.contains(&format!("qmp.{kind}"))
            }
            Condition::Serial(_) | Condition::Port(_) | Condition::Agent | Condition::File(_) => false,
        };
        match (holds, self.is_hopeless(condition)) {
            (true, _) => Verdict::Holds,
            (false, true) => Verdict::Hopeless,
            (false, false) => Verdict::Open,
        }
    }

    fn is_hopeless(&self, condition: &Condition) -> bool {
        match condition {
            Condition::File(_) => false,
            // Somebody may be about to start it; only an end that came while waiting decides.
            Condition::Running => self.removed || (self.ended.is_some() && self.ended_meanwhile),
            Condition::Event(_) => self.removed,
            Condition::Exit => self.removed && self.ended.is_none(),
            Condition::Stopped
            | Condition::Failed
            | Condition::Serial(_)
            | Condition::Port(_)
            | Condition::Agent => self.removed || self.ended.is_some(),
        }
    }
}

/// Bytes of the serial log when the run of a `vm.running` event began.
pub(crate) fn serial_offset(event: &Event) -> u64 {
    event
        .data
        .get("serial_offset")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
