//! Snapshots of a VM: in its images where it does not run, by its QEMU where it does.
//!
//! Work is recorded before the first image is touched, begun, and settled by looking at what the images then hold: see
//! [`plan`]. What a supervisor that died left recorded is settled the same way, before the VM starts or anything else is done
//! with its snapshots.

mod below;
mod between;
mod engine;
pub(crate) mod external;
mod files;
mod left;
mod live;
mod order;
pub(crate) mod plan;
mod scope;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use actix::Addr;
use maqet_process::ProcessIdentity;
use maqet_process::point::{Point, pass};
use maqet_protocol::control::{SnapshotDone, SnapshotListed};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::shell::word;
use maqet_spec::vm::{Disk, Share, ShareKind};
use maqet_state::disk::DiskRecords;
use maqet_state::external::Externals;
use maqet_state::health::Health;
use maqet_state::id::VmId;
use maqet_state::snapshot::{Numbers, SnapshotAction, SnapshotKind, SnapshotWork};
use maqet_storage::image::ROOM_BYTES;
use maqet_storage::meter::Meter;

pub(crate) use self::between::{how_to_agree, torn};
use self::engine::{Ended, Engine};
use self::files::{Files, Owner};
use self::left::finish_recorded;
pub(crate) use self::left::{Leftover, finish_before_start};
use self::live::Live;
pub(crate) use self::live::of_this_version;
pub(crate) use self::order::SnapshotOrder;
use self::plan::Found;
use self::scope::{capable, names};
use crate::leases::Leases;
use crate::link::RunnerLink;
use crate::messages::{AskDisks, RecordSnapshot};
use crate::operation::Done;
use crate::room::{self, Room};
use crate::shared::Shared;
use crate::vm::VmActor;
use crate::{soundness, standing};

/// One piece of work on a VM's snapshots.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: VmId,
    pub(crate) spec: VmSpec,
    /// What is known of its disks' files.
    pub(crate) files: DiskRecords,
    /// What is known against them.
    pub(crate) health: Health,
    pub(crate) order: SnapshotOrder,
    /// Snapshots that are files of their own.
    pub(crate) externals: Externals,
    /// Work that somebody before left.
    pub(crate) unfinished: Option<Box<SnapshotWork>>,
    /// Its QEMU, if it runs.
    pub(crate) qemu: Option<ProcessIdentity>,
    /// The way to its runner, if it runs.
    pub(crate) link: Option<Rc<RunnerLink>>,
    /// Who records.
    pub(crate) owner: Addr<VmActor>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) asked: Instant,
    /// Who hears how far it is.
    pub(crate) meter: Meter,
}

impl Job {
    /// Carries it out.
    ///
    /// # Errors
    /// The refusal, about the VM.
    pub(crate) async fn run(mut self) -> Result<Done, Refusal> {
        let done = match self.catch_up().await {
            Ok(None) => self.carry_out().await,
            Ok(Some(done)) => Ok(Done::Snapshot(done)),
            Err(refusal) => Err(refusal),
        };
        done.map_err(|refusal| refusal.vm(self.name()))
    }

    /// What was cut off while QEMU did it may have changed what this is about, or be what this had asked for.
    async fn catch_up(&mut self) -> Result<Option<SnapshotDone>, Refusal> {
        let Some(link) = self.link.as_ref().filter(|_link| self.externals.work.is_some()) else {
            return Ok(None);
        };
        let done = match self.externals.switching() {
            Some(switch) => external::running::settle(self, link, switch).await?,
            None => None,
        };
        external::merging::end_all(self, link).await?;
        let now = self.owner.send(AskDisks).await;
        let now = now.map_err(|gone| {
            Refusal::new(RefusalCode::Internal, "the VM's owner is gone").cause(gone.to_string())
        })?;
        (self.spec, self.files, self.externals) = (now.spec, now.files, now.externals);
        Ok(done)
    }

    async fn carry_out(&self) -> Result<Done, Refusal> {
        self.may_be_at_one_moment()?;
        if let Some(done) = self.settle_unfinished().await? {
            return Ok(Done::Snapshot(done));
        }
        if let Some(done) = external::carry_out(self).await? {
            return Ok(done);
        }
        let disks = self.disks()?;
        let engine = self.engine().await?;
        self.check_soundness(&disks).await?;
        let found = engine.list().await?;
        match self.order.action {
            None => Ok(self.listed(&found, &disks).await),
            Some(action) => self.act(action, disks, &engine, &found).await,
        }
    }

    /// Nothing is put on top of disks, nor done inside them, that may be half way between two moments.
    async fn settle_unfinished(&self) -> Result<Option<SnapshotDone>, Refusal> {
        let Some(work) = &self.unfinished else {
            return Ok(None);
        };
        let left = finish_recorded(work, &self.engine().await?, &self.owner).await?;
        self.go_on_after(work, left)
    }

    async fn act(
        &self,
        action: SnapshotAction,
        disks: Vec<String>,
        engine: &Engine,
        found: &Found,
    ) -> Result<Done, Refusal> {
        let work = self.work(action, disks, found, engine.is_live());
        let work = below::told(self, work).await?;
        self.check_room(&work).await?;
        record(&self.owner, RecordSnapshot::Begun(Box::new(work.clone()))).await?;
        pass(Point::SnapshotIntended);
        let Ended {
            result,
            settled,
            between,
        } = engine.work(&work).await;
        pass(Point::SnapshotSettled);
        let done = self.done(&work, plan::has_memory(found, &work.disks, &work.name));
        let told = RecordSnapshot::Ended {
            settled,
            between,
            outcome: Box::new(result.clone().map(|()| done.clone())),
            key: self.order.key.clone(),
        };
        record(&self.owner, told).await?;
        result.map(|()| Done::Snapshot(done))
    }

    async fn listed(&self, found: &Found, disks: &[String]) -> Done {
        let all = capable(&self.spec).count();
        let writable = self.spec.disks.iter().filter(|disk| !disk.readonly).count();
        let mut snapshots = plan::summaries(found, disks, all);
        let wanted = self.order.disk.as_deref();
        snapshots.extend(external::summaries(&self.externals, wanted, writable));
        snapshots.extend(below::summaries(self).await);
        snapshots.sort_by(|left, right| (left.at, &left.name).cmp(&(right.at, &right.name)));
        Done::Listed(SnapshotListed {
            vm: self.name().to_owned(),
            snapshots,
        })
    }

    /// No image is worked on that is damaged, or that nobody has looked at since an unclean end.
    async fn check_soundness(&self, disks: &[String]) -> Result<(), Refusal> {
        if self.link.is_some() || self.order.action.is_none() {
            return Ok(());
        }
        let about = |disk: &&Disk| disks.contains(&disk.name);
        let disks: Vec<Disk> = self.spec.disks.iter().filter(about).cloned().collect();
        soundness::check(&soundness::Order {
            id: &self.id,
            vm: self.name(),
            disks: &disks,
            health: &self.health_for_order(),
            owner: &self.owner,
            shared: &self.shared,
        })
        .await
    }

    fn name(&self) -> &str {
        self.spec.name.as_str()
    }

    /// The disks it is about.
    fn disks(&self) -> Result<Vec<String>, Refusal> {
        match (&self.order.disk, self.order.action) {
            (Some(wanted), _) => Ok(vec![scope::inside(&self.spec, wanted)?.name.clone()]),
            (None, None) => Ok(names(capable(&self.spec))),
            (None, Some(action)) => scope::all_inside(&self.spec, action),
        }
    }

    async fn engine(&self) -> Result<Engine, Refusal> {
        if let Some(link) = &self.link {
            return Ok(Engine::Live(Live {
                link: Rc::clone(link),
                disks: names(capable(&self.spec)),
                vm: self.name().to_owned(),
                room: Room {
                    images: capable(&self.spec).map(|disk| disk.path.clone()).collect(),
                    needed: ROOM_BYTES.saturating_add(self.memory_bytes()),
                    aside: self.shared.asides.of(&self.id),
                },
            }));
        }
        let touches = self.order.action.is_some() || self.unfinished.is_some();
        if touches {
            Leases::take(&self.id, &self.spec, &self.shared).await?;
        }
        if self.order.action == Some(SnapshotAction::Load) {
            standing::refuse_to_write_below((&self.id, self.name()), &self.spec.disks, &self.shared).await?;
        }
        Ok(Engine::Files(self.open_files().await?))
    }

    async fn open_files(&self) -> Result<Files, Refusal> {
        let of = Owner {
            id: self.id.clone(),
            vm: self.name().to_owned(),
            health: self.health.clone(),
            recorder: self.owner.clone(),
            shared: Rc::clone(&self.shared),
        };
        Files::open(&self.spec, &self.files, of).await
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
        let mut replaces = BTreeMap::new();
        match action {
            SnapshotAction::Create => {
                let old = disks
                    .iter()
                    .filter_map(|disk| Some((disk.clone(), plan::numbers_of(found, disk, name)?)));
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
        let work = SnapshotWork {
            action,
            name: name.clone(),
            disks,
            replaces,
            memory: self.order.memory,
            live,
            key: self.order.key.clone(),
        };
        self.may_have_memory(&work, found)?;
        self.may_be_kept(&work, found)?;
        Ok(work)
    }

    fn may_replace(&self, replaces: &BTreeMap<String, Numbers>) -> Result<(), Refusal> {
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

    /// A keeper that nobody has on record, of a store that was lost maybe, would be taken for the one that is about to be made.
    fn may_be_kept(&self, work: &SnapshotWork, found: &Found) -> Result<(), Refusal> {
        let keeper = work.keeper();
        let mut disks = work.disks.iter();
        let Some(disk) = disks.find(|disk| work.is_kept() && plan::has(found, disk, &keeper)) else {
            return Ok(());
        };
        let vm = self.name();
        let message =
            format!("disk `{disk}` of `{vm}` has a snapshot `{keeper}`, whose name is needed meanwhile");
        let refusal = Refusal::new(RefusalCode::Conflict, message);
        if work.replaces_memory() {
            return Err(refusal.hint(format!("maqet snapshot delete {vm} {keeper}, or another name")));
        }
        let path = self.spec.disks.iter().find(|one| one.name == *disk);
        let path = path.map_or_else(String::new, |disk| word(&disk.path));
        Err(refusal
            .cause("work of which nothing is on record any more has left it")
            .hint(format!(
                "look what it holds, then: maqet stop {vm}; qemu-img snapshot -d {keeper} {path}"
            )))
    }

    /// A running VM is brought back with its memory or not at all; one that does not run has none.
    fn may_have_memory(&self, work: &SnapshotWork, found: &Found) -> Result<(), Refusal> {
        let (vm, name) = (self.name(), &work.name);
        let loads = work.action == SnapshotAction::Load;
        let by_virtiofs = |share: &&Share| share.kind == ShareKind::Virtiofs;
        let virtiofs = self.spec.shares.iter().find(by_virtiofs);
        let (state, message, hint) = match (work.live, work.memory) {
            (true, memory) if virtiofs.is_some() && (memory || loads) => (
                "running",
                format!("`{vm}` has a share by virtiofs, whose state no snapshot can keep"),
                format!("leave out --memory; to load: maqet stop {vm} first; or share by `type: 9p`"),
            ),
            (false, true) => (
                "stopped",
                format!("`{vm}` does not run: there is no memory to keep or to load into"),
                format!("maqet start {vm}, or leave out --memory"),
            ),
            (true, false) if loads => (
                "running",
                format!("`{vm}` is running: its disks cannot be changed under it"),
                if plan::has_memory(found, &work.disks, name) {
                    format!("maqet snapshot load {vm} {name} --memory, or maqet stop {vm} first")
                } else {
                    format!("maqet stop {vm} first")
                },
            ),
            (true, true) if loads && !plan::has_memory(found, &work.disks, name) => (
                "running",
                format!("no memory is kept with the snapshot `{name}` of `{vm}`"),
                format!("maqet stop {vm}, then maqet snapshot load {vm} {name}"),
            ),
            (true | false, false) | (true, true) => return Ok(()),
        };
        Err(Refusal::new(RefusalCode::WrongState, message)
            .state(state)
            .hint(hint))
    }

    /// QEMU finds out too late, and the guest with it. In images that no QEMU has each step looks for itself.
    async fn check_room(&self, work: &SnapshotWork) -> Result<(), Refusal> {
        if !work.live || work.action != SnapshotAction::Create {
            return Ok(());
        }
        let files = self.open_files().await?;
        files.check_room(&work.disks, self.memory_bytes()).await
    }

    /// Bytes of memory that are about to be written.
    fn memory_bytes(&self) -> u64 {
        if self.order.memory && self.order.action == Some(SnapshotAction::Create) {
            room::memory_bytes(self.spec.memory.0, self.qemu.as_ref())
        } else {
            0
        }
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
            kind: SnapshotKind::Internal,
        }
    }
}

async fn record(owner: &Addr<VmActor>, step: RecordSnapshot) -> Result<(), Refusal> {
    owner.send(step).await.unwrap_or_else(|gone| {
        Err(Refusal::new(RefusalCode::Internal, "the VM's owner is gone").cause(gone.to_string()))
    })
}
