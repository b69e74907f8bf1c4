//! Want of room, told with numbers.

use std::path::{Path, PathBuf};

use maqet_process::{Liveness, ProcessIdentity};
use maqet_protocol::refusal::Refusal;
use maqet_storage::StorageError;
use maqet_storage::image;

use crate::aside::Aside;

/// What a guest may write to for the first time while a snapshot with its memory is being prepared, bytes, beside an eighth.
const GROWTH_BYTES: u64 = 16 << 20;

/// Images of a VM that something is about to write to, or has.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Where.
    pub(crate) images: Vec<PathBuf>,
    /// Bytes that it takes beside each, as far as that is known.
    pub(crate) needed: u64,
    /// Who looks.
    pub(crate) aside: Aside,
}

impl Room {
    /// What is short of room, if there is less than needed beside one of the images.
    pub(crate) async fn short(&self) -> Option<StorageError> {
        let (images, needed) = (self.images.clone(), self.needed);
        let look = move || images.iter().find_map(|image| short(image, needed));
        self.aside.run(look).await.ok().flatten()
    }

    /// The same refusal of QEMU, whose words have no numbers: with the bytes that are needed and free, where there is less.
    pub(crate) async fn counted(&self, refusal: Refusal) -> Refusal {
        let Some(short) = self.short().await else {
            return refusal;
        };
        let hint = short.hint().filter(|_hint| refusal.hint.is_none());
        let refusal = refusal.cause(short.to_string());
        match hint {
            Some(hint) => refusal.hint(hint),
            None => refusal,
        }
    }
}

/// Bytes that a guest's memory of `all` bytes takes at most when it is written into an image. QEMU leaves out pages of zeros, and
/// no guest has written to more than its QEMU holds; some is added for what it writes until it is stopped.
pub(crate) fn memory_bytes(all: u64, qemu: Option<&ProcessIdentity>) -> u64 {
    let held = match qemu.map(ProcessIdentity::verify) {
        Some(Liveness::Alive(qemu)) => qemu.memory_bytes(),
        Some(Liveness::Dead | Liveness::Unknown(_)) | None => None,
    };
    let held = held.map_or(all, |held| {
        held.saturating_add(held / 8).saturating_add(GROWTH_BYTES)
    });
    held.min(all)
}

/// Tells that there is less room than needed beside an image. Blocks.
fn short(image: &Path, needed: u64) -> Option<StorageError> {
    let free = image::free_bytes(image).ok()?;
    (free < needed).then(|| StorageError::NoSpace {
        directory: image.parent().unwrap_or(image).to_owned(),
        needed,
        free,
    })
}

#[cfg(test)]
mod tests {
    use maqet_protocol::refusal::RefusalCode;

    use super::*;

    #[tokio::test]
    async fn numbers_are_told_where_room_is_short() {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("disk");
        let refusal = || Refusal::new(RefusalCode::QmpFailed, "Error -28");
        let room = |image: PathBuf, needed| Room {
            images: vec![image],
            needed,
            aside: Aside::default(),
        };
        let told = room(image.clone(), u64::MAX).counted(refusal()).await;
        assert!(told.causes[0].contains("bytes needed"), "{told:?}");
        assert!(told.hint.unwrap().starts_with("free some space"));
        assert_eq!(room(image, 1).counted(refusal()).await, refusal());
        let nowhere = room("/nonexistent/place/disk".into(), u64::MAX);
        assert_eq!(nowhere.counted(refusal()).await, refusal());
    }
}
