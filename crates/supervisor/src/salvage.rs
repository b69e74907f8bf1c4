//! A store that is gone or damaged is made anew out of what else there is, and nothing is deleted.
//!
//! What there is: the newest good backup, the VMs' own directories ([`maqet_state::mirror`]), and the living processes,
//! with which recovery reconciles the result as always. Runs before anything is served, under the instance lock.

mod ahead;
mod copies;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use maqet_process::identity::Liveness;
use maqet_protocol::rebuild::{LeftOutVm, Origin, RebuildReport, RestoredVm, UnreadableVm};
use maqet_state::change::Change;
use maqet_state::clock;
use maqet_state::error::StoreError;
use maqet_state::id::VmId;
use maqet_state::journal::{JournalLimits, NewEvent};
use maqet_state::merge::{self, Restored, merge};
use maqet_state::mirror::{Directories, Mirror};
use maqet_state::record::VmRecord;
use maqet_state::secret::Secret;
use maqet_state::store::{self, Draft, Opened, Store};

use crate::args::{Args, Places};
use crate::link::chain;
use crate::strays;

/// A run that does one thing and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Make the store anew from the VMs' directories.
    Rebuild,
    /// Make the store anew from this copy and the VMs' directories.
    Restore(PathBuf),
}

/// The store to serve.
#[derive(Debug)]
pub(crate) struct Salvaged {
    /// It.
    pub(crate) store: Store,
    /// Why it takes no changes, if it does not.
    pub(crate) read_only: Option<StoreError>,
    /// What it should say and does not, because it takes no changes.
    pub(crate) pending: Vec<Change>,
}

impl From<Opened> for Salvaged {
    fn from(opened: Opened) -> Self {
        Self {
            store: opened.store,
            read_only: opened.read_only,
            pending: Vec::new(),
        }
    }
}

/// A damaged store with nothing beside it: starting empty would forget whatever was in it.
#[derive(Debug, thiserror::Error)]
#[error("the store is damaged, and there is neither a backup nor a VM's directory to rebuild it from")]
pub(crate) struct NothingLeft {
    #[source]
    damage: StoreError,
}

/// What the new store is built upon.
struct Base {
    draft: Draft,
    /// The copy of a store it began as.
    source: Option<PathBuf>,
    /// VMs of the copy that have no directory are wanted all the same.
    wants_all: bool,
    /// Kind of the journal's entry about it.
    kind: &'static str,
    reason: String,
}

impl Task {
    /// What the command line asks for, if it is one of these.
    pub(crate) fn of(args: &Args) -> anyhow::Result<Option<Self>> {
        if args.rebuild {
            return Ok(Some(Self::Rebuild));
        }
        let file = args.restore.as_ref().map(std::path::absolute).transpose()?;
        Ok(file.map(Self::Restore))
    }
}

/// Carries out a task and prints the report.
pub(crate) fn perform(task: &Task, places: &Places, limits: JournalLimits) -> anyhow::Result<()> {
    sweep(places);
    let base = match task {
        Task::Rebuild => base_of_nothing(places, limits)?,
        Task::Restore(file) => base_of_copy(file, places, limits)?,
    };
    let (base, known_before) = base;
    let report = renew(base, known_before, places)?;
    let mut text = serde_json::to_string(&report)?;
    text.push('\n');
    io::stdout()
        .write_all(text.as_bytes())
        .context("write the report")
}

/// The store to serve: the one that is there, a new one in an empty data directory, or one made out of what is left.
pub(crate) fn open(places: &Places, limits: JournalLimits) -> anyhow::Result<Salvaged> {
    let path = places.store();
    sweep(places);
    let damage = match sound(&path, limits) {
        Ok(Some((opened, secrets))) => return settle(opened, secrets),
        Ok(None) => None,
        Err(damage) if is_damage(&damage) => Some(damage),
        Err(error) => return Err(error.into()),
    };
    let reason = damage
        .as_ref()
        .map_or_else(|| "the store was gone".to_owned(), damage_of);
    let backup = copies::newest(places, limits);
    let directories = Mirror::read_all(&places.vms()).context("read the VMs' directories")?;
    if let (Some(damage), None, true) = (damage, &backup, directories.records.is_empty()) {
        return Err(NothingLeft { damage }.into());
    }
    let base = match backup {
        Some((draft, source)) => Base {
            draft,
            source: Some(source),
            wants_all: false,
            kind: "store.restored",
            reason,
        },
        None if path.symlink_metadata().is_err() && is_first_start(places, &directories) => {
            return Ok(Store::open_with(&path, limits)?.into());
        }
        None => Base {
            draft: Draft::empty(&path, limits)?,
            source: None,
            wants_all: false,
            kind: "store.rebuilt",
            reason,
        },
    };
    let report = renew(base, Vec::new(), places)?;
    tell(&report);
    Ok(Store::open_with(&path, limits)?.into())
}

/// Puts a sound store right. On a disk that takes no writes what is right is kept until there is room: VMs are shown and
/// stopped by it all the same.
fn settle(opened: Opened, secrets: Vec<Change>) -> anyhow::Result<Salvaged> {
    let mut changes = secrets;
    changes.extend(ahead::changes(&opened.store)?);
    let mut salvaged = Salvaged::from(opened);
    if changes.is_empty() {
        return Ok(salvaged);
    }
    match salvaged.store.commit(changes.clone()) {
        Ok(answers) => {
            answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        Err(error) if error.is_of_the_disk() => {
            tracing::warn!(
                error = chain(&error),
                "the store is not put right until the disk takes it"
            );
            salvaged.pending = changes;
            salvaged.read_only.get_or_insert(error);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(salvaged)
}

/// What was interrupted leaves nothing.
fn sweep(places: &Places) {
    match store::sweep(&places.store()) {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => tracing::info!(?gone, "what interrupted work on the store left is taken away"),
        Err(error) => tracing::warn!(%error, "what interrupted work on the store left cannot be taken away"),
    }
}

/// Nothing here has ever known a VM.
fn is_first_start(places: &Places, directories: &Directories) -> bool {
    directories.records.is_empty()
        && directories.unreadable.is_empty()
        && strays::find(places, &BTreeSet::new()).is_empty()
}

/// The store when it is there and every record in it can be read, with a new secret for each VM that lost its own;
/// `None` when there is none.
fn sound(path: &Path, limits: JournalLimits) -> Result<Option<(Opened, Vec<Change>)>, StoreError> {
    if path
        .symlink_metadata()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        return Ok(None);
    }
    let opened = Store::open_with(path, limits)?;
    if let Some(migration) = &opened.migrated {
        tracing::info!(?migration, "the store was migrated");
    }
    let store = &opened.store;
    let mut secrets = Vec::new();
    for record in store.vms()? {
        if store.secret(&record.id)?.is_none() {
            tracing::error!(
                vm = record.name(),
                "its secret is not in the store any more; it gets a new one"
            );
            secrets.push(Change {
                secret: Some((record.id, Secret::random()?)),
                ..Change::default()
            });
        }
    }
    Ok(Some((opened, secrets)))
}

/// The content is not what maqet wrote. A disk that fails, a newer maqet, a second holder are other matters.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Corrupt { .. } | StoreError::Value { .. } | StoreError::Length { .. } => true,
        StoreError::AlreadyOpen { .. }
        | StoreError::SchemaTooNew { .. }
        | StoreError::Io { .. }
        | StoreError::Database { .. }
        | StoreError::Backup { .. }
        | StoreError::ChainBroken { .. }
        | StoreError::NoRandomness(_) => false,
    }
}

/// For a rebuild from directories alone. What the present store still tells is only compared with.
fn base_of_nothing(places: &Places, limits: JournalLimits) -> anyhow::Result<(Base, Vec<VmRecord>)> {
    let path = places.store();
    let (known, reason) = match Draft::copy_of(&path, &path, limits) {
        Ok(copy) => (copy.vms()?, "it was asked for".to_owned()),
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            (Vec::new(), "the store was gone".to_owned())
        }
        Err(error) if is_damage(&error) => (Vec::new(), damage_of(&error)),
        Err(error) => return Err(error.into()),
    };
    let base = Base {
        draft: Draft::empty(&path, limits)?,
        source: None,
        wants_all: false,
        kind: "store.rebuilt",
        reason,
    };
    Ok((base, known))
}

/// The copy that was looked at has a name of its own, of which nobody has heard.
fn damage_of(error: &StoreError) -> String {
    if let StoreError::Corrupt { detail, .. } = error {
        return format!("the store was damaged: {detail}");
    }
    format!("the store was damaged: {}", chain(error))
}

fn base_of_copy(
    file: &Path,
    places: &Places,
    limits: JournalLimits,
) -> anyhow::Result<(Base, Vec<VmRecord>)> {
    let unusable = || format!("`{}` cannot be restored", file.display());
    let draft = Draft::copy_of(file, &places.store(), limits).with_context(unusable)?;
    draft.verify_journal().with_context(unusable)?;
    let base = Base {
        draft,
        source: Some(file.to_owned()),
        wants_all: true,
        kind: "store.restored",
        reason: "it was asked for".to_owned(),
    };
    Ok((base, Vec::new()))
}

/// Fills the draft and puts it in the store's place.
fn renew(base: Base, known_before: Vec<VmRecord>, places: &Places) -> anyhow::Result<RebuildReport> {
    let directories = Mirror::read_all(&places.vms()).context("read the VMs' directories")?;
    let (kept, left): (Vec<_>, Vec<_>) = base
        .draft
        .vms()?
        .into_iter()
        .partition(|record| base.wants_all || has_directory(record, places) || lives(record));
    let restored = merge(kept, directories.records);
    let known: BTreeSet<VmId> = restored.iter().map(|vm| vm.record.id.clone()).collect();
    let lost = known_before.into_iter().chain(left);
    let mut report = RebuildReport {
        reason: base.reason,
        source: base.source,
        set_aside: Some(base.draft.aside().to_owned()),
        restored: restored.iter().map(reported).collect(),
        unreadable: directories
            .unreadable
            .into_iter()
            .map(|vm| UnreadableVm {
                path: vm.path,
                reason: vm.reason,
            })
            .collect(),
        left_out: lost
            .filter(|record| !known.contains(&record.id))
            .map(|record| LeftOutVm {
                name: record.name().to_owned(),
                id: record.id,
            })
            .collect(),
        strays: strays::find(places, &known),
    };
    if places.store().symlink_metadata().is_err() {
        report.set_aside = None;
    }
    base.draft
        .fill(&restored, events(base.kind, &report, &restored)?)?;
    report.set_aside = base.draft.place()?;
    Ok(report)
}

/// One whose directory is gone was removed since the copy was made.
fn has_directory(record: &VmRecord, places: &Places) -> bool {
    places.vm_data(&record.id).symlink_metadata().is_ok()
}

fn lives(record: &VmRecord) -> bool {
    let Some(launch) = record.state.launch() else {
        return false;
    };
    let identities = std::iter::once(&launch.runner).chain(&launch.qemu);
    identities
        .into_iter()
        .any(|identity| matches!(identity.verify(), Liveness::Alive(_)))
}

fn reported(vm: &Restored) -> RestoredVm {
    RestoredVm {
        id: vm.record.id.clone(),
        name: vm.record.name().to_owned(),
        origin: origin(vm.origin),
        renamed_from: vm.renamed_from.clone(),
    }
}

const fn origin(origin: merge::Origin) -> Origin {
    match origin {
        merge::Origin::Directory => Origin::Directory,
        merge::Origin::Backup => Origin::Backup,
    }
}

/// A journal that begins anew says so first; then each VM learns why its history does.
fn events(
    kind: &'static str,
    report: &RebuildReport,
    restored: &[Restored],
) -> serde_json::Result<Vec<NewEvent>> {
    let now = clock::now();
    let mut whole = NewEvent::new(kind, now);
    if let serde_json::Value::Object(data) = serde_json::to_value(report)? {
        whole = whole.with_all(data);
    }
    let each = restored.iter().map(|vm| {
        let from = serde_json::to_value(origin(vm.origin))?;
        Ok(NewEvent::new("vm.restored", now)
            .about(&vm.record)
            .with("from", from)
            .with("renamed_from", vm.renamed_from.clone()))
    });
    std::iter::once(Ok(whole)).chain(each).collect()
}

/// Loud: this must not go by unnoticed.
fn tell(report: &RebuildReport) {
    tracing::error!(
        reason = report.reason,
        source = ?report.source,
        set_aside = ?report.set_aside,
        restored = report.restored.len(),
        "THE STORE WAS MADE ANEW from what is left; the old file is set aside"
    );
    for vm in &report.unreadable {
        tracing::error!(path = %vm.path.display(), reason = vm.reason, "this VM's directory says nothing usable");
    }
    for stray in &report.strays {
        tracing::error!(pid = stray.pid, what = stray.what, vm = %stray.vm, "a process of a VM nobody knows; it is left alone");
    }
}
