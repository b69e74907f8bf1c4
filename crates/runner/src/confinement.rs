//! What a QEMU may touch: what its spec names, and what every QEMU needs of the system.
//!
//! The lists are data; each entry is one line. Disks, sockets and QEMU's own log are not among them: QEMU gets them open.
//! `docs/architecture/security.md` says what that keeps out.

#[cfg(test)]
mod tests;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use maqet_process::confine::{self, Access, Confinement, Floor, Level, Rule};
use maqet_spec::VmSpec;
use maqet_spec::named;
use maqet_spec::vm::{Sandbox, SandboxPaths};
use maqet_spec::yaml::word;
use maqet_storage::PathPolicy;

/// What the C library, the user network and QEMU's look at the host read.
const READ: [&str; 16] = [
    "/etc/localtime",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/gai.conf",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/resolv.conf",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system",
    "/sys/kernel/mm",
    "/etc/qemu",
];

/// What a window needs.
const DISPLAY: [&str; 4] = ["/etc/fonts", "/var/cache/fontconfig", "/etc/gtk-3.0", "/etc/X11"];

/// The graphics cards, for a window.
const GRAPHICS: &str = "/dev/dri";

/// One QEMU's surroundings.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// The program; absolute.
    pub(crate) binary: &'a Path,
    /// What accelerates it.
    pub(crate) accel: &'a str,
    /// The log of its serial port, if it writes one; it must be there.
    pub(crate) serial_log: Option<PathBuf>,
    /// The open directories of its shares.
    pub(crate) shares: Vec<Rule>,
    /// Where nobody may write.
    pub(crate) policy: &'a PathPolicy,
}

/// What the QEMU of a spec may touch; `None` for one that is not confined.
pub(crate) fn plan(spec: &VmSpec, around: Surroundings<'_>) -> Option<Confinement> {
    let floor = floor(spec)?;
    let mut rules = system(around.binary, around.accel);
    rules.extend(around.serial_log.map(|log| Rule::new(log, Access::Write)));
    rules.extend(around.shares);
    let kernel = spec.kernel.as_ref();
    let images = kernel.map(|kernel| &kernel.image).into_iter();
    let images = images.chain(kernel.and_then(|kernel| kernel.initrd.as_ref()));
    rules.extend(
        images
            .chain(&spec.firmware)
            .map(|path| Rule::new(path, Access::Read)),
    );
    let mut words = spec.extra_args.clone();
    if let Some(display) = &spec.display {
        words.push(display.clone());
        rules.extend(window(display));
    }
    let named = named::paths(&words);
    rules.extend(
        named
            .iter()
            .filter_map(|path| named_in_words(path, around.policy)),
    );
    rules.extend(listed(&spec.sandbox_paths));
    rules.sort();
    rules.dedup();
    let forwards = spec.networks.iter().flat_map(|network| &network.forwards);
    let ports = forwards.filter_map(|forward| forward.host_port);
    Some(Confinement {
        floor,
        rules,
        tcp_ports: named::tcp_ports(&words).into_iter().chain(ports).collect(),
    })
}

/// The least that is asked for; `None` when nobody is to be confined.
pub(crate) fn floor(spec: &VmSpec) -> Option<Floor> {
    match spec.sandbox {
        Sandbox::Off => None,
        Sandbox::Auto => Some(Floor::Nothing),
        Sandbox::Require => Some(Floor::Files),
        Sandbox::RequireNet => Some(Floor::Network),
    }
}

fn system(binary: &Path, accel: &str) -> Vec<Rule> {
    let mut rules = confine::of_program(binary);
    rules.extend(READ.map(|path| Rule::new(path, Access::Read)));
    if accel == "kvm" {
        rules.push(Rule::new("/dev/kvm", Access::Device));
    }
    rules
}

/// What a window needs; `vnc` and the like need nothing.
fn window(display: &str) -> Vec<Rule> {
    let kind = display.split(',').next().unwrap_or_default();
    if kind.starts_with("vnc") || kind.starts_with("none") {
        return Vec::new();
    }
    let mut rules: Vec<Rule> = DISPLAY.iter().map(|path| Rule::new(path, Access::Read)).collect();
    rules.push(Rule::new(GRAPHICS, Access::Device));
    let cookie = std::env::var_os("XAUTHORITY").map(PathBuf::from);
    let cookie = cookie.or_else(|| Some(std::env::home_dir()?.join(".Xauthority")));
    rules.extend(cookie.map(|path| Rule::new(path, Access::Read)));
    rules
}

/// A path among QEMU's words: to be written where that is allowed, else to be read. One that is not there yet is made in a
/// directory of its owner's own; a directory that is shared, a home among them, is not opened for it.
fn named_in_words(path: &Path, policy: &PathPolicy) -> Option<Rule> {
    let may_write = policy.check(path).is_ok();
    let Ok(metadata) = fs::metadata(path) else {
        let parent = path
            .parent()
            .filter(|parent| may_write && is_private(parent, policy))?;
        return Some(Rule::new(parent, Access::Own));
    };
    let kind = metadata.file_type();
    let access = if kind.is_char_device() || kind.is_block_device() {
        Access::Device
    } else if !may_write {
        Access::Read
    } else if kind.is_dir() {
        Access::Own
    } else {
        Access::Write
    };
    Some(Rule::new(path, access))
}

fn is_private(directory: &Path, policy: &PathPolicy) -> bool {
    /// "Others may write".
    const OTHERS_WRITE: u32 = 0o002;
    let is_home = std::env::home_dir().is_some_and(|home| home.starts_with(directory));
    let mode = fs::metadata(directory).map(|metadata| metadata.permissions().mode());
    !is_home && policy.check(directory).is_ok() && mode.is_ok_and(|mode| mode & OTHERS_WRITE == 0)
}

fn listed(paths: &SandboxPaths) -> impl Iterator<Item = Rule> + '_ {
    let read = paths.read.iter().map(|path| Rule::new(path, Access::Read));
    let write = paths.write.iter().map(|path| {
        let is_device = fs::metadata(path).is_ok_and(|metadata| {
            metadata.file_type().is_char_device() || metadata.file_type().is_block_device()
        });
        Rule::new(path, if is_device { Access::Device } else { Access::Own })
    });
    read.chain(write)
}

/// What keeps a kernel from what a spec asks for at least.
pub(crate) fn shortcoming(confinement: &Confinement, level: Level) -> Option<String> {
    if level.reaches(confinement.floor) {
        return None;
    }
    Some(match level.abi() {
        None => "this kernel has no Landlock, or it is switched off".to_owned(),
        Some(abi) => {
            format!("this kernel's Landlock (ABI {abi}) has no rules for TCP ports, which came with ABI 4")
        }
    })
}

/// The path that a complaint of QEMU's is about, if it may be the sandbox that denied it: QEMU was refused what this process,
/// of the same user, is not.
fn denied_path(complaint: &str) -> Option<PathBuf> {
    if !complaint.contains("Permission denied") {
        return None;
    }
    let quoted = complaint.split(['\'', '"', '`', ' ', '=', ',']);
    let mut paths = quoted
        .map(|word| word.trim_end_matches(':'))
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    paths.find(|path| {
        let may = |path: &Path, what| rustix::fs::access(path, what).is_ok();
        let parent = path.parent().unwrap_or(path);
        may(path, rustix::fs::Access::READ_OK) || !path.exists() && may(parent, rustix::fs::Access::WRITE_OK)
    })
}

/// What a person can do about a complaint of QEMU's that the sandbox may be the reason of.
pub(crate) fn hint(complaint: &str) -> Option<String> {
    let port = || {
        let denied = complaint.contains("Failed to bind socket: Permission denied");
        denied.then(|| DENIED_PORT.to_owned())
    };
    denied_path(complaint).as_deref().map(instead_of).or_else(port)
}

/// QEMU's words have no port in them.
const DENIED_PORT: &str = "denied by the sandbox: QEMU listens on the ports of `forwards` and on those in `qemu.args` of the VM file, \
                           and on no others";

fn instead_of(path: &Path) -> String {
    format!(
        "denied by the sandbox: {}; if the VM needs it, add it to the VM file: `sandbox: {{read: [{}]}}`, or `write:`",
        path.display(),
        word(path)
    )
}
