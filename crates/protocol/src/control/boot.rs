//! The tiny guest, for those who want to boot it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::method::Method;

/// Have the built-in tiny guest written to a file. It stays there: it is small, and the same for everybody.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteTinyGuest {}
method!(WriteTinyGuest, "WriteTinyGuest", TinyGuest);

/// Answer to [`WriteTinyGuest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TinyGuest {
    /// The image, firmware for the machines `pc` and `q35` of `qemu-system-x86_64`.
    pub path: PathBuf,
    /// First line it prints on its serial port.
    pub ready: String,
}
