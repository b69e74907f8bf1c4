//! Whether KVM really runs a guest here.
//!
//! `/dev/kvm` that opens proves little: nested or emulated KVM may start a virtual CPU, run 16-bit code, and then
//! hang for ever in 64-bit mode, where every modern kernel lives. So a guest of 300 bytes is run: it goes through
//! protected and long mode, paging, SSE2 and an exception, and ends QEMU with an exit code that nothing else gives.

mod guest;
mod memory;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use maqet_process::ExitStatus;
use memory::Memory;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::binary::{Binary, FileVersion};
use crate::error::StorageError;
use crate::probe::Probes;
use crate::tool::{Outcome, Tool, end_of};

/// Time the guest has at most, however busy the host is; it takes 0.1 s where KVM works.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// Processor time it has, seconds: a guest that hangs usually spins, and that shows sooner and for sure.
const RUN_CPU_SECONDS: u64 = 1;
/// What the kernel ends a process with that has used up its processor time.
const SIGXCPU: ExitStatus = ExitStatus::Signal(24);
/// The device that has to be there.
const DEVICE: &str = "/dev/kvm";
/// Number of the firmware image, or of the monitor, in QEMU.
const INPUT_NUMBER: i32 = 3;

/// Why KVM cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum KvmTrouble {
    /// The host has no KVM.
    #[error("there is no /dev/kvm")]
    NoDevice,
    /// We may not use it.
    #[error("/dev/kvm cannot be opened: {reason}")]
    NoAccess {
        /// The kernel's answer.
        reason: String,
    },
    /// This QEMU cannot use it.
    #[error("`{}` was built without kvm", program.display())]
    NotBuiltIn {
        /// The program.
        program: PathBuf,
    },
    /// A guest started and never arrived.
    #[error("a test guest hangs under kvm")]
    Hangs,
    /// QEMU gave up.
    #[error("a test guest does not run under kvm ({status}){}", colon(words))]
    Fails {
        /// How QEMU ended.
        status: ExitStatus,
        /// The end of what it wrote.
        words: String,
    },
    /// The test itself could not be made.
    #[error("kvm could not be tested: {reason}")]
    Untested {
        /// What went wrong.
        reason: String,
    },
}

fn colon(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!(": {words}")
    }
}

/// The verdicts so far, one per QEMU program. Share one per process.
///
/// A verdict holds for a boot and a program file; it may be kept in a file for processes to come. A missing device
/// or missing permission is looked for each time (a user may join the group), and so is what could not be tested.
#[derive(Debug, Default)]
pub struct Kvm {
    verdicts: Mutex<HashMap<PathBuf, Slot>>,
    memory: Option<Memory>,
}

type Verdict = Result<(), KvmTrouble>;

#[derive(Clone, Debug)]
struct Slot {
    version: FileVersion,
    verdict: Arc<OnceCell<Verdict>>,
}

impl Kvm {
    /// Nothing tested yet; verdicts are forgotten with this value.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps verdicts in this file, to be found by the next process of the same boot. Its directory must exist.
    pub fn with_file(path: impl Into<PathBuf>) -> Self {
        Self {
            memory: Some(Memory::new(path.into())),
            ..Self::default()
        }
    }

    /// Whether this QEMU runs guests under KVM here. The first call per program takes 0.1 s where it does, a
    /// second where guests spin, and up to 10 s where they sleep for ever.
    ///
    /// # Errors
    /// [`KvmTrouble`], fit to be shown as the reason for falling back to TCG.
    pub async fn usable(&self, binary: &Binary, probes: &Probes) -> Result<(), KvmTrouble> {
        check_device(Path::new(DEVICE))?;
        let verdict = self.slot(binary);
        verdict
            .get_or_try_init(|| self.judged(binary, probes))
            .await?
            .clone()
    }

    /// The verdict of an earlier process or of a test now; `Err` is not kept.
    async fn judged(&self, binary: &Binary, probes: &Probes) -> Result<Verdict, KvmTrouble> {
        if let Some(verdict) = self.memory.as_ref().and_then(|memory| memory.recall(binary)) {
            return Ok(verdict);
        }
        match test(binary, probes).await {
            Err(trouble @ KvmTrouble::Untested { .. }) => Err(trouble),
            verdict => {
                if let Some(memory) = &self.memory {
                    memory.keep(binary, &verdict);
                }
                Ok(verdict)
            }
        }
    }

    fn slot(&self, binary: &Binary) -> Arc<OnceCell<Result<(), KvmTrouble>>> {
        let fresh = || Slot {
            version: binary.version,
            verdict: Arc::default(),
        };
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = verdicts.entry(binary.path.clone()).or_insert_with(fresh);
        if slot.version != binary.version {
            *slot = fresh();
        }
        Arc::clone(&slot.verdict)
    }
}

fn check_device(path: &Path) -> Result<(), KvmTrouble> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KvmTrouble::NoDevice),
        Err(error) => Err(KvmTrouble::NoAccess {
            reason: error.to_string(),
        }),
    }
}

async fn test(binary: &Binary, probes: &Probes) -> Result<(), KvmTrouble> {
    let untested = |error: StorageError| KvmTrouble::Untested {
        reason: error.to_string(),
    };
    let capabilities = probes.of(binary).await.map_err(untested)?;
    if !capabilities.accels().iter().any(|accel| accel == "kvm") {
        return Err(KvmTrouble::NotBuiltIn {
            program: binary.path.clone(),
        });
    }
    // The test guest is made for PCs. Elsewhere it has to be enough that QEMU can set up KVM and end again.
    if capabilities.has_machine("pc") {
        judge(run_guest(binary, "kvm").await, guest::EXIT_CODE)
    } else {
        judge(run_empty(binary, "kvm").await, 0)
    }
}

fn judge(outcome: Result<Outcome, StorageError>, expected: i32) -> Result<(), KvmTrouble> {
    match outcome {
        Ok(outcome) if outcome.status == ExitStatus::Code(expected) => Ok(()),
        Ok(outcome) if outcome.status == SIGXCPU => Err(KvmTrouble::Hangs),
        Ok(outcome) => Err(KvmTrouble::Fails {
            status: outcome.status,
            words: end_of(&outcome.stderr).to_owned(),
        }),
        Err(StorageError::Deadline { .. }) => Err(KvmTrouble::Hangs),
        Err(error) => Err(KvmTrouble::Untested {
            reason: error.to_string(),
        }),
    }
}

/// Runs the test guest to its end.
async fn run_guest(binary: &Binary, accel: &str) -> Result<Outcome, StorageError> {
    let firmware = guest::image().map_err(StorageError::file("write the test guest for", &binary.path))?;
    let firmware_name = format!("/proc/self/fd/{INPUT_NUMBER}");
    let debug_exit = format!("isa-debug-exit,iobase={:#x},iosize=1", guest::EXIT_PORT);
    let words = [
        "-m",
        "2",
        "-no-reboot",
        "-bios",
        &firmware_name,
        "-device",
        &debug_exit,
    ];
    tool(binary, "pc", accel, &words, vec![(firmware, INPUT_NUMBER)])
        .run()
        .await
}

/// Starts QEMU without a machine, and has it quit at once.
async fn run_empty(binary: &Binary, accel: &str) -> Result<Outcome, StorageError> {
    let fail = |error| StorageError::file("talk to", &binary.path)(error);
    let (mut ours, theirs) = UnixStream::pair().map_err(fail)?;
    ours.write_all(b"quit\n").map_err(fail)?;
    let monitor = format!("socket,id=monitor,fd={INPUT_NUMBER}");
    let words = ["-S", "-chardev", &monitor, "-mon", "monitor,mode=readline"];
    tool(binary, "none", accel, &words, vec![(theirs.into(), INPUT_NUMBER)])
        .run()
        .await
}

fn tool<'b>(
    binary: &'b Binary,
    machine: &str,
    accel: &str,
    words: &[&str],
    fds: Vec<(OwnedFd, i32)>,
) -> Tool<'b> {
    let common = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        machine,
        "-accel",
        accel,
    ];
    Tool {
        program: &binary.path,
        args: common.iter().chain(words).map(OsString::from).collect(),
        fds,
        limit: RUN_LIMIT,
        cpu_seconds: Some(RUN_CPU_SECONDS),
        access: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::Binaries;

    fn qemu() -> Binary {
        Binaries::new().lookup("qemu-system-x86_64").unwrap()
    }

    #[tokio::test]
    async fn the_test_guest_arrives_where_guests_run() {
        let outcome = run_guest(&qemu(), "tcg").await.unwrap();
        assert_eq!(outcome.status, ExitStatus::Code(guest::EXIT_CODE), "{outcome:?}");
        let outcome = run_empty(&qemu(), "tcg").await.unwrap();
        assert_eq!(outcome.status, ExitStatus::Code(0), "{outcome:?}");
    }

    #[tokio::test]
    async fn the_verdict_is_that_of_a_run_and_is_kept() {
        let (binary, probes, kvm) = (qemu(), Probes::new(), Kvm::new());
        let (one, two) = tokio::join!(kvm.usable(&binary, &probes), kvm.usable(&binary, &probes));
        assert_eq!(one, two);
        if check_device(Path::new(DEVICE)).is_ok() {
            assert_eq!(one, judge(run_guest(&binary, "kvm").await, guest::EXIT_CODE));
        }
        if let Err(trouble) = &one {
            println!("here: {trouble}");
        }
    }

    #[test]
    fn every_outcome_has_its_words() {
        let outcome = |status| {
            Ok(Outcome {
                status,
                stdout: String::new(),
                stderr: "failed to set MSR 0x10a\n".to_owned(),
            })
        };
        assert_eq!(judge(outcome(ExitStatus::Code(85)), 85), Ok(()));
        let fails = judge(outcome(ExitStatus::Signal(6)), 85).unwrap_err();
        assert_eq!(
            fails.to_string(),
            "a test guest does not run under kvm (signal 6): failed to set MSR 0x10a"
        );
        assert_eq!(judge(outcome(SIGXCPU), 85), Err(KvmTrouble::Hangs));
        let program = PathBuf::from("/usr/bin/qemu");
        let late = StorageError::Deadline {
            program,
            limit: RUN_LIMIT,
        };
        assert_eq!(judge(Err(late), 85), Err(KvmTrouble::Hangs));
    }

    #[test]
    fn a_missing_or_forbidden_device_is_told_apart() {
        assert_eq!(
            check_device(Path::new("/nonexistent/kvm")),
            Err(KvmTrouble::NoDevice)
        );
        let refused = check_device(Path::new("/proc/self"));
        assert!(matches!(refused, Err(KvmTrouble::NoAccess { .. })), "{refused:?}");
    }
}
