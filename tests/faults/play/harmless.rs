//! Nobody else was hit, and nothing lies about.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Running, Sandbox};
use serde_json::Value;

/// Processes with the command lines of a runner and a QEMU of a VM, which are neither.
#[derive(Debug)]
pub(crate) struct Innocents(Vec<Running>);

impl Innocents {
    /// Starts them. The VM must not run, and does not afterwards.
    pub(crate) fn beside(sandbox: &Sandbox, vm: &str, id: &str) -> Self {
        sandbox.maqet(&["start", vm]).expect(0);
        let found = sandbox.processes();
        let lines = found.iter().filter(|process| process.line.contains(id));
        let hidden = sandbox.path().display().to_string();
        let innocents = lines.map(|process| {
            let mut command = Command::new("sh");
            command.args(["-c", "read word"]);
            // Those with the sandbox's directory on their command line would count as its own.
            command.args(process.line.split(' ').filter(|word| !word.contains(&hidden)));
            Running::start(command)
        });
        let innocents = innocents.collect();
        // They carry the id of a launch that is over; with that of a present one `doctor --leaks` would tell of them.
        sandbox.maqet(&["stop", vm]).expect(0);
        Self(innocents)
    }

    /// None of them was touched.
    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        for innocent in &self.0 {
            assert!(
                !innocent.handle().has_exited(),
                "an innocent was hit: {innocent:?}"
            );
        }
    }
}

/// Files that should have gone with the launch, or with the VM.
pub(crate) fn leftovers(sandbox: &Sandbox, id: &str, vm: Option<&Value>) -> Vec<PathBuf> {
    let below = |place: PathBuf| place.join("vms").join(id);
    let (data, runtime) = (below(sandbox.data_dir()), below(sandbox.runtime_dir()));
    match vm {
        None => [data, runtime]
            .into_iter()
            .filter(|place| place.exists())
            .collect(),
        Some(vm) if vm["status"] == "running" => Vec::new(),
        Some(_) => sockets(&runtime),
    }
}

fn sockets(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.map(|entry| entry.path()).collect()
}

/// Whoever is killed while the list is right already may still be on its way out.
#[track_caller]
pub(crate) fn assert_no_leaks(sandbox: &Sandbox) {
    wait::until("`doctor --leaks` finds nothing", PATIENCE, || {
        let looked = sandbox.maqet(&["doctor", "--leaks", "-o", "json"]);
        if looked.code == 0 { Ok(()) } else { Err(looked) }
    });
}
