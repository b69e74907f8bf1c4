//! The gate's own side: what it was told, and what it does before it becomes the program.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};
use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::{BACKLOG, GO, GO_NUMBER, GateOrder, LISTENING, PASSED_NUMBER_MIN, REPORT_NUMBER};
use crate::confine::Confinement;
use crate::enclosure::Enclosure;
use crate::error::ProcessError;
use crate::point::{Point, pass};
use crate::{kernel, signal, socket, spawn};

/// What a gate is told on its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateArgs {
    /// Numbers of the sockets to listen on and pass on.
    pub listen: Vec<i32>,
    /// Numbers of the other descriptors to pass on.
    pub pass: Vec<i32>,
    /// One of those becomes the program's own place instead of being passed on.
    pub enclosure: Option<Enclosure>,
    /// What the program may touch; `None` confines nothing.
    pub confinement: Option<Confinement>,
    /// The program to become.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// How a gate ended without becoming its program.
#[derive(Debug)]
#[must_use]
pub enum GateEnd {
    /// It was not wanted any more: exit silently with 0.
    Dropped,
    /// It could not; said so on the report pipe and on standard error.
    Failed(ProcessError),
}

impl GateEnd {
    /// The exit code for it: 0, 127 for a missing program, 126 for one that cannot run, 125 for anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Dropped => 0,
            Self::Failed(ProcessError::Spawn { source, .. }) => {
                if source.kind() == std::io::ErrorKind::NotFound {
                    127
                } else {
                    126
                }
            }
            Self::Failed(_) => 125,
        }
    }
}

impl GateArgs {
    pub(super) fn of(order: &GateOrder) -> Self {
        let numbers = |fds: &[(OwnedFd, i32)]| fds.iter().map(|(_, number)| *number).collect();
        Self {
            listen: numbers(&order.listen),
            pass: numbers(&order.pass),
            enclosure: order.enclosure,
            confinement: order.confinement.clone(),
            program: order.program.clone(),
            args: order.args.clone(),
        }
    }

    /// The words after `gate` on the gate's command line.
    pub fn to_words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        for (flag, numbers) in [("--listen=", &self.listen), ("--pass=", &self.pass)] {
            words.extend(numbers.iter().map(|number| format!("{flag}{number}").into()));
        }
        if let Some(enclosure) = self.enclosure {
            let flag = if enclosure.readonly {
                ENCLOSE_READONLY
            } else {
                ENCLOSE
            };
            words.push(format!("{flag}{}", enclosure.directory).into());
        }
        if let Some(confinement) = &self.confinement {
            words.push(format!("--confinement={}", confinement.to_word()).into());
        }
        words.push("--".into());
        words.push(self.program.clone().into());
        words.extend(self.args.iter().cloned());
        words
    }

    /// Reads the words after `gate`.
    ///
    /// # Errors
    /// [`ProcessError::GateArgument`] for a word that [`to_words`](Self::to_words) does not make.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, ProcessError> {
        let mut words = words.into_iter();
        let (mut listen, mut pass) = (Vec::new(), Vec::new());
        let (mut enclosure, mut confinement) = (None, None);
        loop {
            let word = words
                .next()
                .ok_or(ProcessError::GateArgument { word: String::new() })?;
            let bytes = word.as_bytes();
            if bytes == b"--" {
                break;
            } else if let Some(value) = bytes.strip_prefix(b"--listen=") {
                listen.push(number(value)?);
            } else if let Some(value) = bytes.strip_prefix(b"--pass=") {
                pass.push(number(value)?);
            } else if let Some(found) = enclosed(bytes)? {
                enclosure = Some(found);
            } else if let Some(value) = bytes.strip_prefix(b"--confinement=") {
                confinement = Some(Confinement::parse(value)?);
            } else {
                let word = word.to_string_lossy().into_owned();
                return Err(ProcessError::GateArgument { word });
            }
        }
        let program = words
            .next()
            .ok_or(ProcessError::GateArgument { word: String::new() })?;
        Ok(Self {
            listen,
            pass,
            enclosure,
            confinement,
            program: program.into(),
            args: words.collect(),
        })
    }
}

/// The flag of an enclosure.
const ENCLOSE: &str = "--enclose=";
/// That of one that is read-only.
const ENCLOSE_READONLY: &str = "--enclose-readonly=";

/// Reads the word of an enclosure; `None` when it is another.
fn enclosed(word: &[u8]) -> Result<Option<Enclosure>, ProcessError> {
    for (flag, readonly) in [(ENCLOSE, false), (ENCLOSE_READONLY, true)] {
        if let Some(value) = word.strip_prefix(flag.as_bytes()) {
            let directory = number(value)?;
            return Ok(Some(Enclosure { directory, readonly }));
        }
    }
    Ok(None)
}

fn number(value: &[u8]) -> Result<i32, ProcessError> {
    let text = String::from_utf8_lossy(value);
    let number = text.parse().ok().filter(|number| *number >= PASSED_NUMBER_MIN);
    number.ok_or_else(|| ProcessError::GateArgument {
        word: text.into_owned(),
    })
}

/// Does the gate's work and becomes the program. Call it in `main`, before any thread or descriptor is made.
///
/// Own session, umask 077, no core dumps, no new privileges, nothing inherited but what was passed;
/// SIGTERM, SIGINT and SIGHUP blocked; enclosed; confined; listens, reports, waits for release or end-of-file, execs.
///
/// Returns only when there is nothing to become: exit with [`GateEnd::exit_code`].
pub fn run(args: GateArgs) -> GateEnd {
    pass(Point::GateBegun);
    let report = match kernel::inherited(REPORT_NUMBER) {
        Ok(report) => report,
        Err(source) => {
            return failed(
                None,
                ProcessError::Call {
                    action: "take over descriptor 4",
                    source,
                },
            );
        }
    };
    let (go, passed) = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(error) => return failed(Some(&report), error),
    };
    pass(Point::GateListens);
    match rustix::io::write(&report, &[LISTENING]) {
        Ok(_) => {}
        Err(Errno::PIPE) => return GateEnd::Dropped,
        Err(error) => return failed(None, ProcessError::call("report")(error)),
    }
    pass(Point::GateReported);
    match released(&go) {
        Ok(true) => {}
        Ok(false) => return GateEnd::Dropped,
        Err(error) => return failed(None, error),
    }
    pass(Point::GateReleased);
    let source = Command::new(&args.program).args(&args.args).exec();
    // Everything passed had to stay open until here.
    drop(passed);
    failed(
        None,
        ProcessError::Spawn {
            program: args.program,
            source,
        },
    )
}

/// Everything before the report. Returns the pipe to wait on and what must stay open.
fn prepare(args: &GateArgs) -> Result<(OwnedFd, Vec<OwnedFd>), ProcessError> {
    let take =
        |number: i32| kernel::inherited(number).map_err(ProcessError::call("take over a passed descriptor"));
    let go = take(GO_NUMBER)?;
    signal::block_termination()?;
    spawn::become_session_leader()?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(ProcessError::call("forbid core dumps"))?;
    nix::sys::prctl::set_no_new_privs().map_err(ProcessError::call("forbid new privileges"))?;
    kernel::close_all_on_exec().map_err(ProcessError::call("close what was not passed"))?;
    let mut passed = Vec::new();
    for number in &args.listen {
        let fd = take(*number)?;
        socket::listen(&fd, BACKLOG)?;
        passed.push(fd);
    }
    for number in &args.pass {
        let fd = take(*number)?;
        match args.enclosure {
            Some(enclosure) if enclosure.directory == *number => enclosure.enter(&fd)?,
            Some(_) | None => passed.push(fd),
        }
    }
    for fd in &passed {
        fcntl_setfd(fd, FdFlags::empty()).map_err(ProcessError::call("pass a descriptor on"))?;
    }
    if let Some(confinement) = &args.confinement {
        confinement.enforce()?;
    }
    Ok((go, passed))
}

/// Waits for the starter's word; false when the starter is gone or changed its mind.
fn released(go: &OwnedFd) -> Result<bool, ProcessError> {
    let mut word = [0_u8; 1];
    let count = rustix::io::retry_on_intr(|| rustix::io::read(go, &mut word[..]))
        .map_err(ProcessError::call("wait for release"))?;
    Ok(count == 1 && word == [GO])
}

/// Says what went wrong where the starter and the log can see it.
fn failed(report: Option<&OwnedFd>, error: ProcessError) -> GateEnd {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(&error) {
        text.push_str(": ");
        text.push_str(&cause.to_string());
    }
    if let Some(Err(unheard)) = report.map(|report| rustix::io::write(report, text.as_bytes())) {
        text.push_str(" (and the starter does not listen: ");
        text.push_str(&unheard.to_string());
        text.push(')');
    }
    if writeln!(std::io::stderr(), "maqet gate: {text}").is_err() {
        // Nowhere is left to say it; the exit code remains.
        return GateEnd::Failed(error);
    }
    GateEnd::Failed(error)
}
