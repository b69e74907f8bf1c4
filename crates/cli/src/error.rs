//! Ways a run of `maqet` can fail, and what each means to whoever typed it.

mod describe;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use maqet_process::error::ProcessError;
use maqet_protocol::error::ProtocolError;
use maqet_protocol::refusal::Refusal;
use maqet_spec::SpecError;
use maqet_state::error::StoreError;
use maqet_state::lifecycle::LastExit;

use crate::exit::Exit;
use crate::render::units;

/// Ways a run of `maqet` can fail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line asks for something that makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
        /// The next command to type.
        hint: Option<String>,
    },
    /// The supervisor refused.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// The files do not make a valid specification.
    #[error("{}", .0.message())]
    InvalidSpec(SpecError),
    /// Neither flags nor environment say where the data is.
    #[error("no data directory: neither HOME nor XDG_DATA_HOME is set")]
    NoDirectory,
    /// No supervisor answers, and none may be or could be started.
    #[error("{message}")]
    Unreachable {
        /// What was found.
        message: String,
        /// What was tried.
        causes: Vec<String>,
        /// The next command to type.
        hint: String,
    },
    /// A supervisor was started and did not take its configuration.
    #[error("the supervisor's configuration is invalid")]
    InvalidConfig {
        /// What it said.
        causes: Vec<String>,
    },
    /// The store could not be made anew; the old one is where it was.
    #[error("the store was not made anew")]
    Remake {
        /// What the supervisor program said.
        causes: Vec<String>,
    },
    /// The data directory is served by a supervisor that listens somewhere else.
    #[error("another supervisor serves this data directory and does not listen on `{}`", socket.display())]
    SecondSupervisor {
        /// The control socket that was tried.
        socket: PathBuf,
        /// What the supervisor that was started said about it.
        causes: Vec<String>,
    },
    /// The connection broke, and calling again did not help or is not safe.
    #[error("the supervisor went away during `{method}`")]
    Lost {
        /// The method that was called.
        method: &'static str,
        /// What broke.
        source: ProtocolError,
    },
    /// The supervisor and this program do not understand each other.
    #[error("talk to the supervisor")]
    Protocol(#[source] ProtocolError),
    /// The peer is not who it should be, or does not believe that we are.
    #[error("the supervisor on `{}` and this program do not share a secret", socket.display())]
    Untrusted {
        /// The control socket.
        socket: PathBuf,
        /// What failed.
        source: ProtocolError,
    },
    /// The secret file cannot be used.
    #[error("secret file `{}` {problem}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The next command to type.
        hint: Option<String>,
    },
    /// A directory or a process of ours cannot be used.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A deadline passed.
    #[error("{what} did not end within {}", units::duration(*after))]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// The VM, if it was one.
        vm: Option<String>,
        /// Its state, if it is known.
        state: Option<String>,
        /// The next command to type.
        hint: Option<String>,
    },
    /// It was so already, and `--strict` makes that a failure.
    #[error("`{vm}` is {state} already")]
    Already {
        /// The VM.
        vm: String,
        /// What it is.
        state: String,
    },
    /// The VM ended in a way that makes a condition impossible.
    #[error("`{vm}` ended before `{condition}` held")]
    Ended {
        /// The VM.
        vm: String,
        /// The condition.
        condition: String,
        /// Its status.
        state: String,
        /// How it ended.
        last_exit: Option<LastExit>,
    },
    /// The VM was removed while it was waited for.
    #[error("`{vm}` was removed before `{condition}` held")]
    Removed {
        /// The VM.
        vm: String,
        /// The condition.
        condition: String,
    },
    /// The condition can never hold for this VM.
    #[error("`{vm}`: {reason}")]
    Impossible {
        /// The VM.
        vm: String,
        /// Why not.
        reason: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// The installation is not as it should be; what is wrong was shown.
    #[error("{what}")]
    Unhealthy {
        /// What is wrong, in one line.
        what: String,
        /// The next command to type.
        hint: Option<String>,
    },
    /// The question was answered with no.
    #[error("nothing was done")]
    Declined,
    /// Several VMs failed; each was reported when it did.
    #[error("{failed} of {total} VMs failed")]
    Several {
        /// How many failed.
        failed: usize,
        /// Out of how many.
        total: usize,
        /// Exit of the first one that failed.
        exit: Exit,
    },
    /// Stdout is closed or full.
    #[error("write to stdout")]
    Stdout(#[source] io::Error),
    /// Stderr is closed or full.
    #[error("write to stderr")]
    Stderr(#[source] io::Error),
    /// A file could not be used.
    #[error("{action} `{}`", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file cannot be read as a store.
    #[error("`{}` cannot be read as a store", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<StoreError>,
    },
    /// A system call failed.
    #[error("{action}")]
    Call {
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A value could not be written as JSON.
    #[error("encode the answer")]
    Encode(#[source] serde_json::Error),
}

impl CliError {
    /// A usage error.
    pub(crate) fn usage(message: impl Into<String>, hint: Option<&str>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.map(str::to_owned),
        }
    }

    /// For `map_err`: a failed call on a file.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::Io {
            action,
            path: path.to_owned(),
            source: error.into(),
        }
    }

    /// For `map_err`: a failed call.
    pub(crate) fn call<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Call {
            action,
            source: error.into(),
        }
    }

    /// The code that the run ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Refused(refusal) => Exit::of_code(refusal.code.exit()),
            Self::Several { exit, .. } => *exit,
            Self::Usage { .. } | Self::NoDirectory => Exit::Usage,
            Self::Already { .. } => Exit::WrongState,
            Self::Removed { .. } => Exit::NotFound,
            Self::Unreachable { .. } | Self::Lost { .. } => Exit::Unreachable,
            Self::Untrusted { .. } | Self::Secret { .. } => Exit::Denied,
            Self::Process(error) => process_exit(error),
            Self::Store { source, .. } => store_exit(source),
            Self::InvalidSpec(_) | Self::InvalidConfig { .. } => Exit::InvalidConfig,
            Self::SecondSupervisor { .. } => Exit::SecondSupervisor,
            Self::Deadline { .. } => Exit::Deadline,
            Self::Io { source, .. } | Self::Call { source, .. } => io_exit(source),
            Self::Protocol(_)
            | Self::Ended { .. }
            | Self::Impossible { .. }
            | Self::Declined
            | Self::Remake { .. }
            | Self::Unhealthy { .. }
            | Self::Stdout(_)
            | Self::Stderr(_)
            | Self::Encode(_) => Exit::Failed,
        }
    }

    /// The kebab-case name that scripts look at.
    pub(crate) fn code(&self) -> String {
        let name = match self {
            Self::Refused(refusal) => return refusal_name(refusal),
            Self::Usage { .. } | Self::NoDirectory => "usage",
            Self::InvalidSpec(_) => "invalid-spec",
            Self::InvalidConfig { .. } => "invalid-config",
            Self::SecondSupervisor { .. } => "second-supervisor",
            Self::Unreachable { .. } => "supervisor-unreachable",
            Self::Lost { .. } => "supervisor-lost",
            Self::Protocol(_) => "protocol",
            Self::Untrusted { .. } => "authentication-failed",
            Self::Secret { .. } => "permission",
            Self::Process(error) if process_exit(error) == Exit::Denied => "permission",
            Self::Io { source, .. } | Self::Call { source, .. } if io_exit(source) == Exit::Denied => {
                "permission"
            }
            Self::Store { source, .. } if store_exit(source) == Exit::Denied => "permission",
            Self::Store { source, .. } if store_exit(source) == Exit::Busy => "busy",
            Self::Store { .. } => "store-failed",
            Self::Process(_) | Self::Io { .. } | Self::Call { .. } | Self::Stdout(_) | Self::Stderr(_) => {
                "io"
            }
            Self::Deadline { .. } => "timeout",
            Self::Already { .. } => "wrong-state",
            Self::Ended { .. } => "vm-ended",
            Self::Removed { .. } => "vm-not-found",
            Self::Impossible { .. } => "impossible",
            Self::Declined => "declined",
            Self::Remake { .. } => "store-not-remade",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Several { .. } => "several",
            Self::Encode(_) => "internal",
        };
        name.to_owned()
    }
}

/// What lies behind an error, outermost first.
pub(crate) fn sources(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(error.source(), |error| error.source())
        .map(ToString::to_string)
        .collect()
}

/// The kebab-case name that the wire gives a refusal.
fn refusal_name(refusal: &Refusal) -> String {
    match serde_json::to_value(refusal.code) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => "internal".to_owned(),
    }
}

fn process_exit(error: &ProcessError) -> Exit {
    if let ProcessError::Call { source, .. }
    | ProcessError::File { source, .. }
    | ProcessError::Spawn { source, .. } = error
    {
        return io_exit(source);
    }
    if matches!(error, ProcessError::Crowded { .. }) {
        return Exit::Busy;
    }
    let denied = matches!(
        error,
        ProcessError::ForeignDirectory { .. }
            | ProcessError::OpenDirectory { .. }
            | ProcessError::NotADirectory { .. }
            | ProcessError::NotASocket { .. }
    );
    if denied { Exit::Denied } else { Exit::Failed }
}

fn io_exit(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Exit::Denied
    } else {
        Exit::Failed
    }
}

fn store_exit(error: &StoreError) -> Exit {
    if let StoreError::Io { source, .. } = error {
        return io_exit(source);
    }
    if matches!(error, StoreError::AlreadyOpen { .. }) {
        return Exit::Busy;
    }
    Exit::Failed
}
