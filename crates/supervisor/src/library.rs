//! Who stands on which image of the library, and its refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

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
            for disk in &record.spec.disks {
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
