//! What there is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use maqet_process::census::{self, Glimpse};
use maqet_process::{Liveness, ProcessError};
use maqet_state::id::VmId;
use maqet_state::ledger::{LedgerEntry, LedgerKind};

use maqet_storage::image::is_temporary;
use maqet_storage::library::Library;

use super::known::Known;
use super::ports::Ports;
use crate::args::Places;
use crate::recovery::look_for;

/// Everything that was looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Processes of this user, without this one.
    pub(super) processes: Vec<Glimpse>,
    /// Directories of VMs, in the data and in the runtime directory.
    pub(super) directories: Vec<VmDirectory>,
    /// Sockets in the runtime directory itself, by name.
    pub(super) loose_sockets: Vec<PathBuf>,
    /// Lines of the ledger, and whether what they name is there.
    pub(super) lines: Vec<Line>,
    /// Temporary images that nobody has open.
    pub(super) temporaries: Vec<PathBuf>,
    /// Images of the library in the making that nobody makes.
    pub(super) unfinished: Vec<PathBuf>,
    /// Directory of the VMs' data.
    pub(super) data: PathBuf,
    /// Directory of the VMs' sockets.
    pub(super) runtime: PathBuf,
}

/// Which of the two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Logs and description.
    Data,
    /// Sockets and notes.
    Runtime,
}

/// A directory that is named like a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VmDirectory {
    pub(super) half: Half,
    pub(super) path: PathBuf,
    pub(super) id: VmId,
    /// Names of the sockets in it.
    pub(super) sockets: Vec<String>,
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) entry: LedgerEntry,
    /// What it names is there; `None` for what nobody can tell.
    pub(super) there: Option<bool>,
    /// The process it names, or one that has the port it names.
    pub(super) pid: Option<i32>,
    /// The port it names is its own QEMU's.
    pub(super) is_qemus: bool,
}

impl Seen {
    /// Looks at everything; blocks for a few milliseconds.
    pub(super) fn look(places: &Places, known: &Known) -> Result<Self, ProcessError> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let mut processes = census::own()?;
        processes.retain(|glimpse| glimpse.pid != own);
        let (data, runtime) = (places.data.join("vms"), places.runtime.join("vms"));
        let mut directories = directories(Half::Data, &data)?;
        directories.extend(self::directories(Half::Runtime, &runtime)?);
        let ports = Ports::look(known, &processes)?;
        let temporaries = temporaries(&known.image_directories(), &processes)?;
        Ok(Self {
            temporaries,
            unfinished: Library::new(places.images()).unfinished().unwrap_or_default(),
            processes,
            directories,
            loose_sockets: loose_sockets(&places.runtime)?,
            lines: known.lines.iter().map(|entry| line(entry, &ports)).collect(),
            data,
            runtime,
        })
    }

    /// How many sockets were seen.
    pub(super) fn sockets(&self) -> usize {
        let inside = self.directories.iter().map(|directory| directory.sockets.len());
        self.loose_sockets.len() + inside.sum::<usize>()
    }

    /// How many ports are in the ledger.
    pub(super) fn ports(&self) -> usize {
        let ports = self
            .lines
            .iter()
            .filter(|line| line.entry.kind == LedgerKind::Port);
        ports.count()
    }
}

fn line(entry: &LedgerEntry, ports: &Ports) -> Line {
    let (there, pid, is_qemus) = match entry.kind {
        LedgerKind::File | LedgerKind::Socket | LedgerKind::Directory => {
            (Some(fs::symlink_metadata(&entry.what).is_ok()), None, false)
        }
        LedgerKind::Process => {
            let (there, pid) = process(entry);
            (there, pid, false)
        }
        LedgerKind::Port => ports.of(entry),
    };
    Line {
        entry: entry.clone(),
        there,
        pid,
        is_qemus,
    }
}

/// Whether the very process lives, and its number.
fn process(entry: &LedgerEntry) -> (Option<bool>, Option<i32>) {
    match entry.identity.as_deref().map(look_for) {
        Some(Liveness::Alive(handle)) => (Some(true), Some(handle.pid())),
        Some(Liveness::Dead) => (Some(false), None),
        Some(Liveness::Unknown(_)) | None => (None, None),
    }
}

/// Images under the temporary names of [`maqet_storage::image`], except those that somebody is still making.
fn temporaries(places: &BTreeSet<PathBuf>, processes: &[Glimpse]) -> Result<Vec<PathBuf>, ProcessError> {
    let mut found = Vec::new();
    for place in places {
        let files = entries(place)?
            .into_iter()
            .filter(|(_, name, kind)| kind.is_file() && is_temporary(name));
        found.extend(files.map(|(path, _, _)| path));
    }
    if found.is_empty() {
        return Ok(found);
    }
    let own = i32::try_from(std::process::id()).ok();
    let pids = processes.iter().map(|glimpse| glimpse.pid).chain(own);
    let open: BTreeSet<PathBuf> = pids
        .filter_map(|pid| census::descriptors(pid).ok())
        .flatten()
        .collect();
    found.retain(|path| !open.contains(path));
    Ok(found)
}

fn directories(half: Half, parent: &Path) -> Result<Vec<VmDirectory>, ProcessError> {
    let found = entries(parent)?.into_iter().filter_map(|(path, name, kind)| {
        let id = name.parse().ok().filter(|_| kind.is_dir())?;
        Some((path, id))
    });
    let looked = found.map(|(path, id)| {
        let sockets = match half {
            Half::Data => Vec::new(),
            Half::Runtime => sockets(&path)?,
        };
        Ok(VmDirectory {
            half,
            path,
            id,
            sockets,
        })
    });
    looked.collect()
}

fn sockets(directory: &Path) -> Result<Vec<String>, ProcessError> {
    let sockets = entries(directory)?
        .into_iter()
        .filter(|(_, _, kind)| kind.is_socket());
    Ok(sockets.map(|(_, name, _)| name).collect())
}

fn loose_sockets(runtime: &Path) -> Result<Vec<PathBuf>, ProcessError> {
    let names = sockets(runtime)?.into_iter();
    Ok(names.map(|name| runtime.join(name)).collect())
}

type Entry = (PathBuf, String, fs::FileType);

/// What is in a directory; nothing when it is not there. What goes away meanwhile is left out.
fn entries(directory: &Path) -> Result<Vec<Entry>, ProcessError> {
    let found = match fs::read_dir(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(ProcessError::File {
                action: "read",
                path: directory.to_owned(),
                source,
            });
        }
    };
    let entry = |entry: fs::DirEntry| {
        let name = entry.file_name().to_str()?.to_owned();
        Some((entry.path(), name, entry.file_type().ok()?))
    };
    Ok(found.filter_map(|found| entry(found.ok()?)).collect())
}
