//! Leases on images: which VM uses which file. QEMU locks its images too; a lease is asked first, and can say who
//! has it.
//!
//! A directory that a guest can write to is held as well: no VM uses an image in there, or its guest would be at the mercy of
//! the other.
//!
//! A lease ends when its VM's line on the board says that it rests: the next one is for what its disks are by then. It is not
//! recorded: a supervisor makes it anew from the specs of the VMs it finds running.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use maqet_process::identity::FileId;
use maqet_protocol::control::{DiskHolder, VmSummary};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::vm::{Disk, Share};
use maqet_state::id::VmId;
use maqet_state::lifecycle::{Activity, Status};
use maqet_storage::PathPolicy;
use maqet_storage::image;

use crate::board::Board;
use crate::deletion;
use crate::shared::Shared;
use crate::standing::Changing;

/// In the place of a disk's name: the image is about to be deleted. No disk has such a name.
const GOING: &str = "";

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

/// A directory that a guest can write to.
#[derive(Clone, Debug)]
struct Tree {
    /// The share it is for.
    share: String,
    /// Where it is, symbolic links resolved.
    path: PathBuf,
}

/// A VM that uses images.
#[derive(Clone, Debug)]
struct Holder {
    name: String,
    images: Vec<Use>,
    trees: Vec<Tree>,
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
    /// `conflict` when another VM uses one of them, and one of both writes to it; when an image is in a directory that a guest
    /// can write to. `invalid-spec` when two disks of the VM itself get in each other's way like that. Names both.
    pub(crate) async fn take(id: &VmId, spec: &VmSpec, shared: &Shared) -> Result<(), Refusal> {
        let holder = Holder::of(id, spec, shared).await;
        if let Some((one, other)) = holder.twice() {
            return Err(refuse_twice(&holder.name, one, other));
        }
        let mut held = shared.leases.0.borrow_mut();
        held.retain(|other, _holder| other == id || is_busy(&shared.board, other));
        // What it has already it keeps when it does not get more.
        let others: Vec<&Holder> = held
            .iter()
            .filter(|(other, _holder)| *other != id)
            .map(|(_id, holder)| holder)
            .collect();
        let taken = holder.images.iter().find_map(|wanted| {
            let by = others
                .iter()
                .find_map(|other| Some((other, other.of_file(wanted)?)));
            by.map(|(other, theirs)| refuse(&holder.name, wanted, &other.name, theirs))
        });
        let exposed = || {
            let others = others.iter().copied();
            others
                .chain([&holder])
                .find_map(|other| holder.exposes(other).or_else(|| other.exposes(&holder)))
        };
        if let Some(refusal) = taken.or_else(exposed) {
            return Err(refusal.vm(holder.name));
        }
        held.insert(id.clone(), holder);
        Ok(())
    }

    /// The VM, which is being removed, has these files from now on, that are to be deleted: who would begin to use one is refused.
    /// Those that another VM uses, with who it is.
    pub(crate) fn hold(
        &self,
        id: &VmId,
        name: &str,
        files: &[Changing],
        board: &Board,
    ) -> Vec<deletion::Use> {
        let mut held = self.0.borrow_mut();
        held.retain(|other, _holder| other != id && is_busy(board, other));
        let used = files.iter().flat_map(|wanted| {
            let theirs = held.values().filter_map(move |other| {
                let used = other.images.iter().find(|used| used.file == wanted.file.id)?;
                let how = format!("disk `{}` of `{}` uses it", used.disk, other.name);
                let file = used.file;
                Some(deletion::Use { file, how })
            });
            theirs.collect::<Vec<_>>()
        });
        let used = used.collect();
        let images = files.iter().map(|file| Use {
            disk: GOING.to_owned(),
            path: file.path.clone(),
            file: file.file.id,
            writes: true,
        });
        let holder = Holder {
            name: name.to_owned(),
            images: images.collect(),
            trees: Vec::new(),
        };
        held.insert(id.clone(), holder);
        used
    }

    /// What a VM's line says by now: one that rests has no images.
    pub(crate) fn follow(&self, line: &VmSummary) {
        if !says_busy(line) {
            self.0.borrow_mut().remove(&line.id);
        }
    }

    /// The VM that has this file now, and for which disk.
    pub(crate) fn holder(&self, file: FileId, board: &Board) -> Option<DiskHolder> {
        let held = self.0.borrow();
        let mut busy = held.iter().filter(|(id, _holder)| is_busy(board, id));
        busy.find_map(|(_id, holder)| {
            let has = |used: &&Use| used.file == file && used.disk != GOING;
            let used = holder.images.iter().find(has)?;
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
        let holder = Holder::of(&id, &spec, &shared).await;
        shared.leases.0.borrow_mut().entry(id).or_insert(holder);
    }
}

impl Holder {
    /// What cannot be opened is not held; whoever starts the VM says so.
    async fn of(id: &VmId, spec: &VmSpec, shared: &Shared) -> Self {
        let (disks, policy) = (spec.disks.clone(), shared.policy.clone());
        let directories = spec.shares.clone();
        let work = move || {
            let images = disks.iter().flat_map(|disk| uses(disk, &policy)).collect();
            (images, directories.iter().filter_map(tree).collect())
        };
        let looked = shared.asides.of(id).run(work).await;
        let (images, trees) = looked.unwrap_or_else(|refusal| {
            tracing::error!(%refusal, causes = ?refusal.causes, "the images of a VM are not held");
            (Vec::new(), Vec::new())
        });
        let name = spec.name.to_string();
        Self { name, images, trees }
    }

    /// An image of another VM, or of this one, that this one's guest could write to through a share.
    fn exposes(&self, other: &Self) -> Option<Refusal> {
        let within = |tree: &Tree| {
            let image = other
                .images
                .iter()
                .find(|image| image.path.starts_with(&tree.path))?;
            Some((tree.clone(), image.clone()))
        };
        let (tree, image) = self.trees.iter().find_map(within)?;
        let (share, disk) = (tree.share, image.disk);
        let words = format!(
            "share `{share}` of `{}` holds an image of `{}`",
            self.name, other.name
        );
        let path = image.path.display();
        let cause = format!(
            "`{path}` is for its disk `{disk}`, and the guest of `{}` could change it",
            self.name
        );
        let refusal = Refusal::new(RefusalCode::Conflict, words).cause(cause);
        Some(refusal.hint("share a directory of its own, or write `readonly: true` beside it"))
    }

    /// Two disks of its own that do not get along.
    fn twice(&self) -> Option<(&Use, &Use)> {
        let mut pairs = self
            .images
            .iter()
            .flat_map(|one| self.images.iter().map(move |other| (one, other)));
        pairs.find(|(one, other)| {
            let differ = one.disk != other.disk && one.file == other.file;
            differ && other.writes
        })
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

fn tree(share: &Share) -> Option<Tree> {
    let path = share.path.canonicalize().ok().filter(|_| !share.readonly)?;
    let share = share.name.clone();
    Some(Tree { share, path })
}

fn is_busy(board: &Board, id: &VmId) -> bool {
    board.line(id).is_some_and(|line| says_busy(&line))
}

fn says_busy(line: &VmSummary) -> bool {
    line.status == Status::Running || line.activity != Activity::Idle
}

fn refuse_twice(name: &str, one: &Use, written: &Use) -> Refusal {
    let message = format!(
        "disks `{}` and `{}` of `{name}` use one file",
        one.disk, written.disk
    );
    let cause = format!(
        "`{}` belongs to both, and `{}` writes to it",
        one.path.display(),
        written.disk
    );
    Refusal::new(RefusalCode::InvalidSpec, message)
        .vm(name)
        .cause(cause)
        .hint("give each a file of its own, or an overlay: qemu-img create -f qcow2 -b BASE -F qcow2 OVERLAY")
}

fn refuse(name: &str, wanted: &Use, other: &str, theirs: &Use) -> Refusal {
    if theirs.disk == GOING {
        let message = format!("the image of disk `{}` of `{name}` is being deleted", wanted.disk);
        return Refusal::new(RefusalCode::Conflict, message)
            .cause(format!("`{}` goes with `{other}`", wanted.path.display()))
            .hint(format!(
                "name another image, or try again when `{other}` is removed"
            ));
    }
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

#[cfg(test)]
mod tests {
    use maqet_process::identity::FileMark;
    use serde_json::json;

    use super::*;

    fn line(status: &str, activity: &str) -> VmSummary {
        serde_json::from_value(json!({
            "id": "0".repeat(32), "name": "web", "status": status, "activity": activity,
            "since": maqet_state::clock::now(), "memory": 1, "cpus": 1, "restart": "never",
        }))
        .unwrap()
    }

    /// Nobody begins to use what is about to be deleted, and what somebody uses is not.
    #[test]
    fn images_that_are_going_are_in_nobodys_hands() {
        let file = |inode| Changing {
            disk: String::new(),
            path: format!("/vm/{inode}").into(),
            file: FileMark {
                id: FileId { dev: 1, inode },
                born_ns: None,
            },
        };
        let used = |inode| Use {
            disk: "root".to_owned(),
            path: format!("/vm/{inode}").into(),
            file: FileId { dev: 1, inode },
            writes: false,
        };
        let holder = |images| Holder {
            name: "db".to_owned(),
            images,
            trees: Vec::new(),
        };
        let (leases, board) = (Leases::default(), Board::default());
        let (web, mut db) = (line("stopped", "removing"), line("running", "idle"));
        db.id = "1".repeat(32).parse().unwrap();
        let (gone, db_id) = (web.id.clone(), db.id.clone());
        board.show(web);
        board.show(db);
        leases.0.borrow_mut().insert(db_id, holder(vec![used(2)]));
        let kept = leases.hold(&gone, "web", &[file(1), file(2)], &board);
        let kept: Vec<_> = kept.iter().map(|one| (one.file.inode, &*one.how)).collect();
        assert_eq!(kept, [(2, "disk `root` of `db` uses it")]);
        assert_eq!(leases.holder(used(1).file, &board), None);
        assert_eq!(leases.holder(used(2).file, &board).unwrap().vm, "db");
        let held = leases.0.borrow();
        let theirs = held[&gone].of_file(&used(1)).unwrap();
        let refusal = refuse("db", &used(1), "web", theirs);
        assert_eq!(
            refusal.message,
            "the image of disk `root` of `db` is being deleted"
        );
    }

    #[test]
    fn a_lease_ends_when_its_vm_rests_and_is_not_found_by_what_begins_next() {
        let leases = Leases::default();
        let holder = Holder {
            name: "web".to_owned(),
            images: Vec::new(),
            trees: Vec::new(),
        };
        let id = line("stopped", "idle").id;
        for (status, activity, held) in [
            ("stopped", "starting", true),
            ("running", "idle", true),
            ("running", "snapshotting", true),
            ("stopped", "idle", false),
            ("failed", "maintaining", true),
            ("failed", "idle", false),
        ] {
            leases.0.borrow_mut().insert(id.clone(), holder.clone());
            leases.follow(&line(status, activity));
            assert_eq!(leases.0.borrow().contains_key(&id), held, "{status}, {activity}");
        }
    }
}
