//! The program that serves shares by virtiofs: the very one that a start would take.

use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use futures_util::stream;
use maqet_process::enclosure::{self, ALLOW};
use maqet_protocol::control::VmSummary;
use maqet_spec::vm::ShareKind;
use maqet_storage::binary::Binaries;

use super::host::with_sources;
use super::{Check, Outcome};
use crate::commands::status;
use crate::session::Session;

const NAME: &str = "virtiofsd";
/// VMs that are asked for their shares at once.
const AT_ONCE: usize = 8;

/// Why no share can be had by virtiofs.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    what: String,
    place: Option<PathBuf>,
    hint: String,
}

/// Looks for it: the one that is configured, else the one that is found. What is wrong counts as a failure once one of these
/// VMs has such a share.
pub(super) async fn check(session: &Session<'_>, configured: Option<&Path>, vms: &[VmSummary]) -> Check {
    match look(&Binaries::new(), configured, enclosure::attempt) {
        Ok(place) => {
            let whose = if configured.is_some() {
                ", which the configuration names"
            } else {
                ""
            };
            Check::new(NAME, Outcome::Ok, format!("this user may run it{whose}")).at(&place.display())
        }
        Err(trouble) => told(trouble, &who_needs_it(session, vms).await),
    }
}

/// Whether there is one, and this user may run it as it has to be run, which `attempt` tells.
fn look<E: std::error::Error>(
    binaries: &Binaries,
    configured: Option<&Path>,
    attempt: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<PathBuf, Trouble> {
    let found = maqet_storage::virtiofsd::find(binaries, configured);
    let binary = found.map_err(|error| match configured {
        Some(path) => Trouble {
            what: format!(
                "the configuration names one that cannot be run: {}",
                with_sources(&error)
            ),
            place: Some(path.to_owned()),
            hint: "set `storage.virtiofsd` in the configuration right, or take it away and let one be found"
                .to_owned(),
        },
        None => Trouble {
            what: "not found".to_owned(),
            place: None,
            hint: error.hint().unwrap_or_default(),
        },
    })?;
    let beside = binary.path.parent().unwrap_or(&binary.path);
    match attempt(beside) {
        Ok(()) => Ok(binary.path),
        Err(error) => Err(Trouble {
            what: format!("this user may not run it: {}", with_sources(&error)),
            place: Some(binary.path),
            hint: ALLOW.to_owned(),
        }),
    }
}

fn told(trouble: Trouble, needing: &[&str]) -> Check {
    let Trouble { what, place, hint } = trouble;
    let check = if needing.is_empty() {
        let what = format!("{what}; shares of `type: virtiofs` cannot be had");
        Check::new(NAME, Outcome::Warn, what)
    } else {
        let what = format!(
            "{what}; VMs with such a share cannot start: {}",
            needing.join(", ")
        );
        Check::new(NAME, Outcome::Fail, what)
    };
    let check = check.hint(hint);
    match place {
        Some(place) => check.at(&place.display()),
        None => check,
    }
}

/// Those with a share by virtiofs. One that does not answer, or is gone by now, is not among them.
async fn who_needs_it<'a>(session: &Session<'_>, vms: &'a [VmSummary]) -> Vec<&'a str> {
    let asked = vms.iter().map(|vm| async move {
        let described = status::describe(session, vm.id.as_str()).await.ok()?;
        let kind = ShareKind::Virtiofs.as_str();
        let needs = described.shares.iter().any(|share| share.kind == kind);
        needs.then_some(vm.name.as_str())
    });
    let answers: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    answers.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_one_that_is_configured_counts_alone() {
        let directory = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (found, binaries) = (program(NAME), Binaries::with_path(directory.path()));
        let allowed = |_: &Path| Ok::<(), io::Error>(());
        assert_eq!(look(&binaries, None, allowed), Ok(found));
        let absent = directory.path().join("absent");
        let trouble = look(&binaries, Some(&absent), allowed).unwrap_err();
        assert_eq!(trouble.place.as_ref(), Some(&absent));
        assert!(trouble.hint.contains("storage.virtiofsd"), "{trouble:?}");
        let own = program("own");
        assert_eq!(look(&binaries, Some(&own), allowed), Ok(own.clone()));
        let refused = |_: &Path| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let trouble = look(&binaries, Some(&own), refused).unwrap_err();
        assert!(trouble.what.contains("may not run it"), "{trouble:?}");
    }

    #[test]
    fn it_is_a_failure_once_a_vm_needs_it() {
        let trouble = || Trouble {
            what: "not found".to_owned(),
            place: None,
            hint: "apt install virtiofsd".to_owned(),
        };
        let unneeded = told(trouble(), &[]);
        assert_eq!(unneeded.outcome, Outcome::Warn);
        let needed = told(trouble(), &["web", "db"]);
        assert_eq!(needed.outcome, Outcome::Fail);
        assert_eq!(
            needed.what,
            "not found; VMs with such a share cannot start: web, db"
        );
        assert_eq!(needed.hint.as_deref(), Some("apt install virtiofsd"));
    }
}
