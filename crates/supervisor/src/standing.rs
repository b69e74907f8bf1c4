//! Images that disks of other VMs stand on. Leases keep apart VMs that run at the same time; but whatever is written to an
//! image changes all that stands on it, and a VM that rests finds out at its next start, when it is too late.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use maqet_process::identity::FileMark;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::shell::word;
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::disk::{DiskRecord, DiskRecords};
use maqet_state::external::Externals;
use maqet_state::id::VmId;
use maqet_state::record::VmRecord;
use maqet_storage::PathPolicy;
use maqet_storage::image::{self, Found, Look};
use tokio::time::timeout;

use crate::messages::ReadVms;
use crate::shared::Shared;

/// Longest look at the disks of one other VM. For one whose file system does not answer, what is on record counts.
const LOOK: Duration = Duration::from_secs(1);

/// An image of this VM that is about to change.
#[derive(Clone, Debug)]
pub(crate) struct Changing {
    /// The disk it is of.
    pub(crate) disk: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The file.
    pub(crate) file: FileMark,
}

/// What makes a disk of another VM one that must be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It stands on the image.
    Above,
    /// The same, or it is the image: while one of two VMs rests, both may have a disk. Other disks of the VM itself count too.
    Any,
    /// The same for disks of other VMs alone.
    Others,
}

/// What a disk has to do with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
    /// It is the image.
    Is,
    /// It stands on it.
    Stands,
    /// It cannot be looked at: it was or stood on the image when it was last used.
    Stood,
}

/// A disk of another VM that would show something else.
#[derive(Debug)]
pub(crate) struct Dependent {
    /// The other VM.
    pub(crate) vm: String,
    /// Its disk.
    pub(crate) disk: String,
    /// Where that is.
    pub(crate) path: PathBuf,
    /// The image that it depends on.
    pub(crate) on: Changing,
    /// How.
    pub(crate) tie: Tie,
}

/// What is asked of each other VM.
#[derive(Clone, Debug)]
struct Question {
    changing: Vec<Changing>,
    reach: Reach,
    policy: PathPolicy,
    boot_id: String,
}

/// The images of these disks are about to be written to: no disk of another VM may stand on one of them, and none may be the
/// library's.
///
/// # Errors
/// `conflict`, which names both disks and both ways out; `invalid-spec` for an image of the library; when the store cannot be
/// read.
pub(crate) async fn refuse_to_write_below<'d>(
    (id, name): (&VmId, &str),
    disks: impl IntoIterator<Item = &'d Disk>,
    shared: &Shared,
) -> Result<(), Refusal> {
    let disks: Vec<_> = disks.into_iter().filter(|disk| !disk.readonly).cloned().collect();
    if disks.is_empty() {
        return Ok(());
    }
    let (library, vm, policy) = (shared.places.images(), name.to_owned(), shared.policy.clone());
    let looking = move || {
        refuse_library(&vm, &disks, &library)?;
        Ok(disks
            .iter()
            .filter_map(|disk| changing(disk, &policy))
            .collect::<Vec<_>>())
    };
    let changing = shared.asides.of(id).run(looking).await??;
    match dependent(id, changing, Reach::Above, shared).await? {
        Some(found) => Err(refuse(name, &found)),
        None => Ok(()),
    }
}

/// The first disk of another VM that depends on one of these images; with [`Reach::Any`] also of this VM, less the disks that
/// the images are of.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn dependent(
    id: &VmId,
    changing: Vec<Changing>,
    reach: Reach,
    shared: &Shared,
) -> Result<Option<Dependent>, Refusal> {
    Ok(dependents(id, changing, reach, shared).await?.into_iter().next())
}

/// All of them.
///
/// # Errors
/// As for [`dependent`].
pub(crate) async fn dependents(
    id: &VmId,
    changing: Vec<Changing>,
    reach: Reach,
    shared: &Shared,
) -> Result<Vec<Dependent>, Refusal> {
    let records = records(shared).await?.into_iter();
    let asked: Vec<_> = records
        .filter_map(|record| {
            if record.id == *id {
                beside(record, &changing, reach)
            } else {
                Some(record)
            }
        })
        .collect();
    let question = Question {
        changing,
        reach,
        policy: shared.policy.clone(),
        boot_id: shared.boot_id.clone(),
    };
    let answers = asked.into_iter().map(|other| question.clone().ask(other, shared));
    Ok(join_all(answers).await.into_iter().flatten().collect())
}

/// This VM as if it were another: with the disks alone that the images are not of.
fn beside(mut record: VmRecord, changing: &[Changing], reach: Reach) -> Option<VmRecord> {
    let changes = |disk: &Disk| changing.iter().any(|one| one.disk == disk.name);
    record.spec.disks.retain(|disk| !changes(disk));
    record.files = DiskRecords::new();
    record.externals = Externals::none();
    Some(record).filter(|_| reach == Reach::Any)
}

async fn records(shared: &Shared) -> Result<Vec<VmRecord>, Refusal> {
    shared.state.send(ReadVms).await.map_err(|gone| {
        Refusal::new(RefusalCode::Busy, "nobody tells what other VMs have").cause(gone.to_string())
    })?
}

/// No image of the library is written to, under whatever name: all that stands on it would change. Blocks.
///
/// # Errors
/// `invalid-spec`, which names the disk and what to write instead.
pub(crate) fn refuse_library(vm: &str, disks: &[Disk], library: &Path) -> Result<(), Refusal> {
    let inside = |disk: &&Disk| {
        let resolved = disk.path.canonicalize();
        !disk.readonly && resolved.is_ok_and(|path| path.starts_with(library))
    };
    let Some(disk) = disks.iter().find(inside) else {
        return Ok(());
    };
    let (name, path) = (&disk.name, disk.path.display());
    let message = format!("disk `{name}` of `{vm}` is an image of the library");
    let refusal = Refusal::new(RefusalCode::InvalidSpec, message).vm(vm);
    let refusal = refusal.cause(format!("`{path}` is for disks to stand on, and never written to"));
    Err(refusal.hint("write `from: IMAGE` instead of its path, or `readonly: true` beside it"))
}

/// A file that is not there is nobody's base.
fn changing(disk: &Disk, policy: &PathPolicy) -> Option<Changing> {
    let look = image::look(&disk.path, disk.format, policy);
    let file = look.chain.first()?.file;
    let (disk, path) = (disk.name.clone(), disk.path.clone());
    Some(Changing { disk, path, file })
}

impl Question {
    async fn ask(self, other: VmRecord, shared: &Shared) -> Vec<Dependent> {
        let mut found = self.keeping(&other);
        found.extend(self.looked_at(&other, shared).await);
        found
    }

    async fn looked_at(&self, other: &VmRecord, shared: &Shared) -> Vec<Dependent> {
        let asked = |disk: &&Disk| self.may_concern(disk, other);
        let disks = other.spec_at_most().disks;
        let disks: Vec<_> = disks.iter().filter(asked).cloned().collect();
        let Some(first) = disks.first().cloned() else {
            return Vec::new();
        };
        let (question, record) = (self.clone(), other.clone());
        let aside = shared.asides.of(&other.id);
        let looking = aside.run(move || {
            let found = disks.iter().flat_map(|disk| question.look(disk, &record));
            found.collect::<Vec<_>>()
        });
        match timeout(LOOK, looking).await {
            Ok(Ok(found)) => return found,
            Ok(Err(refusal)) => {
                tracing::error!(vm = other.name(), %refusal, causes = ?refusal.causes, "its disks were not looked at");
            }
            Err(_elapsed) => {
                tracing::warn!(
                    vm = other.name(),
                    "its disks do not answer: what is on record counts"
                );
            }
        }
        self.on_record(&first, other)
    }

    /// What maqet made stands on nothing but an image of the library, unless it was made on top of what people made.
    fn may_concern(&self, disk: &Disk, other: &VmRecord) -> bool {
        let made = other.files.get(&disk.path).is_some_and(|known| known.made);
        let mut layers = other
            .externals
            .snapshots
            .iter()
            .flat_map(|snapshot| &snapshot.layers);
        let stands_alone = made && !layers.any(|layer| layer.overlay == disk.path);
        self.reach != Reach::Above || disk.format == DiskFormat::Qcow2 && !stands_alone
    }

    /// Images that keep a snapshot of another VM's disk, which stands on them.
    fn keeping(&self, other: &VmRecord) -> Vec<Dependent> {
        let snapshots = other.externals.snapshots.iter();
        let layers = snapshots.flat_map(|snapshot| &snapshot.layers);
        let kept = layers.filter_map(|layer| {
            let on = self.admitted(other.files.get(layer.base())?)?;
            let (disk, path) = (layer.disk(), &layer.overlay);
            Some(dependent_on(on, other, (disk, path), Tie::Stands))
        });
        kept.collect()
    }

    /// Blocks.
    fn look(&self, disk: &Disk, other: &VmRecord) -> Vec<Dependent> {
        let Look { chain, broken } = image::look(&disk.path, disk.format, &self.policy);
        let ties = std::iter::once(Tie::Is).chain(std::iter::repeat(Tie::Stands));
        let asked = chain.iter().zip(ties);
        let asked = asked.skip(usize::from(self.reach == Reach::Above));
        let same = |file: &Found| self.changing.iter().find(|one| one.file == file.file);
        let found = asked.filter_map(|(image, tie)| {
            let on = same(image)?;
            Some(dependent_on(on, other, (&disk.name, &disk.path), tie))
        });
        let mut found: Vec<_> = found.collect();
        if broken.is_some() {
            found.extend(self.on_record(disk, other));
        }
        found
    }

    /// A disk that cannot be looked at may be on a file system that is not mounted now: what it was made of when it was last
    /// used is what it will be made of.
    fn on_record(&self, disk: &Disk, other: &VmRecord) -> Vec<Dependent> {
        let is_disk = |path: &Path| other.spec.disks.iter().any(|disk| disk.path == path);
        let known = other.files.iter();
        let on = known.filter_map(|known| {
            let concerns = self.reach != Reach::Above || !is_disk(&known.path);
            self.admitted(known).filter(|_| concerns)
        });
        on.map(|on| dependent_on(on, other, (&disk.name, &disk.path), Tie::Stood))
            .collect()
    }

    /// The image that this record is of.
    fn admitted(&self, known: &DiskRecord) -> Option<&Changing> {
        let mut changing = self.changing.iter();
        changing.find(|one| known.file.is_some() && known.admits(&one.file, &self.boot_id))
    }
}

fn dependent_on(on: &Changing, other: &VmRecord, (disk, path): (&str, &Path), tie: Tie) -> Dependent {
    Dependent {
        vm: other.name().to_owned(),
        disk: disk.to_owned(),
        path: path.to_owned(),
        on: on.clone(),
        tie,
    }
}

impl Dependent {
    /// What it stands on, in a clause.
    pub(crate) fn how(&self) -> String {
        let (path, below) = (self.path.display(), self.on.path.display());
        match self.tie {
            Tie::Is => format!("`{path}` and `{below}` are one file"),
            Tie::Stands => format!("`{path}` stands on `{below}`"),
            Tie::Stood => {
                format!("`{path}` cannot be looked at, and stood on `{below}` when it was last used")
            }
        }
    }
}

fn refuse(name: &str, found: &Dependent) -> Refusal {
    let Dependent {
        vm, disk, path, on, ..
    } = found;
    let message = format!("disk `{}` of `{name}` is below disk `{disk}` of `{vm}`", on.disk);
    let cause = format!(
        "{}: what is written to the latter changes the former",
        found.how()
    );
    let copy = path.with_extension("copy.qcow2");
    Refusal::new(RefusalCode::Conflict, message)
        .cause(cause)
        .hint(format!(
            "let `{name}` write to an image of its own: maqet snapshot create {name} NAME --external; \
             or have `{vm}` stand alone: maqet storage clone {vm} {disk} {}, and name that in its file",
            word(&copy)
        ))
}
