//! Who stands on which image of the library, who is about to, and its refusals.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maqet_process::identity::FileId;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::ImageName;
use maqet_state::record::VmRecord;
use maqet_storage::PathPolicy;
use maqet_storage::error::StorageError;
use maqet_storage::image;
use maqet_storage::library::Library;

/// Names of VMs by the image that a disk of theirs stands on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uses(BTreeMap<ImageName, BTreeSet<String>>);

impl Uses {
    /// Looks at every disk of these VMs, by its files and by what is on record. Blocks.
    pub(crate) fn look(records: &[VmRecord], library: &Library, policy: &PathPolicy) -> Self {
        let images = library.files();
        let mut uses = Self::default();
        for record in records {
            for disk in &record.spec_at_most().disks {
                let look = image::look(&disk.path, disk.format, policy);
                let files = look.chain.iter().map(|found| found.file.id);
                uses.enter(record, files.filter_map(|file| named(&images, file)));
            }
            let asked = record.spec.disks.iter().filter_map(|disk| disk.from.clone());
            uses.enter(record, asked);
            let recorded = record.files.iter().filter_map(|file| file.base.as_deref());
            uses.enter(record, recorded.filter_map(|base| base.parse().ok()));
        }
        uses
    }

    fn enter(&mut self, record: &VmRecord, images: impl Iterator<Item = ImageName>) {
        for image in images {
            self.0.entry(image).or_default().insert(record.name().to_owned());
        }
    }

    /// VMs that stand on this image, by name.
    pub(crate) fn of(&self, image: &ImageName) -> Vec<String> {
        self.0.get(image).into_iter().flatten().cloned().collect()
    }
}

/// Images that something is being done with, which nothing else may come between.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims(Arc<Mutex<BTreeMap<ImageName, Claimed>>>);

/// What is being done with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claimed {
    /// So many disks are being made on it.
    Making(usize),
    /// It is being deleted.
    Going,
}

/// The claim on an image, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    name: ImageName,
}

impl Claims {
    /// For a disk that is made on the image; `None` for one that is being deleted.
    pub(crate) fn make_on(&self, name: &ImageName) -> Option<Claim> {
        match self.all().entry(name.clone()).or_insert(Claimed::Making(0)) {
            Claimed::Going => return None,
            Claimed::Making(count) => *count += 1,
        }
        Some(self.claim(name))
    }

    /// For whoever deletes the image; `None` for one that a disk is being made on, or that somebody else deletes.
    pub(crate) fn take_away(&self, name: &ImageName) -> Option<Claim> {
        match self.all().entry(name.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(free) => free.insert(Claimed::Going),
        };
        Some(self.claim(name))
    }

    fn claim(&self, name: &ImageName) -> Claim {
        let (claims, name) = (self.clone(), name.clone());
        Claim { claims, name }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<ImageName, Claimed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.claims.all();
        match all.get_mut(&self.name) {
            Some(Claimed::Making(count @ 2..)) => *count -= 1,
            Some(Claimed::Making(_) | Claimed::Going) | None => drop(all.remove(&self.name)),
        }
    }
}

fn named(images: &[(FileId, ImageName)], file: FileId) -> Option<ImageName> {
    let found = images.iter().find(|(id, _)| *id == file);
    found.map(|(_, name)| name.clone())
}

/// A failure of the library as clients get it.
pub(crate) fn refusal(error: &StorageError) -> Refusal {
    let code = if matches!(error, StorageError::NoImage { .. }) {
        RefusalCode::ImageNotFound
    } else if matches!(error, StorageError::ImageTaken { .. }) {
        RefusalCode::NameTaken
    } else {
        RefusalCode::ImageRefused
    };
    let mut refusal = Refusal::new(code, error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        refusal = refusal.cause(cause.to_string());
        source = cause.source();
    }
    match error.hint() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_made_on_an_image_or_it_is_deleted() {
        let (claims, name) = (Claims::default(), "base".parse().unwrap());
        let (one, two) = (claims.make_on(&name).unwrap(), claims.make_on(&name).unwrap());
        assert!(claims.take_away(&name).is_none());
        drop(one);
        assert!(claims.take_away(&name).is_none());
        drop(two);
        let going = claims.take_away(&name).unwrap();
        assert!(claims.make_on(&name).is_none() && claims.take_away(&name).is_none());
        assert!(claims.make_on(&"other".parse().unwrap()).is_some());
        drop(going);
        assert!(claims.make_on(&name).is_some());
    }
}
