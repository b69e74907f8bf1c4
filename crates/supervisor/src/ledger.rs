//! What a VM makes outside the store, as lines of the ledger.

use std::collections::{BTreeMap, BTreeSet};

use maqet_process::identity::{Liveness, ProcessIdentity, Role};
use maqet_protocol::control::PortStatus;
use maqet_protocol::runner::Running;
use maqet_state::change::Change;
use maqet_state::clock::{self, Timestamp};
use maqet_state::id::VmId;
use maqet_state::ledger::{LedgerEdit, LedgerEntry, LedgerKind};
use maqet_state::record::{Helper, Launch, VmRecord};

use tokio::sync::oneshot;

use crate::args::Places;
use crate::launch::end;
use crate::messages::{Keep, ReadLedger};
use crate::recovery::look_for;
use crate::shared::Shared;

/// Sockets that a runner and its QEMU make in the VM's runtime directory.
pub(crate) const SOCKETS: [&str; 4] = ["runner.sock", "qmp0.sock", "qmp1.sock", "serial.sock"];

/// Makes the lines of one VM.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    /// The VM.
    pub(crate) id: &'a VmId,
    /// Directories.
    pub(crate) places: &'a Places,
    /// When they are entered.
    pub(crate) at: Timestamp,
}

impl Lines<'_> {
    /// What a VM has for as long as it is stored. The runtime directory is made by its first start.
    pub(crate) fn directories(&self) -> [LedgerEntry; 2] {
        [self.places.vm_data(self.id), self.places.vm_runtime(self.id)]
            .map(|path| self.line(LedgerKind::Directory, path.display().to_string()))
    }

    /// What a VM has from the spawn of its runner to the runner's end.
    pub(crate) fn runner(&self, runner: &ProcessIdentity) -> Vec<LedgerEntry> {
        let directory = self.places.vm_runtime(self.id);
        let sockets =
            SOCKETS.map(|name| self.line(LedgerKind::Socket, directory.join(name).display().to_string()));
        std::iter::once(self.process(runner)).chain(sockets).collect()
    }

    /// A process of the VM.
    pub(crate) fn process(&self, identity: &ProcessIdentity) -> LedgerEntry {
        LedgerEntry::process(identity.clone(), self.id.clone(), self.at)
    }

    /// A helper of QEMU.
    pub(crate) fn helper(&self, helper: &Helper) -> LedgerEntry {
        let mut line = self.process(&helper.identity);
        // There may be several.
        line.what = format!("{}/{}", line.what, helper.share);
        line
    }

    /// Host ports, by their names.
    pub(crate) fn ports(&self, names: &BTreeSet<String>) -> Vec<LedgerEntry> {
        names
            .iter()
            .map(|name| self.line(LedgerKind::Port, name.clone()))
            .collect()
    }

    /// All lines of a launch that is on record.
    fn launch(&self, launch: &Launch) -> Vec<LedgerEntry> {
        let mut lines = self.runner(&launch.runner);
        lines.extend(launch.qemu.iter().map(|qemu| self.process(qemu)));
        lines.extend(launch.helpers.iter().map(|helper| self.helper(helper)));
        lines.extend(self.ports(&ports_of(launch)));
        lines
    }

    fn line(&self, kind: LedgerKind, what: String) -> LedgerEntry {
        LedgerEntry::new(kind, what, self.id.clone(), self.at)
    }
}

/// `tcp:127.0.0.1:2222`.
pub(crate) fn port_name(port: &PortStatus) -> String {
    format!("{}:{}:{}", port.protocol, port.host_address, port.host_port)
}

/// Names of the host ports of a launch; none before it was confirmed.
pub(crate) fn ports_of(launch: &Launch) -> BTreeSet<String> {
    let running = launch.running.clone();
    let running: Option<Running> = running.and_then(|value| serde_json::from_value(value).ok());
    running
        .iter()
        .flat_map(|running| &running.ports)
        .map(port_name)
        .collect()
}

/// Brings the ledger in line with records that were just settled, and ends runners whose launch is over. What is written
/// is not waited for: it says what the kernel says anyway.
pub(crate) async fn put_in_order(records: &[&VmRecord], shared: &Shared) {
    let found = match shared.state.send(ReadLedger).await {
        Ok(Ok(found)) => found,
        other => return tracing::error!(?other, "the ledger cannot be read; nothing is struck"),
    };
    for record in records {
        end_forsaken(&found, record, shared).await;
    }
    let edits = records
        .iter()
        .flat_map(|record| settle(&found, record, &shared.places, clock::now()));
    let change = edits.fold(Change::default(), Change::ledger);
    if change.ledger.is_empty() {
        return;
    }
    let (done, _nobody_waits) = oneshot::channel();
    let change = Box::new(change);
    if let Err(error) = shared.state.send(Keep { change, done }).await {
        tracing::error!(%error, "the ledger is not put in order");
    }
}

/// Ends runners that outlived their launch and whoever waited for them to go: one that is frozen would come to when the next
/// launch has its directory.
async fn end_forsaken(found: &[LedgerEntry], record: &VmRecord, shared: &Shared) {
    let present = record.state.launch().map(|launch| launch.launch_id.as_str());
    let own = found.iter().filter(|line| line.id.as_ref() == Some(&record.id));
    let identities = own.filter_map(|line| line.identity.as_deref());
    let earlier = |identity: &&ProcessIdentity| {
        identity.role == Role::Runner && Some(identity.launch_id.as_str()) != present
    };
    for identity in identities.filter(earlier) {
        if let Liveness::Alive(runner) = look_for(identity) {
            tracing::warn!(
                vm = record.name(),
                pid = runner.pid(),
                "ending a runner whose launch is over"
            );
            end(&runner, shared).await;
        }
    }
}

/// Edits that bring the ledger in line with a record that was just settled with the kernel: lines may be missing, because
/// the store was made anew, and may be left, because whoever would have struck them died.
///
/// Images in the making are left to `doctor --leaks`, and so is a process of an earlier launch that is not surely dead.
fn settle(found: &[LedgerEntry], record: &VmRecord, places: &Places, at: Timestamp) -> Vec<LedgerEdit> {
    let id = &record.id;
    let lines = Lines { id, places, at };
    let launch = record.state.launch();
    let mut wanted = lines.directories().to_vec();
    wanted.extend(launch.iter().flat_map(|launch| lines.launch(launch)));
    let mut wanted: BTreeMap<_, _> = wanted.into_iter().map(|line| (key(&line), line)).collect();
    let own = found.iter().filter(|line| line.id.as_ref() == Some(id));
    let mut edits = Vec::new();
    for line in own {
        match wanted.remove(&key(line)) {
            Some(better) if better.identity != line.identity => edits.push(LedgerEdit::Enter(better)),
            Some(_same) => {}
            None if is_over(line, launch.is_some()) => edits.push(line.strike()),
            None => {}
        }
    }
    edits.extend(wanted.into_values().map(LedgerEdit::Enter));
    edits
}

fn key(line: &LedgerEntry) -> (LedgerKind, String) {
    (line.kind, line.what.clone())
}

/// Whether what a line names is surely gone, or not the VM's any more.
fn is_over(line: &LedgerEntry, runs: bool) -> bool {
    match line.kind {
        LedgerKind::Process => line
            .identity
            .as_ref()
            .is_none_or(|identity| matches!(identity.verify(), Liveness::Dead)),
        // A launch that was never confirmed may have ports that its record does not name.
        LedgerKind::Port | LedgerKind::Socket => !runs,
        LedgerKind::File | LedgerKind::Directory => false,
    }
}
