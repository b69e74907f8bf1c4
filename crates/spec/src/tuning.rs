//! How QEMU handles a disk: caching, requests, unused blocks, and what the guest takes it for. The words are QEMU's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What stands between the guest and the host's storage. QEMU's `unsafe`, which drops the guest's flushes, is not offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// The host's page cache; what the guest flushes is on the storage.
    #[default]
    Writeback,
    /// Past the host's page cache (`O_DIRECT`); the guest still has to flush.
    None,
    /// The host's page cache for reading; every write is flushed before the guest hears of it.
    Writethrough,
    /// Past the host's page cache, and every write is flushed before the guest hears of it.
    Directsync,
}

impl Cache {
    /// Every mode, with the word for it in a file.
    pub const ALL: [(&'static str, Self); 4] = [
        ("writeback", Self::Writeback),
        ("none", Self::None),
        ("writethrough", Self::Writethrough),
        ("directsync", Self::Directsync),
    ];

    /// Past the host's page cache.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    /// Each write is flushed at once.
    pub fn is_through(self) -> bool {
        matches!(self, Self::Writethrough | Self::Directsync)
    }
}

/// How QEMU asks the host for blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aio {
    /// A pool of threads.
    #[default]
    Threads,
    /// Linux' own asynchronous requests; only past the host's page cache.
    Native,
    /// `io_uring`, where this user may use it.
    IoUring,
}

impl Aio {
    /// Every way, with the word for it in a file.
    pub const ALL: [(&'static str, Self); 3] = [
        ("threads", Self::Threads),
        ("native", Self::Native),
        ("io_uring", Self::IoUring),
    ];
}

/// What becomes of blocks that the guest says it does not need any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// They keep their room.
    #[default]
    Ignore,
    /// Their room in the image and on the host is given back.
    Unmap,
}

impl Discard {
    /// Both ways, with the word for it in a file.
    pub const ALL: [(&'static str, Self); 2] = [("ignore", Self::Ignore), ("unmap", Self::Unmap)];
}

/// What becomes of blocks that the guest fills with zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectZeroes {
    /// They are written like any other.
    #[default]
    Off,
    /// They are noted as zeroes where the format can.
    On,
    /// They are given back; only with [`Discard::Unmap`].
    Unmap,
}

impl DetectZeroes {
    /// Every way, with the word for it in a file.
    pub const ALL: [(&'static str, Self); 3] = [("off", Self::Off), ("on", Self::On), ("unmap", Self::Unmap)];
}

/// What the guest takes a disk for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// A disk.
    #[default]
    Disk,
    /// A CD-ROM drive with a medium in it; read-only.
    Cdrom,
}

impl Media {
    /// Both, with the word for it in a file.
    pub const ALL: [(&'static str, Self); 2] = [("disk", Self::Disk), ("cdrom", Self::Cdrom)];
}

/// Whether a value is its type's default: such are not stored.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The word that a table of a type has for a value.
fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    let found = words.iter().find(|(_, other)| *other == value);
    found.map_or("", |(word, _)| word)
}

macro_rules! written_as_in_a_file {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(word(&Self::ALL, *self))
            }
        }
    )*};
}

written_as_in_a_file!(Cache, Aio, Discard, DetectZeroes, Media);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_file_are_those_of_the_record() {
        fn same<T: Serialize + fmt::Display>(values: impl IntoIterator<Item = (&'static str, T)>) {
            for (word, value) in values {
                assert_eq!(value.to_string(), word);
                assert_eq!(serde_json::to_value(value).unwrap(), word);
            }
        }
        same(Cache::ALL);
        same(Aio::ALL);
        same(Discard::ALL);
        same(DetectZeroes::ALL);
        same(Media::ALL);
    }
}
