//! Programs under test, run and watched.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use maqet_process::{ProcessHandle, Signal};
use serde_json::Value;

use crate::wait;

/// Path of a program of this package: `maqet-under-test`, `maqet-supervisor-under-test`, `maqet-runner-under-test`,
/// `fake_qemu`. Cargo builds them before the tests and puts them one directory above the test itself.
///
/// `MAQET_TEST_BIN` in the environment names a directory with the programs as they are delivered, to be used instead.
pub fn built(name: &str) -> PathBuf {
    let delivered = std::env::var_os("MAQET_TEST_BIN").zip(name.strip_suffix("-under-test"));
    if let Some((directory, plain)) = delivered {
        return PathBuf::from(directory).join(plain);
    }
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().find(|dir| dir.join(name).is_file());
    let profile = profile.unwrap_or_else(|| panic!("`{name}` was not built beside `{}`", test.display()));
    profile.join(name)
}

/// What a program left when it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; 128 + number for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Output {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON on stdout ({error}): {self:#?}"))
    }

    /// The object under `error` of the JSON on standard error.
    pub fn error(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        let parsed: Result<Value, _> = serde_json::from_str(last);
        let mut error = parsed.unwrap_or_else(|error| panic!("no JSON on stderr ({error}): {self:#?}"));
        error
            .get_mut("error")
            .map_or_else(|| panic!("no error on stderr: {self:#?}"), Value::take)
    }

    /// Fails the test unless the exit code is this one.
    #[track_caller]
    #[expect(
        clippy::return_self_not_must_use,
        reason = "the check is often all that is wanted"
    )]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

/// A program on its way. Ended for good when dropped.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    handle: ProcessHandle,
    stdout: File,
    stderr: File,
    begun: Instant,
}

impl Running {
    /// Starts it. Its output goes to files: whoever inherits them cannot keep the test waiting.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdin(Stdio::piped());
        command
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap());
        let line = format!("{command:?}");
        let begun = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {line}: {error}"));
        let pid = i32::try_from(child.id()).unwrap();
        let handle = ProcessHandle::open(pid).unwrap().unwrap();
        Self {
            line,
            child,
            handle,
            stdout,
            stderr,
            begun,
        }
    }

    /// The process.
    pub fn handle(&self) -> &ProcessHandle {
        &self.handle
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Writes to its standard input.
    pub fn type_in(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits until its standard output contains `text`; returns all of it.
    #[track_caller]
    pub fn says(&self, text: &str) -> String {
        wait::until(&format!("`{text}` from {}", self.line), wait::PATIENCE, || {
            let stdout = self.stdout();
            if stdout.contains(text) {
                Ok(stdout)
            } else {
                Err((stdout, self.stderr()))
            }
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.handle.signal(signal).map(|_sent| ()).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn output(mut self) -> Output {
        self.close_stdin();
        let in_time = wait::exited(&self.handle, wait::PATIENCE.saturating_mul(2));
        assert!(
            in_time,
            "still running: {}\n{}\n{}",
            self.line,
            self.stdout(),
            self.stderr()
        );
        let took = self.begun.elapsed();
        let status = self.child.wait().unwrap();
        let signal = || status.signal().map(|number| number.saturating_add(128));
        Output {
            line: self.line.clone(),
            code: status.code().or_else(signal).unwrap(),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.handle.has_exited() {
            self.signal(Signal::Kill);
        }
        drop(self.child.wait());
    }
}

/// All of a file that somebody else is writing: the descriptor and its position are shared with the writer, so
/// reading must not move it.
fn text(file: &File) -> String {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let mut own = File::open(path).unwrap();
    own.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    own.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
