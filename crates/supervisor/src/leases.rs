//! Leases on images: which VM uses which file. QEMU locks its images too; a lease is asked first, and can say who
//! has it.
//!
//! A lease lasts as long as its VM is not idle. It is not recorded: a supervisor makes it anew from the specs of the VMs it
//! finds running.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use maqet_process::identity::FileId;
use maqet_protocol::control::DiskHolder;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::vm::Disk;
use maqet_state::id::VmId;
use maqet_state::lifecycle::{Activity, Status};
use maqet_storage::PathPolicy;
use maqet_storage::image;

use crate::board::Board;
use crate::shared::Shared;

/// One image a VM uses.
#[derive(Clone, Debug)]
struct Use {
    /// The disk it is for.
    disk: String,
    /// Where it is.
    path: PathBuf,
    file: FileId,
    writes: bool,
}

/// A VM that uses images.
#[derive(Clone, Debug)]
struct Holder {
    name: String,
    images: Vec<Use>,
}

/// Who uses which image.
#[derive(Debug, Default)]
pub(crate) struct Leases(RefCell<BTreeMap<VmId, Holder>>);

impl Leases {
    /// The VM that is about to start, or whose disks are about to be worked on, has its images from now on.
    ///
    /// Whoever calls has begun an operation: it lasts while the VM runs or its activity is not idle, and needs no
    /// release.
    ///
    /// # Errors
    /// `conflict` when another VM uses one of them, and one of both writes to it; names both.
    pub(crate) async fn take(id: &VmId, spec: &VmSpec, shared: &Shared) -> Result<(), Refusal> {
        let holder = Holder::of(spec, shared).await;
        let mut held = shared.leases.0.borrow_mut();
        held.retain(|other, _holder| other != id && is_busy(&shared.board, other));
        let taken = holder.images.iter().find_map(|wanted| {
            let by = held
                .values()
                .find_map(|other| Some((other, other.of_file(wanted)?)));
            by.map(|(other, theirs)| refuse(&holder.name, wanted, &other.name, theirs))
        });
        if let Some(refusal) = taken {
            return Err(refusal);
        }
        held.insert(id.clone(), holder);
        Ok(())
    }

    /// The VM that has this file now, and for which disk.
    pub(crate) fn holder(&self, file: FileId, board: &Board) -> Option<DiskHolder> {
        let held = self.0.borrow();
        let mut busy = held.iter().filter(|(id, _holder)| is_busy(board, id));
        busy.find_map(|(_id, holder)| {
            let used = holder.images.iter().find(|used| used.file == file)?;
            Some(DiskHolder {
                vm: holder.name.clone(),
                disk: used.disk.clone(),
            })
        })
    }

    /// A VM was found running: it has what its spec says.
    pub(crate) async fn restore(id: VmId, spec: VmSpec, shared: Rc<Shared>) {
        if shared.leases.0.borrow().contains_key(&id) {
            return;
        }
        let holder = Holder::of(&spec, &shared).await;
        shared.leases.0.borrow_mut().entry(id).or_insert(holder);
    }
}

impl Holder {
    /// What cannot be opened is not held; whoever starts the VM says so.
    async fn of(spec: &VmSpec, shared: &Shared) -> Self {
        let (disks, policy) = (spec.disks.clone(), shared.policy.clone());
        let work = move || disks.iter().flat_map(|disk| uses(disk, &policy)).collect();
        let images = tokio::task::spawn_blocking(work).await;
        Self {
            name: spec.name.to_string(),
            images: images.unwrap_or_else(|error| {
                tracing::error!(%error, "the images of a VM are not held");
                Vec::new()
            }),
        }
    }

    /// Its use of a file that somebody else wants, if they do not get along.
    fn of_file(&self, wanted: &Use) -> Option<&Use> {
        let clashes = |theirs: &&Use| theirs.file == wanted.file && (theirs.writes || wanted.writes);
        self.images.iter().find(clashes)
    }
}

fn uses(disk: &Disk, policy: &PathPolicy) -> Vec<Use> {
    let Ok(chain) = image::open_chain(&disk.path, disk.format, true, policy) else {
        return Vec::new();
    };
    let of = |image: image::Image, writes| Use {
        disk: disk.name.clone(),
        path: image.path,
        file: image.file_id,
        writes,
    };
    let top = of(chain.top, !disk.readonly);
    let below = chain.below.into_iter().map(|layer| of(layer.image, false));
    std::iter::once(top).chain(below).collect()
}

fn is_busy(board: &Board, id: &VmId) -> bool {
    board
        .line(id)
        .is_some_and(|line| line.status == Status::Running || line.activity != Activity::Idle)
}

fn refuse(name: &str, wanted: &Use, other: &str, theirs: &Use) -> Refusal {
    let message = format!("disk `{}` of `{name}` is in use by `{other}`", wanted.disk);
    let what = if theirs.path == wanted.path {
        format!(
            "`{}` is its disk `{}` as well",
            wanted.path.display(),
            theirs.disk
        )
    } else {
        format!(
            "`{}` and its `{}` are one file",
            wanted.path.display(),
            theirs.path.display()
        )
    };
    Refusal::new(RefusalCode::Conflict, message)
        .vm(name)
        .cause(what)
        .hint(format!(
            "stop `{other}` first, or give each an overlay: qemu-img create -f qcow2 -b BASE -F qcow2 OVERLAY"
        ))
}
