//! Work on the disks of a VM that rests: checks, repairs, other sizes. Whoever calls holds the leases.

use std::collections::BTreeMap;
use std::rc::Rc;

use maqet_process::identity::FileId;
use maqet_protocol::control::{DiskResized, DiskStorage, DiskVerified, FileState, ImageStatus};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::{Disk, DiskFormat};
use maqet_spec::{ImageName, VmSpec};
use maqet_state::disk::DiskRecords;
use maqet_state::id::VmId;
use maqet_storage::error::StorageError;
use maqet_storage::image::{self, Chain, Checked, Image};
use maqet_storage::meter::Meter;

use crate::aside::Aside;
use crate::disks::{gone, unmade};
use crate::inventory;
use crate::link::chain;
use crate::shared::Shared;

/// A VM whose disks are looked at or worked on.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    /// The VM.
    pub(crate) id: VmId,
    /// What it should be.
    pub(crate) spec: VmSpec,
    /// What is known of its files.
    pub(crate) files: DiskRecords,
    /// Surroundings.
    pub(crate) shared: Rc<Shared>,
    /// Who hears how far it is.
    pub(crate) meter: Meter,
}

/// How large a disk is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Size the guest is to see, bytes.
    pub(crate) bytes: u64,
    /// That much is added to the present size.
    pub(crate) add: bool,
    /// What lies behind a smaller size may be lost.
    pub(crate) shrink: bool,
}

impl Wanted {
    /// The size that is meant for a disk that has `before` bytes.
    ///
    /// # Errors
    /// `invalid-call` for nothing, or more than QEMU can count.
    pub(crate) fn of(self, before: u64) -> Result<u64, Refusal> {
        let base = if self.add { before } else { 0 };
        let bytes = base.checked_add(self.bytes).filter(|bytes| *bytes > 0);
        // QEMU counts in signed numbers.
        bytes
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .ok_or_else(|| Refusal::new(RefusalCode::InvalidCall, "no disk has such a size"))
    }
}

impl Bench {
    fn aside(&self) -> Aside {
        self.shared.asides.of(&self.id)
    }

    /// Every disk as it is now.
    ///
    /// # Errors
    /// `internal` when nobody can look.
    pub(crate) async fn look(&self) -> Result<Vec<DiskStorage>, Refusal> {
        let (disks, files) = (self.spec.disks.clone(), self.files.clone());
        let (policy, boot_id) = (self.shared.policy.clone(), self.shared.boot_id.clone());
        let work = move || {
            let found = disks
                .iter()
                .map(|disk| inventory::look_at(disk, &files, &boot_id, &policy));
            found.collect::<Vec<_>>()
        };
        let mut found = self.aside().run(work).await?;
        for disk in &mut found {
            let file = disk.chain.first().map(|image| image.file.id);
            let leases = &self.shared.leases;
            disk.holder = file.and_then(|file| leases.holder(file, &self.shared.board));
        }
        Ok(found)
    }

    /// Checks every disk; with `tables` the images' own tables too, which `repair` repairs.
    ///
    /// # Errors
    /// As for [`Self::look`].
    pub(crate) async fn verify(&self, tables: bool, repair: bool) -> Result<Vec<DiskVerified>, Refusal> {
        let mut verified = Vec::new();
        let looked = self.look().await?;
        let mut bases = Bases::of(self).await;
        for (disk, found) in self.spec.disks.iter().zip(looked) {
            let bases = bases.problems_of(&found.chain, self).await;
            let mut told = findings_of(found);
            told.findings.extend(bases);
            if tables && matches!(told.state, FileState::Ok | FileState::New) {
                self.check(disk, repair && !disk.readonly, &mut told).await;
            }
            verified.push(told);
        }
        Ok(verified)
    }

    async fn check(&self, disk: &Disk, repair: bool, told: &mut DiskVerified) {
        let Chain { top, below } = match self.open(disk, !repair).await {
            Ok(chain) => chain,
            Err(refusal) => return told.findings.push(words(&refusal)),
        };
        told.whole = self.check_one(top, disk.format, repair, told).await;
        // Images below may be other VMs' too: they are never repaired on behalf of one of them.
        for layer in below {
            let _whole = self.check_one(layer.image, layer.format, false, told).await;
        }
    }

    /// Whether its tables are whole, if that can be told.
    async fn check_one(
        &self,
        image: Image,
        format: DiskFormat,
        repair: bool,
        told: &mut DiskVerified,
    ) -> Option<bool> {
        let path = image.path.display().to_string();
        match image::check(image, format, repair, &self.shared.binaries).await {
            Ok(checked) => {
                tell(&path, checked, told);
                Some(checked.corruptions == 0 && checked.check_errors == 0)
            }
            Err(error) => {
                told.findings
                    .push(format!("`{path}` cannot be checked: {}", chain(&error)));
                None
            }
        }
    }

    /// Opens a disk's chain, which must begin with the file on record.
    pub(crate) async fn open(&self, disk: &Disk, readonly: bool) -> Result<Chain, Refusal> {
        let (disk, files) = (disk.clone(), self.files.clone());
        let (policy, boot_id) = (self.shared.policy.clone(), self.shared.boot_id.clone());
        let vm = self.spec.name.to_string();
        let work = move || crate::disks::open_known(&vm, &disk, readonly, &files, (&boot_id, &policy));
        self.aside().run(work).await?
    }

    /// Gives a disk another size.
    pub(crate) async fn resize(&self, disk: &Disk, wanted: Wanted) -> Result<DiskResized, Refusal> {
        let bytes = wanted.of(self.size_of(disk).await?)?;
        let chain = self.open(disk, false).await?;
        let resized = image::resize(chain, disk.format, bytes, wanted.shrink, &self.shared.binaries).await;
        let resized = resized.map_err(|error| not_resized(&self.spec, disk, &error))?;
        Ok(DiskResized {
            vm: self.spec.name.to_string(),
            disk: disk.name.clone(),
            before: resized.before,
            after: resized.after,
            live: false,
            free_bytes: resized.free_bytes,
        })
    }

    /// Bytes free in the file system of a disk's image; 0 when nobody can tell.
    pub(crate) async fn free_beside(&self, disk: &Disk) -> u64 {
        let path = disk.path.clone();
        let asked = self.aside().run(move || image::free_bytes(&path)).await;
        asked.ok().and_then(Result::ok).unwrap_or(0)
    }

    /// Size the guest sees of a disk, bytes.
    pub(crate) async fn size_of(&self, disk: &Disk) -> Result<u64, Refusal> {
        let mut found = self.look().await?.into_iter();
        let found = found.find(|found| found.disk == disk.name);
        let size = found.as_ref().and_then(|found| found.chain.first());
        size.map(|image| image.virtual_bytes)
            .ok_or_else(|| self.no_size(disk, found))
    }

    /// Why nobody can tell how large a disk is.
    fn no_size(&self, disk: &Disk, found: Option<DiskStorage>) -> Refusal {
        let vm = self.spec.name.as_str();
        match found.as_ref().map(|found| found.state) {
            Some(FileState::ToBeMade) => return unmade(vm, disk),
            Some(FileState::Missing) if self.files.get(&disk.path).is_some() => return gone(vm, disk),
            Some(_) | None => {}
        }
        let message = format!("disk `{}` of `{vm}` cannot be looked at", disk.name);
        let refusal = Refusal::new(RefusalCode::Conflict, message);
        let refusal = refusal.hint(format!("maqet storage info {vm}"));
        let trouble = found.map(|found| found.trouble).unwrap_or_default();
        trouble.into_iter().fold(refusal, Refusal::cause)
    }
}

/// Images of the library that disks stand on, and what is wrong with those that were looked at: each is hashed once.
struct Bases {
    files: Vec<(FileId, ImageName)>,
    problems: BTreeMap<ImageName, Vec<String>>,
}

impl Bases {
    async fn of(bench: &Bench) -> Self {
        let library = bench.shared.library.clone();
        let files = bench.aside().run(move || library.files()).await;
        Self {
            files: files.unwrap_or_default(),
            problems: BTreeMap::new(),
        }
    }

    /// What is wrong with the content of those that a chain stands on.
    async fn problems_of(&mut self, chain: &[ImageStatus], bench: &Bench) -> Vec<String> {
        let mut problems = Vec::new();
        for image in chain {
            let known = self.files.iter().find(|(file, _)| *file == image.file.id);
            let Some(name) = known.map(|(_, name)| name.clone()) else {
                continue;
            };
            if !self.problems.contains_key(&name) {
                let found = verify_image(&name, bench).await;
                self.problems.insert(name.clone(), found);
            }
            problems.extend(self.problems.get(&name).into_iter().flatten().cloned());
        }
        problems
    }
}

/// What is wrong with an image of the library.
async fn verify_image(name: &ImageName, bench: &Bench) -> Vec<String> {
    let problems = match bench.shared.library.verify(name, &bench.meter).await {
        Ok(verified) => verified.problems,
        Err(error) => vec![format!("it cannot be read: {}", chain(&error))],
    };
    let told = problems.into_iter();
    told.map(|problem| format!("image `{name}` of the library: {problem}"))
        .collect()
}

fn findings_of(found: DiskStorage) -> DiskVerified {
    let DiskStorage {
        disk,
        path,
        state,
        trouble,
        ..
    } = found;
    let finding = match state {
        FileState::Ok | FileState::New | FileState::ToBeMade => None,
        FileState::AnotherFile if trouble.is_empty() => {
            Some("it is another file than the one on record".to_owned())
        }
        FileState::Missing => Some("there is no file".to_owned()),
        FileState::AnotherFile | FileState::Unusable => Some(trouble.join(": ")),
    };
    DiskVerified {
        disk,
        path,
        state,
        findings: finding.into_iter().collect(),
        whole: None,
        repaired: Vec::new(),
    }
}

fn tell(path: &str, checked: Checked, told: &mut DiskVerified) {
    let findings = [
        (checked.corruptions, "errors in its tables: its data may be wrong"),
        (checked.leaks, "lost clusters: room is wasted, no data is wrong"),
        (checked.check_errors, "places that could not be checked"),
    ];
    let findings = findings.into_iter().filter(|(count, _)| *count > 0);
    told.findings
        .extend(findings.map(|(count, what)| format!("`{path}` has {count} {what}")));
    let repaired = [
        (checked.corruptions_fixed, "errors repaired"),
        (checked.leaks_fixed, "lost clusters freed"),
    ];
    let repaired = repaired.into_iter().filter(|(count, _)| *count > 0);
    told.repaired
        .extend(repaired.map(|(count, what)| format!("`{path}`: {count} {what}")));
}

fn words(refusal: &Refusal) -> String {
    std::iter::once(&refusal.message)
        .chain(&refusal.causes)
        .cloned()
        .collect::<Vec<_>>()
        .join(": ")
}

/// Why a disk keeps its size, if it does.
pub(crate) fn not_resized(spec: &VmSpec, disk: &Disk, error: &StorageError) -> Refusal {
    let code = if matches!(error, StorageError::WouldShrink { .. }) {
        RefusalCode::InvalidCall
    } else if matches!(error, StorageError::Chain { .. }) {
        RefusalCode::Conflict
    } else {
        RefusalCode::StorageFailed
    };
    let (name, vm) = (&disk.name, &spec.name);
    if error.is_cut_off() {
        let message =
            format!("resizing disk `{name}` of `{vm}` was cut off: it has its old size or the new one");
        let hint = format!("maqet storage info {vm} tells; the same command again is no trouble");
        return Refusal::new(code, message).cause(chain(error)).hint(hint);
    }
    let message = format!("disk `{name}` of `{vm}` keeps its size");
    let refusal = Refusal::new(code, message).cause(chain(error));
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_added_and_never_nothing() {
        let wanted = |bytes, add| Wanted {
            bytes,
            add,
            shrink: false,
        };
        assert_eq!(wanted(7, false).of(5).unwrap(), 7);
        assert_eq!(wanted(7, true).of(5).unwrap(), 12);
        for (bytes, add) in [(0, false), (u64::MAX, true), (u64::MAX, false)] {
            let refusal = wanted(bytes, add).of(5).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::InvalidCall);
        }
    }
}
