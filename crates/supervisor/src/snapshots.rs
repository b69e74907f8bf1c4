//! Snapshots of a VM: in its images where it does not run, by its QEMU where it does.
//!
//! Work is recorded before the first image is touched, begun, and settled by looking at what the images then hold: see
//! [`plan`]. What a supervisor that died left recorded is settled the same way, before the VM starts or anything else is done
//! with its snapshots.

mod files;
pub(crate) mod plan;

use std::rc::Rc;
use std::time::Instant;

use actix::Addr;
use maqet_process::point::{Point, pass};
use maqet_protocol::control::{SnapshotDone, SnapshotListed};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::disk::DiskRecords;
use maqet_state::id::VmId;
use maqet_state::snapshot::{SnapshotAction, SnapshotWork};
use maqet_storage::image::snapshot::is_name;

use self::files::Files;
use self::plan::{Found, Step};
use crate::launch::Plan;
use crate::leases::Leases;
use crate::messages::RecordSnapshot;
use crate::operation::Done;
use crate::shared::Shared;
use crate::vm::VmActor;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotOrder {
    /// What; `None` is to list them.
    pub(crate) action: Option<SnapshotAction>,
    /// Name of the snapshot.
    pub(crate) name: String,
    /// Only on this disk.
    pub(crate) disk: Option<String>,
    /// With the machine's memory.
    pub(crate) memory: bool,
    /// Replace one of that name.
    pub(crate) overwrite: bool,
    /// Idempotency key of the call.
    pub(crate) key: Option<String>,
}

/// One piece of work on a VM's snapshots.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: VmId,
    pub(crate) spec: VmSpec,
    /// What is known of its disks' files.
    pub(crate) files: DiskRecords,
    pub(crate) order: SnapshotOrder,
    /// Work that somebody before left.
    pub(crate) unfinished: Option<Box<SnapshotWork>>,
    /// It runs.
    pub(crate) runs: bool,
    /// Who records.
    pub(crate) owner: Addr<VmActor>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) asked: Instant,
}

/// Who does the steps.
#[derive(Debug)]
pub(crate) enum Engine {
    /// qemu-img, in the images.
    Files(Files),
}

/// How work came to its end.
#[derive(Debug)]
struct Ended {
    result: Result<(), Refusal>,
    /// Nothing half-made is left.
    settled: bool,
}

impl SnapshotOrder {
    /// Refuses a name that no snapshot can have.
    ///
    /// # Errors
    /// `invalid-call`.
    pub(crate) fn check(self) -> Result<Self, Refusal> {
        if self.memory && self.disk.is_some() {
            let message = "memory belongs to all disks, not to one";
            return Err(Refusal::new(RefusalCode::InvalidCall, message)
                .parameter("disk")
                .hint("leave out --disk or --memory"));
        }
        if self.action.is_none() || is_name(&self.name) {
            return Ok(self);
        }
        let message = format!("`{}` cannot be the name of a snapshot", self.name);
        Err(Refusal::new(RefusalCode::InvalidCall, message)
            .parameter("name")
            .hint("letters, digits, `.`, `_` and `-`, at most 63; a letter or digit first, not digits alone"))
    }
}

impl Job {
    /// Carries it out.
    ///
    /// # Errors
    /// The refusal, about the VM.
    pub(crate) async fn run(&self) -> Result<Done, Refusal> {
        self.carry_out().await.map_err(|refusal| refusal.vm(self.name()))
    }

    async fn carry_out(&self) -> Result<Done, Refusal> {
        let disks = self.disks()?;
        let engine = self.engine().await?;
        if let Some(work) = &self.unfinished {
            finish_recorded(work, &engine, &self.owner).await?;
        }
        let found = engine.list().await?;
        let Some(action) = self.order.action else {
            let all = capable(&self.spec).count();
            return Ok(Done::Listed(SnapshotListed {
                vm: self.name().to_owned(),
                snapshots: plan::summaries(&found, &disks, all),
            }));
        };
        let work = self.work(action, disks, &found, engine.is_live())?;
        record(&self.owner, RecordSnapshot::Begun(Box::new(work.clone()))).await?;
        pass(Point::SnapshotIntended);
        let Ended { result, settled } = engine.work(&work).await;
        pass(Point::SnapshotSettled);
        let done = self.done(&work, plan::has_memory(&found, &work.disks, &work.name));
        let told = RecordSnapshot::Ended {
            settled,
            outcome: Box::new(result.clone().map(|()| done.clone())),
            key: self.order.key.clone(),
        };
        record(&self.owner, told).await?;
        result.map(|()| Done::Snapshot(done))
    }

    fn name(&self) -> &str {
        self.spec.name.as_str()
    }

    /// The disks it is about.
    fn disks(&self) -> Result<Vec<String>, Refusal> {
        let name = self.name();
        let Some(wanted) = &self.order.disk else {
            let raw = self
                .spec
                .disks
                .iter()
                .find(|disk| !disk.readonly && disk.format == DiskFormat::Raw);
            return match raw {
                Some(disk) if self.order.action == Some(SnapshotAction::Create) => Err(is_raw(name, disk)),
                Some(_) | None => self.every_disk(),
            };
        };
        let disk = self.spec.disks.iter().find(|disk| disk.name.as_str() == wanted);
        match disk {
            None => Err(Refusal::new(
                RefusalCode::DiskNotFound,
                format!("`{name}` has no disk `{wanted}`"),
            )
            .hint(format!("maqet status {name}"))),
            Some(disk) if disk.readonly => Err(Refusal::new(
                RefusalCode::WrongState,
                format!("disk `{wanted}` of `{name}` is read-only: it never changes"),
            )),
            Some(disk) if disk.format == DiskFormat::Raw => Err(is_raw(name, disk)),
            Some(disk) => Ok(vec![disk.name.clone()]),
        }
    }

    fn every_disk(&self) -> Result<Vec<String>, Refusal> {
        let disks: Vec<_> = capable(&self.spec).map(|disk| disk.name.clone()).collect();
        if disks.is_empty() && self.order.action.is_some() {
            let message = format!("`{}` has no disk that can have snapshots", self.name());
            return Err(
                Refusal::new(RefusalCode::WrongState, message).hint("give it a disk with `format: qcow2`")
            );
        }
        Ok(disks)
    }

    async fn engine(&self) -> Result<Engine, Refusal> {
        if self.runs {
            let message = format!("`{}` is running", self.name());
            return Err(Refusal::new(RefusalCode::WrongState, message)
                .state("running")
                .hint(format!("maqet stop {}", self.name())));
        }
        let touches = self.order.action.is_some() || self.unfinished.is_some();
        if touches {
            Leases::take(&self.id, &self.spec, &self.shared).await?;
        }
        Ok(Engine::Files(Files::open(&self.spec, &self.files, &self.shared)?))
    }

    /// What is to be recorded, if it may be done at all.
    fn work(
        &self,
        action: SnapshotAction,
        mut disks: Vec<String>,
        found: &Found,
        live: bool,
    ) -> Result<SnapshotWork, Refusal> {
        let name = &self.order.name;
        let having = |disk: &String| plan::has(found, disk, name);
        let mut replaces = std::collections::BTreeMap::new();
        match action {
            SnapshotAction::Create => {
                let old = disks
                    .iter()
                    .filter_map(|disk| Some((disk.clone(), plan::id_of(found, disk, name)?)));
                replaces.extend(old);
                self.may_replace(&replaces)?;
            }
            SnapshotAction::Load | SnapshotAction::Delete if !disks.iter().any(having) => {
                return Err(self.no_such());
            }
            SnapshotAction::Load => {
                if let Some(without) = disks.iter().find(|disk| !having(disk)) {
                    return Err(self.no_such().cause(format!("disk `{without}` does not have it")));
                }
            }
            SnapshotAction::Delete => disks.retain(having),
        }
        self.may_have_memory(action, live)?;
        Ok(SnapshotWork {
            action,
            name: name.clone(),
            disks,
            replaces,
            memory: self.order.memory,
            live,
        })
    }

    fn may_replace(&self, replaces: &std::collections::BTreeMap<String, String>) -> Result<(), Refusal> {
        if replaces.is_empty() || self.order.overwrite {
            return Ok(());
        }
        let (vm, name) = (self.name(), &self.order.name);
        Err(Refusal::new(
            RefusalCode::Conflict,
            format!("`{vm}` has a snapshot `{name}` already"),
        )
        .hint(format!(
            "maqet snapshot create {vm} {name} --overwrite, or another name"
        )))
    }

    fn may_have_memory(&self, action: SnapshotAction, live: bool) -> Result<(), Refusal> {
        let vm = self.name();
        if !self.order.memory || live {
            return Ok(());
        }
        let what = match action {
            SnapshotAction::Create => "there is no memory to keep",
            SnapshotAction::Load | SnapshotAction::Delete => "memory is loaded into a running VM",
        };
        Err(
            Refusal::new(RefusalCode::WrongState, format!("`{vm}` does not run: {what}"))
                .hint(format!("maqet start {vm}, or leave out --memory")),
        )
    }

    fn no_such(&self) -> Refusal {
        let (vm, name) = (self.name(), &self.order.name);
        Refusal::new(
            RefusalCode::SnapshotNotFound,
            format!("`{vm}` has no snapshot `{name}`"),
        )
        .hint(format!("maqet snapshot list {vm}"))
    }

    fn done(&self, work: &SnapshotWork, had_memory: bool) -> SnapshotDone {
        SnapshotDone {
            vm: self.name().to_owned(),
            action: work.action,
            name: work.name.clone(),
            disks: work.disks.clone(),
            live: work.live,
            memory: work.memory,
            memory_left_out: work.action == SnapshotAction::Load && had_memory && !work.memory,
            took_ms: u64::try_from(self.asked.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Settles what is left of work that was cut off; called before the VM starts.
///
/// # Errors
/// The refusal of the step that failed; the work stays recorded.
pub(crate) async fn finish_before_start(work: &SnapshotWork, plan: &Plan) -> Result<(), Refusal> {
    let engine = Engine::Files(Files::open(&plan.spec, &plan.files, &plan.shared)?);
    finish_recorded(work, &engine, &plan.owner).await
}

async fn finish_recorded(work: &SnapshotWork, engine: &Engine, owner: &Addr<VmActor>) -> Result<(), Refusal> {
    engine.mend().await?;
    let achieved = match engine.settle(work).await {
        Err(refusal) if work.action == SnapshotAction::Load && !work.live => {
            engine
                .retreat(work)
                .await
                .map_err(|second| refusal.cause(second.message))?;
            false
        }
        settled => settled?,
    };
    tracing::info!(work = ?work, achieved, "work on a snapshot that was cut off is settled");
    record(owner, RecordSnapshot::Recovered { achieved }).await
}

async fn record(owner: &Addr<VmActor>, step: RecordSnapshot) -> Result<(), Refusal> {
    owner.send(step).await.unwrap_or_else(|gone| {
        Err(Refusal::new(RefusalCode::Internal, "the VM's owner is gone").cause(gone.to_string()))
    })
}

impl Engine {
    const fn is_live(&self) -> bool {
        match self {
            Self::Files(_) => false,
        }
    }

    async fn list(&self) -> Result<Found, Refusal> {
        match self {
            Self::Files(files) => files.list().await,
        }
    }

    async fn take(&self, step: &Step) -> Result<(), Refusal> {
        match self {
            Self::Files(files) => files.take(step).await,
        }
    }

    async fn mend(&self) -> Result<(), Refusal> {
        match self {
            Self::Files(files) => files.mend().await,
        }
    }

    /// Begins and settles; what fails is taken back.
    async fn work(&self, work: &SnapshotWork) -> Ended {
        let begun = match plan::begin(work) {
            Some(step) => self.take(&step).await,
            None => Ok(()),
        };
        pass(Point::SnapshotBegun);
        match begun {
            Ok(()) => self.conclude(work).await,
            Err(refusal) => match self.take_back(work).await {
                Ok(()) => Ended {
                    result: Err(refusal),
                    settled: true,
                },
                Err(second) => Ended {
                    result: Err(refusal.cause(second.message)),
                    settled: false,
                },
            },
        }
    }

    async fn conclude(&self, work: &SnapshotWork) -> Ended {
        let refusal = match self.settle(work).await {
            Ok(true) => {
                return Ended {
                    result: Ok(()),
                    settled: true,
                };
            }
            Ok(false) => Refusal::new(RefusalCode::StorageFailed, "the snapshot did not come about"),
            Err(refusal) => refusal,
        };
        let back = if work.action == SnapshotAction::Load && !work.live {
            self.retreat(work).await
        } else {
            self.take_back(work).await
        };
        let settled = back.is_ok();
        Ended {
            result: Err(refusal),
            settled,
        }
    }

    async fn take_back(&self, work: &SnapshotWork) -> Result<(), Refusal> {
        self.mend().await?;
        self.settle(work).await.map(drop)
    }

    /// Looks at what the images hold and brings the work to its end; whether what was wanted has come about.
    async fn settle(&self, work: &SnapshotWork) -> Result<bool, Refusal> {
        let settlement = plan::settle(work, &self.list().await?);
        for step in &settlement.steps {
            self.take(step).await?;
        }
        Ok(settlement.achieved)
    }

    async fn retreat(&self, work: &SnapshotWork) -> Result<(), Refusal> {
        for step in plan::retreat(work) {
            self.take(&step).await?;
        }
        Ok(())
    }
}

/// The disks that can have snapshots in their images.
pub(crate) fn capable(spec: &VmSpec) -> impl Iterator<Item = &Disk> {
    spec.disks
        .iter()
        .filter(|disk| !disk.readonly && disk.format == DiskFormat::Qcow2)
}

fn is_raw(vm: &str, disk: &Disk) -> Refusal {
    let message = format!("disk `{}` of `{vm}` is raw: it cannot have snapshots", disk.name);
    Refusal::new(RefusalCode::WrongState, message).hint(format!(
        "name the disks one by one with --disk, or convert it: qemu-img convert -f raw -O qcow2 {} COPY.qcow2",
        disk.path.display()
    ))
}
