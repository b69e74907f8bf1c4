//! What a QEMU program can do, in its own words.
//!
//! Asked once per file: the answers are kept until the program is replaced.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::binary::{Binary, FileVersion};
use crate::error::StorageError;
use crate::tool::Tool;

/// Time QEMU has for each question; it takes about 50 ms.
const ASK_LIMIT: Duration = Duration::from_secs(20);

/// One machine type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name, for example `q35`.
    pub name: String,
    /// What QEMU says about it, for example `Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)`.
    pub description: String,
    /// Whether QEMU takes it when none is named.
    pub is_default: bool,
}

/// What one QEMU program can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The first line of `-help`, for example `QEMU emulator version 7.2.22`.
    pub version: String,
    machines: Vec<Machine>,
    accels: Vec<String>,
    options: Vec<String>,
}

impl Capabilities {
    /// Its machine types.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Whether it has a machine type of that name.
    pub fn has_machine(&self, name: &str) -> bool {
        self.machines.iter().any(|machine| machine.name == name)
    }

    /// Accelerators it was built with, for example `tcg` and `kvm`; says nothing about this host.
    pub fn accels(&self) -> &[String] {
        &self.accels
    }

    /// Whether it knows a command line option, written `-name` or `--name`.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.iter().any(|known| known == bare(option))
    }

    fn read(machines: &str, accels: &str, help: &str) -> Self {
        Self {
            version: help.lines().next().unwrap_or_default().trim().to_owned(),
            machines: machines.lines().skip(1).filter_map(read_machine).collect(),
            accels: accels
                .lines()
                .skip(1)
                .map(|line| line.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
            options: help.lines().flat_map(read_options).collect(),
        }
    }
}

/// `q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)`
fn read_machine(line: &str) -> Option<Machine> {
    let (name, description) = line.split_once(char::is_whitespace)?;
    let description = description.trim();
    (!name.is_empty()).then(|| Machine {
        name: name.to_owned(),
        description: description.to_owned(),
        is_default: description.ends_with("(default)"),
    })
}

/// Options begin in the first column: `-h or -help     display…`, `-fda/-fdb file  …`, `--preconfig     …`.
fn read_options(line: &str) -> Vec<String> {
    if !line.starts_with('-') {
        return Vec::new();
    }
    let mut words = line.split_whitespace();
    let mut options: Vec<String> = words
        .next()
        .into_iter()
        .flat_map(|word| word.split('/'))
        .map(owned_bare)
        .collect();
    while let (Some("or"), Some(other)) = (words.next(), words.next()) {
        options.push(owned_bare(other));
    }
    options
}

/// QEMU takes one dash or two.
fn bare(option: &str) -> &str {
    option
        .strip_prefix("--")
        .or_else(|| option.strip_prefix('-'))
        .unwrap_or(option)
}

fn owned_bare(option: &str) -> String {
    bare(option).to_owned()
}

/// The answers so far. Share one per process.
#[derive(Debug, Default)]
pub struct Probes {
    answers: Mutex<HashMap<PathBuf, Slot>>,
}

#[derive(Clone, Debug)]
struct Slot {
    version: FileVersion,
    answer: Arc<OnceCell<Arc<Capabilities>>>,
}

impl Probes {
    /// Nobody asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a QEMU program can do. Simultaneous callers cause one round of questions; failures are not kept.
    ///
    /// # Errors
    /// [`StorageError::Run`], [`StorageError::Tool`] or [`StorageError::Deadline`] when the program fails;
    /// [`StorageError::Answer`] when it does not answer as a QEMU does.
    pub async fn of(&self, binary: &Binary) -> Result<Arc<Capabilities>, StorageError> {
        let answer = self.slot(binary);
        answer.get_or_try_init(|| ask(binary)).await.cloned()
    }

    fn slot(&self, binary: &Binary) -> Arc<OnceCell<Arc<Capabilities>>> {
        let fresh = || Slot {
            version: binary.version,
            answer: Arc::default(),
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = answers.entry(binary.path.clone()).or_insert_with(fresh);
        if slot.version != binary.version {
            *slot = fresh();
        }
        Arc::clone(&slot.answer)
    }
}

async fn ask(binary: &Binary) -> Result<Arc<Capabilities>, StorageError> {
    let question = |words: &[&str]| Tool {
        program: &binary.path,
        args: words.iter().map(OsString::from).collect(),
        fds: Vec::new(),
        limit: ASK_LIMIT,
        cpu_seconds: None,
        access: None,
    };
    let (machines, accels, help) = tokio::try_join!(
        question(&["-machine", "help"]).output(),
        question(&["-accel", "help"]).output(),
        question(&["-help"]).output(),
    )?;
    let read = Capabilities::read(&machines, &accels, &help);
    if read.machines.is_empty() || !read.has_option("-machine") {
        return Err(StorageError::Answer {
            program: binary.path.clone(),
            reason: "it is not a QEMU system emulator".to_owned(),
        });
    }
    Ok(Arc::new(read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::Binaries;

    #[tokio::test]
    async fn the_installed_qemu_tells_what_it_can() {
        let binary = Binaries::new().lookup("qemu-system-x86_64").unwrap();
        let probes = Probes::new();
        let (one, two) = tokio::join!(probes.of(&binary), probes.of(&binary));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(Arc::ptr_eq(&one, &two), "asked twice");
        for machine in ["none", "q35", "pc"] {
            assert!(one.has_machine(machine), "{machine}");
        }
        assert!(!one.has_machine("q36") && !one.has_machine("Supported"));
        assert_eq!(
            one.machines().iter().filter(|machine| machine.is_default).count(),
            1
        );
        assert!(one.accels().iter().any(|accel| accel == "tcg"));
        for option in [
            "-smp",
            "--smp",
            "-help",
            "-h",
            "-fdb",
            "-sandbox",
            "-add-fd",
            "--preconfig",
            "-display",
        ] {
            assert!(one.has_option(option), "{option}");
        }
        for option in ["-sm", "-foo", "-", "", "-or"] {
            assert!(!one.has_option(option), "{option}");
        }
        assert!(one.version.contains("version"), "{}", one.version);
    }

    #[tokio::test]
    async fn another_program_is_not_taken_for_qemu() {
        let binaries = Binaries::new();
        let probes = Probes::new();
        for name in ["true", "false"] {
            let binary = binaries.lookup(name).unwrap();
            assert!(probes.of(&binary).await.is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_replaced_program_is_asked_again() {
        let binary = Binaries::new().lookup("qemu-system-x86_64").unwrap();
        let probes = Probes::new();
        let old = probes.of(&binary).await.unwrap();
        let mut newer = binary.clone();
        newer.version.modified_ns += 1;
        let new = probes.of(&newer).await.unwrap();
        assert!(!Arc::ptr_eq(&old, &new));
        assert_eq!(old, new);
    }
}
