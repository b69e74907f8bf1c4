//! Running helper programs: deadline, empty environment, no input, bounded output, confined, never left behind.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use maqet_process::confine::{self, Access, Confinement, Rule};
use maqet_process::spawn::Spawn;
use maqet_process::{ExitStatus, ProcessError, ProcessHandle, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::error::StorageError;
use crate::place::magic_link;

/// Most that is kept of what a program writes to each stream, bytes; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Most memory a confined program has, bytes: a crafted image cannot make it take the host's. Bounded a moment after its
/// start.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Most of standard error that an error message repeats, bytes.
const WORDS_BYTES_MAX: usize = 1000;

/// What a program did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it wrote.
    pub(crate) stdout: String,
    /// What it complained about.
    pub(crate) stderr: String,
}

impl Outcome {
    /// What it wrote, if it was content.
    pub(crate) fn content(self, program: &Path) -> Result<String, StorageError> {
        if self.status == ExitStatus::Code(0) {
            return Ok(self.stdout);
        }
        Err(StorageError::Tool {
            program: program.to_owned(),
            status: self.status,
            words: end_of(&self.stderr).to_owned(),
        })
    }
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct Tool<'t> {
    pub(crate) program: &'t Path,
    pub(crate) args: Vec<OsString>,
    /// Descriptors with their numbers in the program.
    pub(crate) fds: Vec<(OwnedFd, i32)>,
    /// Time it has.
    pub(crate) limit: Duration,
    /// Processor time it has, whole seconds; past that SIGXCPU ends it. `None` is as much as it wants.
    pub(crate) cpu_seconds: Option<u64>,
    /// What it may do with the files it is handed, and with nothing else: it is confined as far as the kernel can, and its
    /// memory is bounded. `None` for a program that must see the host as QEMU would.
    pub(crate) access: Option<Access>,
}

impl Tool<'_> {
    /// Runs it to its end, whatever that is. Dropping the future ends the program.
    pub(crate) async fn run(self) -> Result<Outcome, StorageError> {
        self.run_hearing(Vec::new(), |_said| ()).await
    }

    /// The same, with files that it may only read, whatever it may do with the others. `heard` gets what the program
    /// writes, as it comes.
    pub(crate) async fn run_hearing(
        self,
        sources: Vec<(OwnedFd, i32)>,
        heard: impl FnMut(&[u8]),
    ) -> Result<Outcome, StorageError> {
        self.follow(sources, heard, |_said| ()).await
    }

    /// The same as [`Self::run`]; `heard` gets what the program complains about, all of it, as it comes.
    pub(crate) async fn run_overhearing(self, heard: impl FnMut(&[u8])) -> Result<Outcome, StorageError> {
        self.follow(Vec::new(), |_said| (), heard).await
    }

    async fn follow(
        self,
        sources: Vec<(OwnedFd, i32)>,
        written: impl FnMut(&[u8]),
        complained: impl FnMut(&[u8]),
    ) -> Result<Outcome, StorageError> {
        let (program, limit) = (self.program, self.limit);
        let (started, stdout, stderr) = self.start(sources)?;
        let work = async {
            let said = read(program, stdout, written);
            let (stdout, stderr) = tokio::try_join!(said, read(program, stderr, complained))?;
            started.0.exited().await.map_err(StorageError::run(program))?;
            let status = started.0.exit_status();
            let gone = ProcessError::Gone { pid: started.0.pid() };
            let status = status.ok_or(gone).map_err(StorageError::run(program))?;
            Ok(Outcome {
                status,
                stdout,
                stderr,
            })
        };
        let program = program.to_owned();
        tokio::time::timeout(limit, work)
            .await
            .map_err(|_| StorageError::Deadline { program, limit })?
    }

    /// Runs it and returns what it wrote, if it was content.
    pub(crate) async fn output(self) -> Result<String, StorageError> {
        let program = self.program;
        self.run().await?.content(program)
    }

    fn start(self, sources: Vec<(OwnedFd, i32)>) -> Result<(Started, OwnedFd, OwnedFd), StorageError> {
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).map_err(StorageError::file("make a pipe for", self.program));
        let ((stdout, stdout_write), (stderr, stderr_write)) = (pipe()?, pipe()?);
        let mut spawn = Spawn::new(self.program);
        spawn.args = self.args;
        spawn.env_clear = true;
        // Each thread of qemu-img would reserve address space of its own, until the bound on memory lets no more begin.
        spawn.env = vec![
            ("LC_ALL".into(), "C".into()),
            ("MALLOC_ARENA_MAX".into(), "1".into()),
        ];
        spawn.workdir = Some("/".into());
        spawn.fds = self.fds;
        spawn.stdout = Some(stdout_write);
        spawn.stderr = Some(stderr_write);
        let handle = match self.access {
            None => {
                spawn.fds.extend(sources);
                spawn.spawn().map(|child| child.handle)
            }
            Some(access) => confined(self.program, spawn, access, sources),
        };
        let started = Started(handle.map_err(StorageError::run(self.program))?);
        if self.access.is_some() {
            let bound = (Resource::As, MEMORY_BYTES_MAX);
            started
                .limit(bound.0, bound.1, bound.1)
                .map_err(StorageError::file("limit", self.program))?;
        }
        if let Some(seconds) = self.cpu_seconds {
            started
                .limit(Resource::Cpu, seconds, seconds + 1)
                .map_err(StorageError::file("limit", self.program))?;
        }
        Ok((started, stdout, stderr))
    }
}

/// Starts a program on a thread that is confined first: what a thread starts is confined as it is. The thread stays as long
/// as the program, so that no program outlives a supervisor that is killed, and works on with nobody who knows of it.
fn confined(
    program: &Path,
    mut spawn: Spawn,
    access: Access,
    sources: Vec<(OwnedFd, i32)>,
) -> Result<ProcessHandle, ProcessError> {
    let mut rules = confine::of_program(program);
    let rule = |access| move |(fd, _): &(OwnedFd, i32)| Rule::new(magic_link(fd), access);
    rules.extend(spawn.fds.iter().map(rule(access)));
    rules.extend(sources.iter().map(rule(Access::Read)));
    spawn.fds.extend(sources);
    let confinement = Confinement {
        rules,
        ..Confinement::default()
    };
    spawn.ends_with_thread = true;
    let (tell, told) = mpsc::channel();
    let work = move || {
        let started = confinement.enforce().and_then(|()| spawn.spawn());
        let started = started.and_then(|child| Ok((child.handle.try_clone()?, child.handle)));
        let (watched, started) = match started {
            Ok((watched, handle)) => (Some(watched), Ok(handle)),
            Err(error) => (None, Err(error)),
        };
        // Whoever does not wait for the answer any more does not want the program either.
        if tell.send(started).is_ok()
            && let Some(watched) = watched
        {
            await_end(&watched);
        }
    };
    std::thread::Builder::new().spawn(work).map_err(confine::failed)?;
    let started = told.recv();
    started.unwrap_or_else(|_panic| Err(confine::failed(std::io::ErrorKind::Other.into())))
}

/// Returns when the program has ended.
fn await_end(program: &ProcessHandle) {
    let mut fds = [PollFd::new(program, PollFlags::IN)];
    while matches!(poll(&mut fds, None), Err(Errno::INTR)) {}
}

/// The end of a complaint, on character boundaries.
pub(crate) fn end_of(text: &str) -> &str {
    let text = text.trim();
    let from = text.len().saturating_sub(WORDS_BYTES_MAX);
    let from = (from..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text.get(from..).unwrap_or(text)
}

async fn read(program: &Path, fd: OwnedFd, mut heard: impl FnMut(&[u8])) -> Result<String, StorageError> {
    let fail = |error| StorageError::file("read the output of", program)(error);
    let mut receiver = Receiver::from_owned_fd(fd).map_err(fail)?;
    let mut kept = Vec::new();
    let mut buffer = vec![0_u8; 8192];
    loop {
        let count = receiver.read(&mut buffer).await.map_err(fail)?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        let said = buffer.get(..count).unwrap_or_default();
        heard(said);
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend(said.iter().take(room));
    }
}

/// A started program, ended and reaped when dropped before its time.
#[derive(Debug)]
struct Started(ProcessHandle);

impl Started {
    /// The number is its own: it is our child and not reaped.
    fn limit(&self, what: Resource, current: u64, maximum: u64) -> rustix::io::Result<()> {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        };
        prlimit(Pid::from_raw(self.0.pid()), what, limit).map(drop)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.0.exit_status().is_some() || self.0.signal(Signal::Kill).is_err() {
            return;
        }
        // A killed helper is gone within a millisecond, unless the disk hangs; then it stays a zombie of ours.
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        if poll(&mut fds, Some(&limit)).is_ok() {
            self.0.exit_status();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str, limit: Duration) -> Tool<'static> {
        Tool {
            program: Path::new("/bin/sh"),
            args: ["-c", script].map(OsString::from).to_vec(),
            fds: Vec::new(),
            limit,
            cpu_seconds: None,
            access: None,
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn output_status_and_complaint_are_told_apart() {
        let outcome = shell("echo out; echo err >&2; read x; env; exit 3", LONG)
            .run()
            .await
            .unwrap();
        assert_eq!(outcome.status, ExitStatus::Code(3));
        assert!(
            outcome.stdout.starts_with("out\n") && outcome.stdout.contains("LC_ALL=C"),
            "{}",
            outcome.stdout
        );
        assert!(!outcome.stdout.contains("HOME="));
        assert_eq!(outcome.stderr, "err\n");
        let error = shell("echo no luck >&2; exit 1", LONG)
            .output()
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "`/bin/sh` failed (exit code 1): no luck");
    }

    #[tokio::test]
    async fn a_flood_is_read_to_its_end() {
        let outcome = shell("head -c 6000000 /dev/zero; echo done >&2", LONG)
            .run()
            .await
            .unwrap();
        assert_eq!(outcome.stdout.len(), OUTPUT_BYTES_MAX);
        assert_eq!(outcome.stderr, "done\n");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let begun = Instant::now();
        let error = shell(
            "trap '' TERM; while :; do read x; done",
            Duration::from_millis(50),
        )
        .run()
        .await;
        assert!(matches!(error, Err(StorageError::Deadline { .. })), "{error:?}");
        assert!(begun.elapsed() < LONG);
    }

    #[tokio::test]
    async fn a_program_that_spins_is_ended_by_its_processor_time() {
        let mut spinning = shell("while :; do :; done", LONG);
        spinning.cpu_seconds = Some(1);
        let outcome = spinning.run().await.unwrap();
        assert_eq!(outcome.status, ExitStatus::Signal(24));
    }

    #[tokio::test]
    async fn a_confined_program_touches_what_it_is_handed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let script = format!(
            "read -r x < /proc/self/fd/3; echo $x; echo more >> /proc/self/fd/3 && echo wrote; \
             read -r x < {} && echo outside; \
             while [ $(ulimit -v) = unlimited ]; do :; done; ulimit -v",
            path.display()
        );
        let confined = confine::Level::of_this_kernel().abi().is_some();
        for access in [Access::Read, Access::Write] {
            std::fs::write(&path, "text").unwrap();
            let handed = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            // The inode is the same, and the name is not what it was handed.
            let other = root.path().join("other");
            std::fs::write(&other, "secret").unwrap();
            let mut tool = shell("", LONG);
            tool.args = ["-c", &script.replace("file", "other")]
                .map(OsString::from)
                .to_vec();
            tool.fds = vec![(handed.into(), 3)];
            tool.access = Some(access);
            let said = tool.run().await.unwrap().stdout;
            assert!(said.starts_with("text\n"), "{said}");
            assert_eq!(
                said.contains("wrote"),
                access == Access::Write || !confined,
                "{said}"
            );
            assert_eq!(said.contains("outside"), !confined, "{said}");
            assert!(said.ends_with("1048576\n"), "{said}");
        }
    }

    #[test]
    fn long_complaints_are_cut_at_a_character() {
        assert_eq!(end_of(" short \n"), "short");
        assert!(end_of(&"ä".repeat(2001)).len() <= WORDS_BYTES_MAX);
    }
}
