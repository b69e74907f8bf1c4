//! Confinement by Landlock: from some moment on, a process touches nothing but what is listed.
//!
//! A restriction holds for the calling thread, for every process it starts and every program these become; nobody can lift
//! it again, and it needs no privilege. What is open already stays usable. Older kernels know fewer restrictions, which
//! [`Level`] says: what a [`Floor`] asks for and the kernel cannot do is an error, all else is done as far as possible.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde::{Deserialize, Serialize};

use crate::error::ProcessError;
use crate::{kernel, point};

/// The newest Landlock ABI whose restrictions are asked for: files, device controls, TCP, abstract sockets and signals.
const ABI_KNOWN: ABI = ABI::V6;

/// Its number.
const ABI_NUMBER: u32 = 6;

/// Programs, libraries, firmware, keymaps.
const PROGRAMS: [&str; 8] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
];

/// What the dynamic linker and the C library read before a program begins.
const LINKER: [&str; 4] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/dev/random",
    "/dev/urandom",
];

/// Devices that lead nowhere.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/zero"];

/// Beside a program that is not the system's: where it keeps its libraries and data.
const BESIDE: [&str; 5] = ["../lib", "../lib64", "../libexec", "../share", "pc-bios"];

/// What a program needs to run at all.
pub fn of_program(program: &Path) -> Vec<Rule> {
    let of = |paths: &[&str], access| {
        paths
            .iter()
            .map(move |path| Rule::new(path, access))
            .collect::<Vec<_>>()
    };
    let mut rules = of(&PROGRAMS, Access::Execute);
    rules.extend(of(&LINKER, Access::Read));
    rules.extend(of(&DEVICES, Access::Device));
    if !PROGRAMS.iter().any(|tree| program.starts_with(tree)) {
        rules.push(Rule::new(program, Access::Execute));
        let beside = program
            .parent()
            .into_iter()
            .flat_map(|home| BESIDE.map(|name| home.join(name)));
        rules.extend(beside.map(|path| Rule::new(path, Access::Execute)));
    }
    rules
}

/// What may be done below a path, or to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Files and directories are read.
    Read,
    /// The same, and programs are run.
    Execute,
    /// Files that are there are read, written and cut.
    Write,
    /// Everything, devices aside: files, sockets and directories come and go.
    Own,
    /// Devices are read, written and controlled.
    Device,
}

/// One thing that may be touched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// A file, or a directory with everything below it. Symbolic links are followed when the rule is made. One that is
    /// not there is not made: what is not there cannot be touched.
    pub path: PathBuf,
    /// What may be done with it.
    pub access: Access,
}

/// The least that must be achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Floor {
    /// Nothing: as much as this kernel can do.
    #[default]
    Nothing,
    /// Files.
    Files,
    /// Files, and the TCP ports that are listened on.
    Network,
}

/// What a process may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The least that must be achieved.
    pub floor: Floor,
    /// Files and directories.
    pub rules: Vec<Rule>,
    /// TCP ports it may listen on.
    pub tcp_ports: Vec<u16>,
}

/// What a kernel's Landlock can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u32);

impl Level {
    /// What this kernel can do, of what is asked for here.
    pub fn of_this_kernel() -> Self {
        Self(kernel::landlock_abi().unwrap_or(0).min(ABI_NUMBER))
    }

    /// The ABI's number: 1 files, 2 moving between directories, 3 truncation, 4 TCP, 5 device controls, 6 abstract sockets
    /// and signals. `None` when nothing is confined.
    pub fn abi(self) -> Option<u32> {
        Some(self.0).filter(|abi| *abi > 0)
    }

    /// Whether it can do what is asked for at least.
    pub fn reaches(self, floor: Floor) -> bool {
        self.0
            >= match floor {
                Floor::Nothing => 0,
                Floor::Files => 1,
                Floor::Network => 4,
            }
    }
}

impl Confinement {
    /// Touches nothing.
    pub fn at_least(floor: Floor) -> Self {
        Self {
            floor,
            ..Self::default()
        }
    }

    /// As one word of a command line.
    pub fn to_word(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads [`to_word`](Self::to_word).
    ///
    /// # Errors
    /// [`ProcessError::GateArgument`] for anything else.
    pub fn parse(word: &[u8]) -> Result<Self, ProcessError> {
        serde_json::from_slice(word).map_err(|_| ProcessError::GateArgument {
            word: String::from_utf8_lossy(word).into_owned(),
        })
    }

    /// Confines the calling thread, and with it all it starts.
    ///
    /// # Errors
    /// [`ProcessError::Unconfined`] when the kernel does not reach the floor; [`ProcessError::Call`] when it refuses.
    pub fn enforce(&self) -> Result<(), ProcessError> {
        if !Level::of_this_kernel().reaches(self.floor) {
            return Err(ProcessError::Unconfined);
        }
        if Level::of_this_kernel().abi().is_none() {
            return Ok(());
        }
        self.restrict().map_err(io::Error::other).map_err(failed)
    }

    fn restrict(&self) -> Result<(), RulesetError> {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI_KNOWN))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(ABI_KNOWN))?;
        let mut created = ruleset.create()?;
        let held = point::place().map(|place| Rule::new(place, Access::Read));
        for rule in self.rules.iter().chain(&held) {
            if let Some((fd, access)) = rule.opened() {
                created = created.add_rule(PathBeneath::new(fd, access))?;
            }
        }
        for port in &self.tcp_ports {
            created = created.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
        }
        created.restrict_self().map(drop)
    }
}

/// A process that cannot be confined.
pub fn failed(error: io::Error) -> ProcessError {
    ProcessError::call("confine by Landlock")(error)
}

impl Rule {
    /// A rule.
    pub fn new(path: impl Into<PathBuf>, access: Access) -> Self {
        Self {
            path: path.into(),
            access,
        }
    }

    /// A handle on what it names, and the rights that such a thing can have.
    fn opened(&self) -> Option<(OwnedFd, BitFlags<AccessFs>)> {
        let fd = openat(CWD, &self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let kind = FileType::from_raw_mode(fstat(&fd).ok()?.st_mode);
        let access = rights(self.access);
        let is_directory = kind == FileType::Directory;
        Some((
            fd,
            if is_directory {
                access
            } else {
                access & AccessFs::from_file(ABI_KNOWN)
            },
        ))
    }
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read | AccessFs::WriteFile | AccessFs::Truncate;
    match access {
        Access::Read => read,
        Access::Execute => read | AccessFs::Execute,
        Access::Write => write,
        Access::Own => {
            let made = AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::MakeSock | AccessFs::MakeFifo;
            let gone = AccessFs::RemoveFile | AccessFs::RemoveDir;
            write | made | gone | AccessFs::MakeSym | AccessFs::Refer
        }
        Access::Device => write | AccessFs::IoctlDev,
    }
}
