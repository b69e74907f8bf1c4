//! Sizes in bytes, written with binary units as QEMU does.

use serde::{Deserialize, Serialize};

/// A number of bytes. Written `512M`: K, M, G, T (or KiB, MiB, GiB, TiB) are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(pub u64);
