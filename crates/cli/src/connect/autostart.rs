//! Starting a supervisor, as tmux starts its server.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::directory;
use maqet_process::error::ProcessError;
use maqet_process::pidfd::{ExitStatus, ProcessHandle};
use maqet_process::private::{self, Access};
use maqet_process::spawn::Spawn;
use maqet_protocol::rebuild::RebuildReport;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::fstatat;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Output;
use crate::settings::{LOG_FILE, Settings};

/// Name of the program.
const PROGRAM: &str = "maqet-supervisor";
/// Number of the readiness pipe in the supervisor.
const READY_FD: i32 = 3;
/// Time for a supervisor to look after every VM on record before it answers.
const READY_DEADLINE: Duration = Duration::from_mins(2);
/// Line that says: I answer.
const READY: &[u8] = b"ready\n";
/// Most that is read of what a failing supervisor says.
const WORDS_BYTES_MAX: usize = 64 * 1024;
/// A log longer than this is set aside before the next supervisor writes to it.
const LOG_BYTES_MAX: i64 = 4 << 20;
/// Name of the log set aside.
const OLD_LOG_FILE: &str = "supervisor.log.1";

/// What came of starting a supervisor.
#[derive(Debug)]
pub(crate) enum Launch {
    /// It answers.
    Ready,
    /// It found another one on its data directory; what it said.
    Second(Vec<String>),
}

/// Starts a supervisor and waits until it answers or says why not.
///
/// # Errors
/// [`CliError::Unreachable`] when there is no such program or it failed; [`CliError::Process`] for a data directory
/// that is not ours alone.
pub(crate) async fn launch(settings: &Settings, output: &Output) -> Result<Launch, CliError> {
    let (child, reader) = spawn(settings, output, Vec::new(), None)?;
    let outcome = tokio::time::timeout(READY_DEADLINE, listen(reader, &child)).await;
    match outcome {
        Ok(Ok(Words::Ready)) => Ok(Launch::Ready),
        Ok(Ok(Words::Failed { status, lines })) if status == Some(code(Exit::SecondSupervisor)) => {
            Ok(Launch::Second(lines))
        }
        Ok(Ok(Words::Failed { status, lines })) if status == Some(code(Exit::InvalidConfig)) => {
            Err(CliError::InvalidConfig { causes: lines })
        }
        Ok(Ok(Words::Failed { status, lines })) => Err(failed(settings, status, lines)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failed(
            settings,
            None,
            vec![format!("it was not ready within {READY_DEADLINE:?}")],
        )),
    }
}

/// What came of a run that makes the store anew.
#[derive(Debug)]
pub(crate) enum Remade {
    /// It did; what it printed.
    Done(Box<RebuildReport>),
    /// A supervisor holds the data directory; what was said about it.
    Held(Vec<String>),
}

/// Runs the supervisor program to make the store anew: `words` say how. It ends by itself.
///
/// # Errors
/// As [`launch`]; [`CliError::Remake`] when it could not.
pub(crate) async fn remake(
    settings: &Settings,
    output: &Output,
    words: Vec<OsString>,
) -> Result<Remade, CliError> {
    let (answer, stdout) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(CliError::call("make a pipe"))?;
    let (child, reader) = spawn(settings, output, words, Some(stdout))?;
    let said = read_all(answer).await?;
    match listen(reader, &child).await? {
        Words::Ready => Err(CliError::Remake {
            causes: vec!["it became a supervisor instead".to_owned()],
        }),
        Words::Failed {
            status: Some(ExitStatus::Code(0)),
            ..
        } => {
            let report = serde_json::from_slice(&said).map_err(CliError::Encode)?;
            Ok(Remade::Done(Box::new(report)))
        }
        Words::Failed { status, lines } if status == Some(code(Exit::SecondSupervisor)) => {
            Ok(Remade::Held(lines))
        }
        Words::Failed { lines, .. } => Err(CliError::Remake { causes: lines }),
    }
}

async fn read_all(pipe: OwnedFd) -> Result<Vec<u8>, CliError> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe).map_err(CliError::call("watch a pipe"))?;
    let mut said = Vec::new();
    pipe.read_to_end(&mut said)
        .await
        .map_err(CliError::call("read a pipe"))?;
    Ok(said)
}

/// Starts the supervisor program. What it has to say comes out of the pipe; its log is a file, its standard output too
/// unless a place for it is given.
fn spawn(
    settings: &Settings,
    output: &Output,
    words: Vec<OsString>,
    stdout: Option<OwnedFd>,
) -> Result<(ProcessHandle, OwnedFd), CliError> {
    let program = find_program(settings)?;
    output.detail(&format!("starting `{}`", program.display()))?;
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(CliError::call("make a pipe"))?;
    let log = open_log(&settings.data_dir)?;
    let copy = log.try_clone();
    let mut spawn = Spawn::new(&program);
    spawn.args = arguments(settings);
    spawn.args.extend(words);
    spawn.workdir = Some(PathBuf::from("/"));
    spawn.stdout = Some(match stdout {
        Some(stdout) => stdout,
        None => copy.map_err(CliError::call("duplicate a descriptor"))?,
    });
    spawn.stderr = Some(log);
    spawn.fds = vec![(writer, READY_FD)];
    let child = spawn
        .spawn()
        .map_err(|error| cannot_start(settings, &program, &error))?;
    Ok((child.handle, reader))
}

enum Words {
    Ready,
    Failed {
        status: Option<ExitStatus>,
        lines: Vec<String>,
    },
}

/// Reads the pipe until the supervisor is ready, or has ended.
async fn listen(reader: OwnedFd, supervisor: &ProcessHandle) -> Result<Words, CliError> {
    let mut reader = pipe::Receiver::from_owned_fd(reader).map_err(CliError::call("watch a pipe"))?;
    let mut said = Vec::new();
    let mut part = vec![0; 4096];
    while said.len() < WORDS_BYTES_MAX {
        let length = reader
            .read(&mut part)
            .await
            .map_err(CliError::call("read a pipe"))?;
        said.extend_from_slice(part.get(..length).unwrap_or_default());
        if said.ends_with(READY) {
            return Ok(Words::Ready);
        }
        if length == 0 {
            break;
        }
    }
    supervisor.exited().await?;
    Ok(Words::Failed {
        status: supervisor.exit_status(),
        lines: lines(&said),
    })
}

/// What a supervisor said, without the marks of an error on a terminal of its own. Places in files stay aligned.
fn lines(said: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(said);
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("hint: "))
        .map(|line| line.strip_prefix("error: ").unwrap_or(line).trim_end());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn code(exit: Exit) -> ExitStatus {
    ExitStatus::Code(i32::from(exit.code()))
}

fn failed(settings: &Settings, status: Option<ExitStatus>, mut causes: Vec<String>) -> CliError {
    if let Some(status) = status {
        causes.push(format!("it ended with {status}"));
    }
    CliError::Unreachable {
        message: "the supervisor could not be started".to_owned(),
        causes,
        hint: format!("look into {}", settings.log().display()),
    }
}

fn cannot_start(settings: &Settings, program: &Path, error: &ProcessError) -> CliError {
    let causes = std::iter::once(error.to_string())
        .chain(crate::error::sources(error))
        .collect();
    CliError::Unreachable {
        message: format!("the supervisor `{}` could not be started", program.display()),
        causes,
        hint: if settings.supervisor_bin.is_some() {
            "look at the variable MAQET_SUPERVISOR_BIN".to_owned()
        } else {
            format!("install `{PROGRAM}` beside `maqet` or on PATH")
        },
    }
}

fn arguments(settings: &Settings) -> Vec<OsString> {
    let mut words = vec![
        "--data-dir".into(),
        settings.data_dir.clone().into_os_string(),
        "--runtime-dir".into(),
        settings.runtime_dir.clone().into_os_string(),
    ];
    if let Some(config) = &settings.config {
        words.extend(["--config".into(), config.clone().into_os_string()]);
    }
    words.extend(["--ready-fd".into(), READY_FD.to_string().into()]);
    words
}

/// The one that was named, else the one beside this program, else the first on PATH.
fn find_program(settings: &Settings) -> Result<PathBuf, CliError> {
    if let Some(named) = &settings.supervisor_bin {
        return std::path::absolute(named).map_err(CliError::io("find the absolute path of", named));
    }
    let own = std::env::current_exe().map_err(CliError::call("find the path of this program"))?;
    let beside = own.parent().map(|directory| directory.join(PROGRAM));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    beside
        .into_iter()
        .chain(on_path.map(|directory| directory.join(PROGRAM)))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| CliError::Unreachable {
            message: format!("there is no `{PROGRAM}` beside this program or on PATH"),
            causes: Vec::new(),
            hint: format!("install `{PROGRAM}`, or name it in MAQET_SUPERVISOR_BIN"),
        })
}

/// The log, to be appended to; a long one is set aside first, so that two files bound what is kept.
fn open_log(data_dir: &Path) -> Result<OwnedFd, CliError> {
    let directory = directory::open_private(data_dir)?;
    let path = data_dir.join(LOG_FILE);
    let length =
        fstatat(directory.as_fd(), LOG_FILE, AtFlags::AT_SYMLINK_NOFOLLOW).map_or(0, |about| about.st_size);
    if length > LOG_BYTES_MAX {
        renameat(directory.as_fd(), LOG_FILE, directory.as_fd(), OLD_LOG_FILE)
            .map_err(|error| CliError::io("set aside", &path)(io::Error::from(error)))?;
    }
    let file = private::open_at(&directory, LOG_FILE.as_ref(), Access::Append);
    file.map(OwnedFd::from).map_err(CliError::io("open", &path))
}
