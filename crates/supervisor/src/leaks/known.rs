//! What is on record, and what its owners have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use actix::Addr;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::id::VmId;
use maqet_state::ledger::{LedgerEntry, LedgerKind};

use crate::messages::{Owners, ReadLedger, WhatIsHeld};
use crate::shared::Shared;
use crate::supervisor::SupervisorActor;

/// What one VM's owner has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The VM.
    pub(crate) id: VmId,
    /// Its name.
    pub(crate) name: String,
    /// Something is being done to it, or it is changing hands: whatever is its own may come and go.
    pub(crate) busy: bool,
    /// Its present launch.
    pub(crate) launch_id: Option<String>,
    /// A process of it lives, and so may its sockets.
    pub(crate) runs: bool,
    /// Its processes, each by a pidfd that shows no end.
    pub(crate) pids: Vec<i32>,
    /// Its QEMU, one of them.
    pub(crate) qemu: Option<i32>,
    /// Disk images it names.
    pub(crate) disks: Vec<PathBuf>,
}

impl Held {
    /// A VM whose owner does not answer now: it is being rebuilt, or just removed.
    fn unanswered(id: VmId, name: String) -> Self {
        Self {
            id,
            name,
            busy: true,
            launch_id: None,
            runs: true,
            pids: Vec::new(),
            qemu: None,
            disks: Vec::new(),
        }
    }
}

/// Everything that is on record.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Every VM.
    pub(super) vms: BTreeMap<VmId, Held>,
    /// The ledger.
    pub(super) lines: Vec<LedgerEntry>,
}

impl Known {
    /// Asks everybody.
    pub(super) async fn ask(
        supervisor: &Addr<SupervisorActor>,
        shared: &Rc<Shared>,
    ) -> Result<Self, Refusal> {
        let owners = supervisor.send(Owners).await.map_err(gone)?;
        let answers = owners.into_iter().map(|(id, name, vm)| async move {
            let held = vm.send(WhatIsHeld).await;
            let held = held.unwrap_or_else(|_no_owner| Held::unanswered(id.clone(), name));
            (id, held)
        });
        let vms = futures_util::future::join_all(answers.collect::<Vec<_>>()).await;
        let lines = shared.state.send(ReadLedger).await.map_err(gone)??;
        Ok(Self {
            vms: vms.into_iter().collect(),
            lines,
        })
    }

    /// Its name, or its id when it is not stored.
    pub(super) fn name_of(&self, id: &VmId) -> String {
        self.vms
            .get(id)
            .map_or_else(|| id.to_string(), |held| held.name.clone())
    }

    /// Whether something is being done to this VM.
    pub(super) fn is_busy(&self, id: &VmId) -> bool {
        self.vms.get(id).is_some_and(|held| held.busy)
    }

    /// Whether some VM's owner has this process.
    pub(super) fn holds(&self, pid: i32) -> bool {
        self.vms.values().any(|held| held.pids.contains(&pid))
    }

    /// Directories in which maqet makes images, and nothing is being made now.
    pub(super) fn image_directories(&self) -> BTreeSet<PathBuf> {
        let of = |busy: bool| {
            let vms = self.vms.values().filter(move |held| held.busy == busy);
            vms.flat_map(|held| &held.disks).filter_map(|disk| disk.parent())
        };
        let resting: BTreeSet<_> = of(false).collect();
        let busy: BTreeSet<_> = of(true).collect();
        let files = self.lines.iter().filter(|line| line.kind == LedgerKind::File);
        let of_lines = files.filter_map(|line| Path::new(&line.what).parent());
        let all = resting.into_iter().chain(of_lines);
        all.filter(|place| !busy.contains(place))
            .map(Path::to_owned)
            .collect()
    }

    /// Launches on record, each with its VM.
    pub(super) fn launches(&self) -> BTreeMap<&str, &VmId> {
        let present = self
            .vms
            .values()
            .filter_map(|held| Some((held.launch_id.as_deref()?, &held.id)));
        let processes = self.lines.iter().filter(|line| line.kind == LedgerKind::Process);
        let entered = processes.filter_map(|line| {
            let (launch, _role) = line.what.split_once('/')?;
            Some((launch, line.id.as_ref()?))
        });
        entered.chain(present).collect()
    }
}

fn gone(error: actix::MailboxError) -> Refusal {
    Refusal::new(RefusalCode::Busy, "the supervisor is too busy to look")
        .cause(error.to_string())
        .hint("try again")
}
