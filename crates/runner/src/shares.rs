//! Directories shared with the guest, opened once for one start, and handed as descriptors to whoever serves them.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use maqet_process::confine::{Access, Rule};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::argv::{ShareWiring, opened};
use maqet_spec::vm::{Share, ShareKind};
use maqet_storage::{PathPolicy, share};

use crate::place::Place;
use crate::virtiofsd::{self, Standing};

/// What QEMU gets for its shares.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    handed: Vec<Handed>,
    /// Who serves those that QEMU does not serve itself.
    pub(crate) helpers: Vec<Standing>,
}

/// What QEMU gets for one share.
#[derive(Debug)]
struct Handed {
    name: String,
    /// The directory, or the connection to who serves it.
    fd: OwnedFd,
    /// What QEMU may do in the directory; `None` when it has none.
    access: Option<Access>,
}

impl Shares {
    /// Opens the directories of all shares and has gates made for those that are served by virtiofsd. `own` is where maqet
    /// keeps its own files.
    ///
    /// # Errors
    /// `invalid-spec`, which names the share, its path and what is wrong; those of [`virtiofsd::stand`].
    pub(crate) async fn open(
        place: &Place,
        shares: &[Share],
        (policy, own): (&PathPolicy, &[PathBuf]),
        order: &virtiofsd::Order<'_>,
    ) -> Result<Self, Refusal> {
        let mut all = Self::default();
        for share in shares {
            let directory = open(place, share, policy, own)?;
            let (fd, access) = match share.kind {
                ShareKind::Plan9 if share.readonly => (directory, Some(Access::Read)),
                ShareKind::Plan9 => (directory, Some(Access::Own)),
                ShareKind::Virtiofs => {
                    let (standing, connection) = virtiofsd::stand(place, share, directory, order).await?;
                    all.helpers.push(standing);
                    (connection, None)
                }
            };
            let name = share.name.clone();
            all.handed.push(Handed { name, fd, access });
        }
        Ok(all)
    }

    /// Numbers the descriptors for QEMU and puts them among those that are `passed`: what QEMU knows each share by, and what
    /// it may do there. Rules are made for the directories that are open, not for their names.
    pub(crate) fn wire(
        self,
        passed: &mut Vec<(OwnedFd, i32)>,
        next: &mut impl FnMut() -> i32,
    ) -> (Vec<ShareWiring>, Vec<Rule>) {
        let (mut wirings, mut rules) = (Vec::new(), Vec::new());
        for Handed { name, fd, access } in self.handed {
            let number = next();
            passed.push((fd, number));
            wirings.push(ShareWiring { name, fd: number });
            rules.extend(access.map(|access| Rule::new(opened(number), access)));
        }
        (wirings, rules)
    }
}

fn open(place: &Place, share: &Share, policy: &PathPolicy, own: &[PathBuf]) -> Result<OwnedFd, Refusal> {
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
