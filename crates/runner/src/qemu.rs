//! One QEMU as its runner knows it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use maqet_process::identity::ProcessIdentity;
use maqet_process::pidfd::ProcessHandle;
use maqet_protocol::control::{PortStatus, SandboxStatus};
use maqet_protocol::runner::Adopt;
use maqet_spec::VmSpec;
use maqet_spec::vm::StopPolicy;

use crate::launch::sandbox;
use crate::logs::{Logs, QEMU_LOG};
use crate::notes::LaunchNote;
use crate::oom::Baseline;
use crate::ports::{self, HeldPorts};
use crate::virtiofsd::Helper;

/// One QEMU as its runner knows it.
#[derive(Debug)]
pub(crate) struct Qemu {
    /// Who it is.
    pub(crate) identity: ProcessIdentity,
    /// Handle on it.
    pub(crate) handle: ProcessHandle,
    /// Accelerator.
    pub(crate) accel: String,
    /// Forwarded ports.
    pub(crate) ports: Vec<PortStatus>,
    /// Confinement.
    pub(crate) sandbox: SandboxStatus,
    /// Who serves its shares.
    pub(crate) helpers: Vec<Helper>,
    /// Its disks: names, and where their images are.
    pub(crate) images: Vec<(String, PathBuf)>,
    /// A person has its guest halted.
    pub(crate) paused: bool,
    /// How it is to be ended.
    pub(crate) stop: StopPolicy,
    /// Its logs.
    pub(crate) logs: Logs,
    /// Length of its log when it was started, bytes.
    pub(crate) words_from: u64,
    /// What the OOM killer had done when it was started.
    pub(crate) kills: Baseline,
    /// Host ports held until it has bound them.
    pub(crate) held: HeldPorts,
}

impl Qemu {
    /// A running QEMU that another runner started.
    pub(crate) fn adopted(order: Adopt, handle: ProcessHandle, note: Option<LaunchNote>) -> Self {
        let logs = Logs::new(order.log_dir, order.log_bytes_max);
        let note = note.unwrap_or_else(|| LaunchNote {
            launch_id: order.qemu.launch_id.clone(),
            accel: String::new(),
            ports: ports::status(&order.spec.networks),
            // Nobody can tell any more what it was confined to.
            sandbox: sandbox(&order.spec, false),
            words_from: logs.size(QEMU_LOG),
            kills: Baseline::take(),
            paused: false,
            losses: BTreeMap::new(),
        });
        Self {
            identity: order.qemu,
            handle,
            accel: note.accel,
            ports: note.ports,
            sandbox: note.sandbox,
            helpers: order
                .helpers
                .into_iter()
                .map(|helper| Helper::adopted(helper, &note.losses, &logs))
                .collect(),
            images: images(&order.spec),
            paused: note.paused,
            stop: order.spec.stop,
            logs,
            words_from: note.words_from,
            kills: note.kills,
            held: HeldPorts::default(),
        }
    }

    /// What a later runner has to know of it.
    pub(crate) fn note(&self) -> LaunchNote {
        LaunchNote {
            launch_id: self.identity.launch_id.clone(),
            accel: self.accel.clone(),
            ports: self.ports.clone(),
            sandbox: self.sandbox.clone(),
            words_from: self.words_from,
            kills: self.kills.clone(),
            paused: self.paused,
            losses: self.helpers.iter().filter_map(Helper::lost).collect(),
        }
    }
}

/// Its disks: names, and where their images are.
pub(crate) fn images(spec: &VmSpec) -> Vec<(String, PathBuf)> {
    let images = spec
        .disks
        .iter()
        .map(|disk| (disk.name.clone(), disk.path.clone()));
    images.collect()
}
