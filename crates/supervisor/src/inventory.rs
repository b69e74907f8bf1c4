//! What there is of disks: the files of a VM's disks as they are now, and images that no VM has.

use std::collections::BTreeSet;
use std::fs::{DirEntry, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use maqet_process::identity::FileId;
use maqet_protocol::control::{DiskStorage, FileState, ImageStatus, Orphan, Orphans};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_state::clock::Timestamp;
use maqet_state::disk::DiskRecords;
use maqet_state::record::VmRecord;
use maqet_storage::PathPolicy;
use maqet_storage::image::{self, Found, Look};

use crate::link::causes;
use crate::messages::ReadVms;
use crate::shared::Shared;

/// Directories below another that are searched.
const DEPTH_MAX: usize = 16;
/// Endings of names that mean an image whatever is in it.
const ENDINGS: [&str; 4] = ["qcow2", "raw", "img", "iso"];
/// What every qcow2 image begins with.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of one block as `stat` counts them.
const BLOCK_BYTES: u64 = 512;

/// Looks at one disk. Blocks. Who has it, and what is on record against it, is for the caller to say.
pub(crate) fn look_at(disk: &Disk, files: &DiskRecords, boot_id: &str, policy: &PathPolicy) -> DiskStorage {
    let look = image::look(&disk.path, disk.format, policy);
    let known = files.get(&disk.path);
    let top = look.chain.first();
    let found = look
        .chain
        .iter()
        .map(|found| (found.named.as_path(), &found.file));
    let exchanged = files.exchanged(found, boot_id);
    let state = match (top, &look.broken) {
        (Some(_), _) if exchanged.is_some() => FileState::AnotherFile,
        (Some(found), _) if found.links != 1 && !disk.readonly => FileState::Unusable,
        (_, Some(error)) if !(top.is_none() && error.is_missing()) => FileState::Unusable,
        (Some(_), _) if known.is_some_and(|known| known.file.is_some()) => FileState::Ok,
        (Some(_), _) => FileState::New,
        (None, _) if known.is_some_and(|known| known.used) || !disk.is_makeable() => FileState::Missing,
        (None, _) => FileState::ToBeMade,
    };
    let trouble = match exchanged.filter(|exchanged| exchanged.record.path != disk.path) {
        Some(below) => vec![
            "it stands on another file than the one on record".to_owned(),
            format!("`{}` is {}", below.record.path.display(), below.found),
        ],
        None => trouble_of(&look, state),
    };
    DiskStorage {
        disk: disk.name.clone(),
        path: disk.path.clone(),
        readonly: disk.readonly,
        state,
        trouble,
        problem: None,
        free_bytes: image::free_bytes(&disk.path).ok(),
        made: known.is_some_and(|known| known.made),
        recorded: known.and_then(|known| known.file),
        base: known.and_then(|known| known.base.clone()),
        holder: None,
        chain: look.chain.into_iter().map(told).collect(),
    }
}

/// Why a file in this state is as it is, outermost first.
fn trouble_of(look: &Look, state: FileState) -> Vec<String> {
    match (&look.broken, look.chain.first()) {
        (Some(error), _) if state != FileState::ToBeMade => causes(error),
        (None, Some(found)) if state == FileState::Unusable => {
            vec![format!("it has {} names instead of one", found.links)]
        }
        (Some(_) | None, _) => Vec::new(),
    }
}

fn told(found: Found) -> ImageStatus {
    ImageStatus {
        path: found.path,
        file: found.file,
        format: match found.format {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        }
        .to_owned(),
        virtual_bytes: found.virtual_bytes,
        file_bytes: found.file_bytes,
        actual_bytes: found.actual_bytes,
        snapshots: found.snapshots,
    }
}

/// Images below the data directory and the configured roots that no VM has.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn answer(shared: Rc<Shared>) -> Result<Orphans, Refusal> {
    let failed = |error: &dyn std::error::Error| {
        Refusal::new(RefusalCode::Internal, "cannot look for orphaned images").cause(error.to_string())
    };
    let vms = shared.state.send(ReadVms).await.map_err(|gone| failed(&gone))??;
    let mut roots = vec![shared.places.data.clone()];
    roots.extend(shared.settings.storage.roots.iter().cloned());
    let policy = shared.policy.clone();
    // The library's images are nobody's disks by design; `image ls` tells of them.
    let library = shared.places.images();
    let searching = move || orphans(&vms, &roots, &library, &policy);
    let mut found = shared.asides.all.run(searching).await?;
    // What is in the library is nobody's in particular.
    let library = shared.places.images();
    found.images.retain(|image| !image.path.starts_with(&library));
    Ok(found)
}

/// Images below `roots` that none of `vms` has or stands on. Blocks.
pub(crate) fn orphans(vms: &[VmRecord], roots: &[PathBuf], library: &Path, policy: &PathPolicy) -> Orphans {
    let mut search = Search {
        library: library.to_owned(),
        ..Search::default()
    };
    for record in vms {
        search.know(record, policy);
    }
    for root in roots {
        search.directory(root, 0);
    }
    search.images.sort_by(|one, other| one.path.cmp(&other.path));
    Orphans {
        images: search.images,
        searched: roots.iter().filter(|root| root.is_dir()).cloned().collect(),
        trouble: search.trouble,
    }
}

#[derive(Debug, Default)]
struct Search {
    /// Left alone.
    library: PathBuf,
    /// Files that VMs have, and files that were seen.
    known: BTreeSet<(u64, u64)>,
    images: Vec<Orphan>,
    trouble: Vec<String>,
}

impl Search {
    /// Disks of a VM with what they stand on, and what maqet made for it, wherever its disks are by now.
    fn know(&mut self, record: &VmRecord, policy: &PathPolicy) {
        for disk in &record.spec_at_most().disks {
            let Look { chain, broken } = image::look(&disk.path, disk.format, policy);
            let there = !chain.is_empty();
            let files = chain.iter().map(|found| key(found.file.id));
            self.known.extend(files);
            if let Some(error) = broken.filter(|error| there || !error.is_missing()) {
                let (name, vm) = (&disk.name, record.name());
                self.trouble
                    .push(format!("disk `{name}` of `{vm}`: {}", causes(&error).join(": ")));
            }
        }
        for made in record.files.iter().filter(|known| known.made) {
            if let Ok(about) = std::fs::metadata(&made.path) {
                self.known.insert(key(FileId::of(&about)));
            }
        }
    }

    fn directory(&mut self, directory: &Path, depth: usize) {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                self.trouble
                    .push(format!("cannot read `{}`: {error}", directory.display()));
                return;
            }
        };
        for entry in entries.flatten() {
            self.entry(&entry, depth);
        }
    }

    /// No symbolic link is followed: what it leads to is found where it is, or is none of ours.
    fn entry(&mut self, entry: &DirEntry, depth: usize) {
        let Ok(kind) = entry.file_type() else { return };
        let path = entry.path();
        if kind.is_dir() && depth < DEPTH_MAX && path != self.library {
            return self.directory(&path, depth + 1);
        }
        let Ok(about) = entry.metadata() else { return };
        if kind.is_file() && is_image(&path) && self.known.insert(key(FileId::of(&about))) {
            self.images.push(Orphan {
                path,
                actual_bytes: about.blocks().saturating_mul(BLOCK_BYTES),
                written_at: Timestamp(
                    u64::try_from(about.mtime())
                        .unwrap_or_default()
                        .saturating_mul(1000),
                ),
            });
        }
    }
}

const fn key(file: FileId) -> (u64, u64) {
    (file.dev, file.inode)
}

/// By its name, or by how it begins.
fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    if ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
        return true;
    }
    let mut start = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == QCOW2_MAGIC
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use maqet_spec::VmSpec;
    use maqet_state::clock;
    use serde_json::json;

    use super::*;

    fn vm(path: &Path) -> VmRecord {
        let spec: VmSpec = serde_json::from_value(json!({
            "name": "web", "binary": "qemu-system-x86_64", "machine": "q35", "accel": "tcg", "memory": 1 << 20, "cpus": 1,
            "disks": [{"name": "root", "path": path, "format": "raw", "interface": "virtio"}],
        }))
        .unwrap();
        VmRecord::new("0".repeat(32).parse().unwrap(), spec, clock::now())
    }

    #[test]
    fn what_no_vm_has_is_listed_once_and_links_are_not_followed() {
        let guard = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(guard.path()).unwrap();
        let policy = PathPolicy::new(Some(root.clone()), Vec::new(), Vec::new());
        fs::create_dir_all(root.join("deep/er")).unwrap();
        fs::create_dir(root.join("library")).unwrap();
        for name in [
            "library/base.raw",
            "mine.raw",
            "deep/er/other.raw",
            "deep/no-image",
        ] {
            fs::write(root.join(name), "x").unwrap();
        }
        fs::write(root.join("deep/image"), b"QFI\xfb and more").unwrap();
        fs::hard_link(root.join("deep/image"), root.join("deep/second-name")).unwrap();
        symlink("/", root.join("link")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let found = orphans(
            &[vm(&root.join("mine.raw"))],
            std::slice::from_ref(&root),
            &root.join("library"),
            &policy,
        );
        let paths: Vec<_> = found.images.iter().map(|image| image.path.clone()).collect();
        assert_eq!(paths.len(), 2, "{paths:?}");
        assert!(paths.contains(&root.join("deep/er/other.raw")));
        assert_eq!((found.searched, found.trouble), (vec![root], Vec::new()));
    }

    #[test]
    fn a_chain_that_cannot_be_followed_is_told() {
        let guard = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(guard.path()).unwrap();
        let policy = PathPolicy::new(Some(root.clone()), Vec::new(), Vec::new());
        fs::create_dir(root.join("mine.raw")).unwrap();
        let found = orphans(
            &[vm(&root.join("mine.raw"))],
            &[root.join("missing")],
            &root.join("library"),
            &policy,
        );
        assert!(found.trouble[0].contains("disk `root` of `web`"), "{found:?}");
        assert_eq!(found.searched, Vec::<PathBuf>::new());
    }
}
