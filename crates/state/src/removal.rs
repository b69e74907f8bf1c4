//! A removal that deletes images, as it is recorded before the first of them goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A removal that has begun. Some of the images may be gone by now, so whoever finds it on record goes on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// When it began.
    pub at: Timestamp,
    /// Images that it was to delete when it began.
    pub images: Vec<PathBuf>,
    /// Those of them that were gone when it was last seen to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<PathBuf>,
    /// Images are to be deleted; not so when somebody was content with what was gone already.
    pub delete_storage: bool,
    /// Less those that hold snapshots.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_snapshots: bool,
    /// Idempotency key of the call, whose answer whoever finishes it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Removal {
    /// The same, asked for once more: it began then, and what was to go then counts as well.
    #[must_use]
    pub fn following(self, earlier: Option<&Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        let new = self.images.iter().filter(|path| !earlier.images.contains(path));
        let images = earlier.images.iter().chain(new).cloned().collect();
        Self {
            at: earlier.at,
            images,
            ..self
        }
    }

    /// As it was left: `gone` are its images that are no more. Nothing is left to go on with when none is.
    pub fn left(self, gone: Vec<PathBuf>) -> Option<Self> {
        (!gone.is_empty()).then_some(Self { gone, ..self })
    }

    /// Images that were to go and were still there when it was last seen to.
    pub fn left_over(&self) -> Vec<PathBuf> {
        let images = self.images.iter();
        images.filter(|path| !self.gone.contains(path)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(at: u64, images: &[&str]) -> Removal {
        Removal {
            at: Timestamp(at),
            images: images.iter().map(PathBuf::from).collect(),
            gone: Vec::new(),
            delete_storage: true,
            keep_snapshots: false,
            key: None,
        }
    }

    #[test]
    fn one_that_is_asked_for_again_still_counts_what_was_to_go_at_first() {
        let again = Removal {
            keep_snapshots: true,
            ..removal(2, &["/c", "/b"])
        };
        let both = again.clone().following(Some(&removal(1, &["/a", "/b"])));
        assert_eq!(
            both,
            Removal {
                keep_snapshots: true,
                ..removal(1, &["/a", "/b", "/c"])
            }
        );
        assert_eq!(again.clone().following(None), again);
    }

    #[test]
    fn nothing_is_left_to_go_on_with_where_nothing_is_gone() {
        let begun = removal(1, &["/a", "/b"]);
        assert_eq!(begun.clone().left(Vec::new()), None);
        let left = begun.left(vec!["/a".into()]).unwrap();
        assert_eq!(left.left_over(), [PathBuf::from("/b")]);
    }
}
