//! What the kernel offers.

use maqet_process::offers::Offers;

use super::{Check, Outcome};

/// One check per feature. None is needed; each makes something surer.
pub(super) fn features() -> Vec<Check> {
    let offers = Offers::look();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let feature = |name, there, since: &str, without: &str| {
        if there {
            Check::new(name, Outcome::Ok, "there")
        } else {
            let what = format!("not in Linux {} (needs {since}): {without}", release.trim());
            Check::new(name, Outcome::Warn, what)
        }
    };
    let landlock = offers.landlock_abi.map_or_else(
        || {
            let what =
                "not in this kernel (needs 5.13, and to be switched on): QEMU may touch whatever its user may";
            Check::new("landlock", Outcome::Warn, what)
        },
        |abi| {
            let what = format!("ABI {abi}: QEMU touches only what its VM's file names (`sandbox: auto`)");
            Check::new("landlock", Outcome::Ok, what)
        },
    );
    vec![
        feature(
            "pidfs-inode",
            offers.inodes,
            "6.9",
            "processes are told apart by start time, program and launch id",
        ),
        feature(
            "pidfs-handle",
            offers.handles,
            "6.14",
            "a recorded process is looked for by its number first",
        ),
        feature(
            "pidfd-info",
            offers.info,
            "6.13",
            "how a QEMU ended that is nobody's child stays unknown",
        ),
        landlock,
    ]
}
