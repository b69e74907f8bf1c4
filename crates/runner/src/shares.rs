//! Directories shared with the guest, opened once for one start and handed to QEMU as descriptors.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use maqet_process::confine::{Access, Rule};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::argv::{ShareWiring, opened};
use maqet_spec::vm::Share;
use maqet_storage::{PathPolicy, share};

use crate::place::Place;

/// Opens the directory of a share. `own` is where maqet keeps its own files.
///
/// # Errors
/// `invalid-spec`, which names the share, its path and what is wrong.
pub(crate) fn open(
    place: &Place,
    share: &Share,
    policy: &PathPolicy,
    own: &[PathBuf],
) -> Result<OwnedFd, Refusal> {
    share::open(&share.path, policy, own)
        .map(|shared| shared.fd)
        .map_err(|error| {
            let words = format!("share `{}` cannot be opened", share.name);
            let refusal = place.refusal_from(RefusalCode::InvalidSpec, words, &error);
            match error.hint() {
                Some(hint) => refusal.hint(hint),
                None => refusal,
            }
        })
}

/// What QEMU knows a share by, and what it may do there. The rule is made for the directory that is open, not for its name.
pub(crate) fn wire(share: &Share, number: i32) -> (ShareWiring, Rule) {
    let access = if share.readonly { Access::Read } else { Access::Own };
    let wiring = ShareWiring {
        name: share.name.clone(),
        fd: number,
    };
    (wiring, Rule::new(opened(number), access))
}
