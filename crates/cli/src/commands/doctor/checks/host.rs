//! QEMU, its accelerators, and the limits of this process.

use maqet_storage::binary::{Binaries, Binary};
use maqet_storage::kvm::{Kvm, KvmTrouble};
use maqet_storage::probe::Probes;
use nix::sys::resource::{Resource, getrlimit};

use super::{Check, Outcome};
use crate::error::sources;

/// The program a VM runs when it names none.
const QEMU: &str = "qemu-system-x86_64";

/// Descriptors the supervisor needs at least: a hundred VMs take some six hundred.
const NOFILE_MIN: u64 = 1024;

/// QEMU, qemu-img and what accelerates guests.
pub(super) async fn programs() -> Vec<Check> {
    let (binaries, probes) = (Binaries::new(), Probes::new());
    let mut checks = Vec::new();
    match binaries.lookup(QEMU) {
        Ok(binary) => checks.extend(qemu(&binary, &probes).await),
        Err(error) => {
            let found = Check::new("qemu", Outcome::Fail, with_sources(&error));
            checks.push(found.hint("apt install qemu-system-x86"));
        }
    }
    checks.push(match maqet_storage::image::version(&binaries).await {
        Ok((binary, version)) => Check::new("qemu-img", Outcome::Ok, version).at(&binary.path.display()),
        Err(error) => {
            let what = format!("{}: disks of format qcow2 cannot be made", with_sources(&error));
            Check::new("qemu-img", Outcome::Warn, what).hint("apt install qemu-utils")
        }
    });
    checks
}

async fn qemu(binary: &Binary, probes: &Probes) -> Vec<Check> {
    let place = binary.path.display();
    let abilities = match probes.of(binary).await {
        Ok(abilities) => abilities,
        Err(error) => {
            let what = format!("it does not tell what it can do: {}", with_sources(&error));
            return vec![Check::new("qemu", Outcome::Fail, what).at(&place)];
        }
    };
    let tcg = if abilities.accels().iter().any(|accel| accel == "tcg") {
        Check::new("tcg", Outcome::Ok, "emulation is built in")
    } else {
        Check::new(
            "tcg",
            Outcome::Warn,
            "emulation is not built in: only KVM is left",
        )
    };
    vec![
        Check::new("qemu", Outcome::Ok, abilities.version.clone()).at(&place),
        tcg,
        kvm(binary, probes).await,
    ]
}

/// A guest is run, because `/dev/kvm` that opens proves little.
async fn kvm(binary: &Binary, probes: &Probes) -> Check {
    let place = "/dev/kvm";
    match Kvm::new().usable(binary, probes).await {
        Ok(()) => Check::new("kvm", Outcome::Ok, "a test guest runs").at(&place),
        Err(trouble) => {
            let check = Check::new("kvm", Outcome::Warn, trouble.to_string()).at(&place);
            check.hint(match trouble {
                KvmTrouble::NoAccess { .. } => "usermod -aG kvm $USER, then log in again",
                KvmTrouble::NoDevice
                | KvmTrouble::NotBuiltIn { .. }
                | KvmTrouble::Hangs
                | KvmTrouble::Fails { .. }
                | KvmTrouble::Untested { .. } => "`accel: auto` takes tcg, which is about ten times slower",
            })
        }
    }
}

/// Open files.
pub(super) fn limits() -> Vec<Check> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return vec![Check::new(
            "open-files",
            Outcome::Warn,
            "the limit cannot be read",
        )];
    };
    let what = format!("{hard} at most ({soft} now); the supervisor takes all");
    vec![if hard < NOFILE_MIN {
        Check::new("open-files", Outcome::Warn, what)
            .hint(format!("raise `ulimit -Hn` to {NOFILE_MIN} or more"))
    } else {
        Check::new("open-files", Outcome::Ok, what)
    }]
}

/// An error with all that is behind it.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    std::iter::once(error.to_string())
        .chain(sources(error))
        .collect::<Vec<_>>()
        .join(": ")
}
