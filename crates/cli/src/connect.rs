//! The way to the supervisor: dial, start one if none is there, prove who we are.

pub(crate) mod autostart;
mod secret;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use maqet_process::directory;
use maqet_process::error::ProcessError;
use maqet_process::pidfd::ProcessHandle;
use maqet_process::socket;
use maqet_protocol::endpoint::client::Client;
use maqet_protocol::error::ProtocolError;
use maqet_protocol::handshake::SocketRole;
use tokio::net::UnixStream;

use crate::backoff::Backoff;
use crate::error::{CliError, sources};
use crate::output::Output;
use crate::progress;
use crate::settings::{SOCKET_FILE, Settings};
use autostart::Launch;

/// Time for both proofs. A supervisor that is stopped or starved answers nothing at all.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Times a supervisor is started, or that of somebody else waited for, before giving up.
pub(crate) const ATTEMPTS_MAX: u32 = 12;
/// First and longest pause while the supervisor that somebody else started gets ready: 5 s in all.
pub(crate) const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// An authenticated connection; starts a supervisor when none listens and that is allowed.
///
/// # Errors
/// [`CliError::Unreachable`], [`CliError::SecondSupervisor`], [`CliError::Untrusted`], [`CliError::Secret`], or
/// [`CliError::Process`] for directories that are not ours alone.
pub(crate) async fn connect(settings: &Settings, output: &Output) -> Result<Client, CliError> {
    if let Some(client) = connect_existing(settings).await? {
        return Ok(client);
    }
    if !settings.autostart {
        return Err(nobody(settings));
    }
    let started = start_and_connect(settings, output);
    progress::during(output, "starting the supervisor", started).await
}

/// An authenticated connection to a supervisor that runs already; `None` when none does.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn connect_existing(settings: &Settings) -> Result<Option<Client>, CliError> {
    match dial(settings).await? {
        Some(stream) => introduce(settings, stream).await,
        None => Ok(None),
    }
}

/// The supervisor that listens now, by its process, with an authenticated connection to it.
///
/// The handle is `None` on kernels that do not tell a socket's peer.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn connect_to_process(
    settings: &Settings,
) -> Result<Option<(Client, Option<ProcessHandle>)>, CliError> {
    let Some(stream) = dial(settings).await? else {
        return Ok(None);
    };
    let peer = socket::peer(&stream)?;
    let client = introduce(settings, stream).await?;
    Ok(client.map(|client| (client, peer.handle)))
}

/// What is said when there is no supervisor and none is to be started.
pub(crate) fn nobody(settings: &Settings) -> CliError {
    CliError::Unreachable {
        message: format!("no supervisor listens on `{}`", settings.socket().display()),
        causes: Vec::new(),
        hint: if settings.autostart {
            "maqet ls".to_owned()
        } else {
            "leave out `--no-autostart`, or run `maqet-supervisor`".to_owned()
        },
    }
}

async fn start_and_connect(settings: &Settings, output: &Output) -> Result<Client, CliError> {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut said = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        match autostart::launch(settings, output).await? {
            Launch::Ready => {}
            Launch::Second(words) => said = words,
        }
        if let Some(client) = connect_existing(settings).await? {
            return Ok(client);
        }
        backoff.wait().await;
    }
    Err(CliError::SecondSupervisor {
        socket: settings.socket(),
        causes: said,
    })
}

async fn dial(settings: &Settings) -> Result<Option<UnixStream>, CliError> {
    // Looking must not create anything.
    if !exists(&settings.runtime_dir)? {
        return Ok(None);
    }
    let directory = directory::open_private(&settings.runtime_dir)?;
    match socket::connect(directory.as_fd(), SOCKET_FILE).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if nobody_listens(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn exists(path: &std::path::Path) -> Result<bool, CliError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CliError::io("look at", path)(error)),
    }
}

/// A supervisor that dies with our connection in its queue resets it: it never saw us.
fn nobody_listens(error: &ProcessError) -> bool {
    if let ProcessError::Call { source, .. } | ProcessError::File { source, .. } = error {
        return matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
        );
    }
    false
}

/// Both proofs. `None` when the supervisor went away meanwhile.
async fn introduce(settings: &Settings, stream: UnixStream) -> Result<Option<Client>, CliError> {
    let secret = secret::read(&settings.data_dir)?;
    let client = Client::connect(stream, SocketRole::Control, &secret, HANDSHAKE_DEADLINE).await;
    match client {
        Ok(client) => Ok(Some(client)),
        Err(error) if is_loss(&error) => Ok(None),
        Err(error @ ProtocolError::Authentication(_)) => Err(CliError::Untrusted {
            socket: settings.socket(),
            source: error,
        }),
        Err(error @ (ProtocolError::Deadline { .. } | ProtocolError::HandshakeDeadline { .. })) => {
            Err(CliError::Unreachable {
                message: format!(
                    "the supervisor on `{}` does not answer",
                    settings.socket().display()
                ),
                causes: std::iter::once(error.to_string())
                    .chain(sources(&error))
                    .collect(),
                hint: "look whether `maqet-supervisor` is stopped or the host is overloaded".to_owned(),
            })
        }
        Err(error) => Err(CliError::Protocol(error)),
    }
}

/// Whether the other end is gone, so that nothing will ever be answered on this connection.
pub(crate) fn is_loss(error: &ProtocolError) -> bool {
    matches!(
        error,
        ProtocolError::Closed | ProtocolError::Truncated { .. } | ProtocolError::Io(_)
    )
}

#[cfg(test)]
mod tests;
