//! The first step of a start: files are in place and sound, nothing runs yet.

use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::ExpectedFile;
use maqet_spec::VmSpec;
use maqet_spec::vm::Accel;
use maqet_storage::binary::Binary;

use super::Plan;
use crate::leases::Leases;
use crate::link::chain;
use crate::shared::Shared;
use crate::snapshots::external::Desk;
use crate::snapshots::finish_before_start;
use crate::virtiofsd;
use crate::{soundness, standing};

/// Files are in place; nothing runs.
#[derive(Debug)]
pub(crate) struct Preflight {
    /// QEMU's program.
    pub(super) binary: PathBuf,
    /// The program of its helpers, if it has any.
    pub(super) virtiofsd: Option<PathBuf>,
    /// What to run, with the accelerator chosen.
    pub(super) spec: VmSpec,
    /// Files that are on record.
    pub(super) files: Vec<ExpectedFile>,
    /// For the journal.
    pub(super) news: News,
}

/// What a launch found out that the journal should tell.
#[derive(Clone, Debug)]
pub(crate) struct News {
    /// Bytes of the serial log before this launch.
    pub(crate) serial_offset: u64,
    /// Why `accel: auto` did not become KVM.
    pub(crate) accel_fallback: Option<String>,
}

impl Preflight {
    /// Makes what is missing, takes the leases, settles snapshots, checks what may be damaged.
    pub(super) async fn check(plan: &Plan) -> Result<Self, Refusal> {
        let name = plan.spec.name.as_str();
        let binary = plan.shared.binaries.lookup(&plan.spec.binary).map_err(|error| {
            Refusal::new(
                RefusalCode::StartFailed,
                format!("the QEMU program of `{name}` cannot be used"),
            )
            .vm(name)
            .cause(chain(&error))
            .hint("apt install qemu-system-x86, or set `binary:` to QEMU's path")
        })?;
        let virtiofsd = virtiofsd::program(&plan.spec, &plan.shared, RefusalCode::StartFailed)?;
        let files = crate::disks::create_missing(plan).await?;
        Leases::take(&plan.id, &plan.spec, &plan.shared).await?;
        standing::refuse_to_write_below((&plan.id, name), &plan.spec.disks, &plan.shared).await?;
        if let Some(work) = &plan.unfinished {
            let settled = finish_before_start(work, plan).await;
            settled.map_err(|refusal| refusal.vm(name))?;
        }
        tidy_externals(plan).await;
        let order = soundness::Order {
            id: &plan.id,
            vm: name,
            disks: &plan.spec.disks,
            health: &plan.health,
            owner: &plan.owner,
            shared: &plan.shared,
        };
        soundness::check(&order).await?;
        let serial = plan.shared.places.vm_data(&plan.id).join("serial.log");
        let serial_offset = fs::metadata(serial).map_or(0, |metadata| metadata.len());
        let mut spec = plan.spec.clone();
        let accel_fallback = choose_accel(&mut spec, &binary, &plan.shared).await;
        Ok(Self {
            binary: binary.path,
            virtiofsd,
            spec,
            files,
            news: News {
                serial_offset,
                accel_fallback,
            },
        })
    }
}

/// What is left of external snapshots that did not come about is in nobody's way.
async fn tidy_externals(plan: &Plan) {
    let desk = Desk {
        id: plan.id.clone(),
        vm: plan.spec.name.to_string(),
        files: plan.files.clone(),
        owner: plan.owner.clone(),
        shared: Rc::clone(&plan.shared),
        meter: maqet_storage::meter::Meter::unread(),
    };
    if let Err(refusal) = desk.tidy(&plan.externals).await {
        tracing::warn!(vm = %plan.spec.name, %refusal, causes = ?refusal.causes, "images that nothing needs are left for now");
    }
}

/// `auto` becomes KVM where a test guest really runs under it; the verdict is kept, so that only the first start pays
/// for it. Tells why not.
async fn choose_accel(spec: &mut VmSpec, binary: &Binary, shared: &Shared) -> Option<String> {
    if spec.accel != Accel::Auto {
        return None;
    }
    let verdict = shared.kvm.usable(binary, &shared.probes).await;
    spec.accel = if verdict.is_ok() { Accel::Kvm } else { Accel::Tcg };
    verdict.err().map(|trouble| trouble.to_string())
}
