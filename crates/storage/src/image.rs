//! Disk images: made, opened, looked into.
//!
//! An image is made without a name and gets it only when it is complete and on the disk. A half-made image is
//! never seen, an existing file is never touched, and a full disk leaves nothing behind.

#[cfg(test)]
mod attack;
mod blank;
mod chain;
mod check;
mod copy;
mod create;
#[cfg(test)]
mod damage;
mod delete;
mod digest;
mod flags;
mod header;
mod inspect;
mod look;
mod merge;
mod open;
mod room;
pub mod snapshot;
mod suspect;
mod tables;
mod unnamed;
mod version;

pub use blank::is_blank;
pub use chain::{Chain, Layer, open_chain};
pub use check::{Checked, Resized, check, resize, resize_needs};
pub use copy::{Copied, Source, copy};
pub use create::{Created, Draft, create, draft, draft_overlay, overlay};
pub use delete::{Deletion, delete};
pub use digest::{Algorithm, Checksum, digest};
pub(crate) use header::Header;
pub use inspect::{Inspection, inspect};
pub use look::{Found, Look, look};
pub use merge::{merge, merge_needs, stand_on};
pub(crate) use open::pin;
pub use open::{Image, open};
pub(crate) use room::counted;
pub use room::{ROOM_BYTES, free_bytes};
pub use suspect::is_suspect;
pub(crate) use tables::Tables;
pub(crate) use unnamed::blocking;
pub use unnamed::is_temporary;
pub use version::version;

use maqet_spec::vm::DiskFormat;

/// The program that makes and reads images.
const QEMU_IMG: &str = "qemu-img";

/// The format's name on qemu-img's command line.
fn format_name(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Raw => "raw",
    }
}
