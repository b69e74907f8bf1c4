//! A world of its own for one test.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use insta::internals::SettingsBindDropGuard;
use maqet_supervisor::guest;
use serde_json::Value;
use tempfile::TempDir;

use crate::leftovers::{self, Leftover};
use crate::program::{Output, Running, built};
use crate::{filters, wait};

/// Variables of the test run that its programs need as well: where to find QEMU, where coverage goes.
const INHERITED: [&str; 4] = ["PATH", "LLVM_PROFILE_FILE", "RUST_BACKTRACE", "LANG"];

/// How long ending processes may take to be gone once everything was stopped.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes of each log that a failed test shows.
const SHOWN_BYTES: usize = 4096;

/// Directories, environment and programs of one test.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    leaves_processes: AtomicBool,
}

impl Sandbox {
    /// An empty world. `MAQET_KEEP_SANDBOX` in the environment keeps its directory for a look afterwards.
    #[expect(
        clippy::new_without_default,
        reason = "it makes directories; that should be seen at the call"
    )]
    pub fn new() -> Self {
        let keep = std::env::var_os("MAQET_KEEP_SANDBOX").is_some();
        let dir = tempfile::Builder::new()
            .prefix("maqet-test-")
            .disable_cleanup(keep)
            .tempdir()
            .unwrap();
        let sandbox = Self {
            dir,
            leaves_processes: AtomicBool::new(false),
        };
        fs::create_dir(sandbox.home()).unwrap();
        fs::write(sandbox.config(), "on_exit: keep\n").unwrap();
        sandbox
    }

    /// Everything of this sandbox is below.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `$HOME`, and the working directory of every program: descriptions and disks go here.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// `MAQET_DATA_DIR`; made by maqet.
    pub fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    /// `MAQET_RUNTIME_DIR`; made by maqet.
    pub fn runtime_dir(&self) -> PathBuf {
        self.path().join("run")
    }

    /// `MAQET_CONFIG`; may be rewritten before a supervisor is started.
    pub fn config(&self) -> PathBuf {
        self.path().join("config.yaml")
    }

    /// Where fail points look for their FIFOs; see `maqet_process::point`.
    pub fn points(&self) -> PathBuf {
        self.path().join("points")
    }

    /// The tiny guest's image.
    pub fn tiny_image(&self) -> PathBuf {
        let path = self.home().join("tiny.bin");
        if !path.exists() {
            guest::write_image(&path).unwrap();
        }
        path
    }

    /// Writes the description `NAME.yaml`; returns its path.
    pub fn write_vm(&self, name: &str, yaml: &str) -> PathBuf {
        let path = self.home().join(format!("{name}.yaml"));
        fs::write(&path, yaml).unwrap();
        path
    }

    /// A program with the environment of this sandbox and nothing else.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(built(program));
        let inherited = INHERITED
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(inherited).current_dir(self.home());
        command.env("HOME", self.home()).env("TMPDIR", self.home());
        command
            .env("MAQET_DATA_DIR", self.data_dir())
            .env("MAQET_RUNTIME_DIR", self.runtime_dir());
        command.env("MAQET_CONFIG", self.config());
        command.env(maqet_process::point::DIRECTORY, self.points());
        command.env("MAQET_SUPERVISOR_BIN", built("maqet-supervisor-under-test"));
        command.env("MAQET_RUNNER_BIN", built("maqet-runner-under-test"));
        command
    }

    /// Starts `maqet` with these words.
    #[track_caller]
    pub fn spawn(&self, args: &[&str]) -> Running {
        let mut command = self.command("maqet-under-test");
        command.args(args);
        Running::start(command)
    }

    /// Runs `maqet` with these words to its end.
    #[track_caller]
    pub fn maqet(&self, args: &[&str]) -> Output {
        self.spawn(args).output()
    }

    /// Runs `maqet` with these words and `-o json`; it must succeed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().chain(&["-o", "json"]).copied().collect();
        self.maqet(&args).expect(0).json()
    }

    /// `maqet status VM`.
    #[track_caller]
    pub fn status(&self, vm: &str) -> Value {
        self.json(&["status", vm])
    }

    /// Starts a supervisor in the foreground, as an operator would, and returns once it answers.
    #[track_caller]
    pub fn supervisor(&self) -> Running {
        let running = Running::start(self.command("maqet-supervisor-under-test"));
        wait::until("the supervisor answers", wait::PATIENCE, || {
            assert!(
                !running.handle().has_exited(),
                "the supervisor ended: {}",
                running.stderr()
            );
            let output = self.maqet(&["supervisor", "status", "--no-autostart"]);
            if output.code == 0 { Ok(()) } else { Err(output) }
        });
        running
    }

    /// Every process that belongs to this sandbox.
    pub fn processes(&self) -> Vec<Leftover> {
        leftovers::find(self.path())
    }

    /// This test breaks things so badly that processes may stay; they are ended without a word.
    pub fn leaves_processes(&self) {
        self.leaves_processes.store(true, Ordering::Relaxed);
    }

    /// Binds the snapshot filters for as long as the guard lives.
    pub fn filters(&self) -> SettingsBindDropGuard {
        filters::settings(self.path()).bind_to_scope()
    }

    /// Text without what differs between two runs.
    pub fn redact(&self, text: &str) -> String {
        filters::redact(text, self.path())
    }

    /// Stops everything the way a person would. Returns what went wrong.
    fn shut_down(&self) -> Vec<String> {
        if !self.data_dir().exists() {
            return Vec::new();
        }
        let verbs: [&[&str]; 2] = [&["rm", "--all", "--force", "--yes"], &["supervisor", "stop"]];
        let outputs = verbs.iter().map(|verb| self.maqet(verb));
        outputs
            .filter(|output| output.code != 0)
            .map(|output| format!("{output:#?}"))
            .collect()
    }

    /// The ends of all logs, for the report of a failed test.
    pub fn logs(&self) -> String {
        let mut pending = vec![self.data_dir()];
        let mut text = String::new();
        while let Some(place) = pending.pop() {
            if place.extension().is_some_and(|extension| extension == "log") {
                text.extend(["--- ", &place.display().to_string(), "\n", &tail(&place), "\n"]);
            }
            let entries = fs::read_dir(place).into_iter().flatten();
            pending.extend(entries.flatten().map(|entry| entry.path()));
        }
        text
    }
}

fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = bytes.len().saturating_sub(SHOWN_BYTES);
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            // The report is best effort; the test has failed anyway.
            drop(std::io::stderr().write_all(self.logs().as_bytes()));
        }
        let tolerated = failing || self.leaves_processes.load(Ordering::Relaxed);
        let (mut trouble, grace) = if tolerated {
            (Vec::new(), Duration::ZERO)
        } else {
            (self.shut_down(), GRACE)
        };
        let left = leftovers::after(self.path(), grace);
        trouble.extend(left.iter().map(|left| format!("left behind: {left}")));
        let immortal = leftovers::end(self.path(), left);
        leftovers::unmount(self.path());
        trouble.extend(immortal.iter().map(|left| format!("cannot be ended: {left}")));
        assert!(
            tolerated || trouble.is_empty(),
            "the sandbox did not end cleanly:\n{}",
            trouble.join("\n")
        );
    }
}
