//! The ledger of one VM: lines ride in the commits of what they are about, a start makes no commit of its own.
//!
//! A line is entered before the thing may do anything and struck once it is gone. A runner that has told its QEMU's end
//! still lives for a moment; its lines are struck when it has gone, or with the next launch, which waits for that.

use std::collections::BTreeSet;

use actix::Context;
use maqet_process::identity::ProcessIdentity;
use maqet_protocol::control::PortStatus;
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::ledger::{LedgerEdit, LedgerEntry};
use maqet_state::record::{Helper, Launch, VmRecord};

use super::VmActor;
use crate::ledger::{Lines, port_name, ports_of};

/// What is in the ledger of the present launch and cannot be told from its record, and what is left of the one before.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Host ports, by name.
    ports: BTreeSet<String>,
    /// Lines of a runner on its way out.
    leaving: Vec<LedgerEntry>,
}

impl Tally {
    /// Of a VM that is on record.
    pub(super) fn of(record: &VmRecord) -> Self {
        let ports = record.state.launch().map(ports_of);
        Self {
            ports: ports.unwrap_or_default(),
            leaving: Vec::new(),
        }
    }

    /// A launch runs: what was left of the one before was struck with its first commit.
    pub(super) fn launched(&mut self) {
        self.leaving.clear();
    }

    /// Something is still to be struck.
    pub(super) fn is_pending(&self) -> bool {
        !self.leaving.is_empty()
    }
}

impl VmActor {
    fn lines(&self) -> Lines<'_> {
        Lines {
            id: &self.record.id,
            places: &self.shared.places,
            at: clock::now(),
        }
    }

    /// With the first commit of a start: the runner before it is gone, the new one is not let go yet.
    pub(super) fn enter_launch(&mut self, launch: &Launch, change: Change) -> Change {
        // Kept until the launch runs: the commit may be refused.
        let left = self.tally.leaving.clone();
        self.tally.ports.clear();
        enter(striking(change, &left), self.lines().runner(&launch.runner))
    }

    /// With the second commit of a start: QEMU is not executed yet, and its ports are held for it. Not earlier, because until
    /// then they may be another VM's.
    pub(super) fn enter_qemu(
        &mut self,
        (qemu, helpers): (&ProcessIdentity, &[Helper]),
        ports: &[PortStatus],
        change: Change,
    ) -> Change {
        let lines = self.lines();
        let helpers = helpers.iter().map(|helper| lines.helper(helper));
        let change = enter(change, helpers.chain([lines.process(qemu)]).collect());
        self.enter_ports(ports, change)
    }

    /// A new runner is to take over.
    pub(super) fn enter_runner(&self, runner: &ProcessIdentity, change: Change) -> Change {
        enter(change, vec![self.lines().process(runner)])
    }

    /// Ports that only who runs can tell.
    pub(super) fn enter_ports(&mut self, ports: &[PortStatus], change: Change) -> Change {
        let names: BTreeSet<String> = ports.iter().map(port_name).collect();
        let news = &names - &self.tally.ports;
        let entered = self.lines().ports(&news);
        self.tally.ports.extend(news);
        enter(change, entered)
    }

    /// With the commit of an end: QEMU is gone, its runner perhaps not yet.
    pub(super) fn strike_launch(&mut self, launch: &Launch, change: Change) -> Change {
        let ports = std::mem::take(&mut self.tally.ports);
        let mut gone = std::mem::take(&mut self.tally.leaving);
        gone.extend(self.lines().ports(&ports));
        gone.extend(launch.qemu.iter().map(|qemu| self.lines().process(qemu)));
        let helpers = launch.helpers.iter().map(|helper| self.lines().helper(helper));
        // A runner goes after its helpers.
        let runner = self.lines().runner(&launch.runner).into_iter().chain(helpers);
        if self.leaving.is_some() {
            self.tally.leaving = runner.collect();
        } else {
            gone.extend(runner);
        }
        striking(change, &gone)
    }

    /// The runner of an ended launch is gone as well, and its sockets were taken away.
    pub(super) fn strike_left(&mut self, context: &mut Context<Self>) {
        let left = std::mem::take(&mut self.tally.leaving);
        if !left.is_empty() {
            self.persist_later(striking(Change::default(), &left), context);
        }
    }

    /// With the commit of a removal: the directories are gone. One that is refused strikes nothing.
    pub(super) fn strike_vm(&self, change: Change) -> Change {
        let mut gone = self.tally.leaving.clone();
        gone.extend(self.lines().directories());
        striking(change, &gone)
    }
}

fn enter(change: Change, lines: Vec<LedgerEntry>) -> Change {
    let edits = lines.into_iter().map(LedgerEdit::Enter);
    edits.fold(change, Change::ledger)
}

fn striking(change: Change, lines: &[LedgerEntry]) -> Change {
    lines.iter().map(LedgerEntry::strike).fold(change, Change::ledger)
}
