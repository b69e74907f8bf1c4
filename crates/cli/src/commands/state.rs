//! `maqet state`.

pub(crate) mod dump;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use maqet_protocol::control::StateBackup;
use maqet_state::store::{Store, Viewed};

use crate::args::state::{BackupArgs, RestoreArgs};
use crate::connect;
use crate::error::CliError;
use crate::progress;
use crate::rebuild::{self, Source};
use crate::render::units;
use crate::session::{OPERATION_DEADLINE, Session};

/// The store's file in the data directory.
const STORE_FILE: &str = "state.redb";

/// Copies the store to a new file; the supervisor writes it.
///
/// # Errors
/// The refusal, also when there is something at that name; [`CliError::Io`] without a working directory.
pub(crate) async fn backup(session: &Session<'_>, args: &BackupArgs) -> Result<(), CliError> {
    // The supervisor has another working directory.
    let path = std::path::absolute(&args.file).map_err(CliError::io("resolve", &args.file))?;
    let method = StateBackup { path };
    let copying = session.once(&method, OPERATION_DEADLINE);
    let copied = progress::during(session.output, "copying the store", copying).await?;
    let path = copied.path.display();
    session.output.answer(
        &copied,
        || format!("{path}: {}, {} ms", units::size(copied.bytes), copied.took_ms),
        || path.to_string(),
    )
}

/// Makes the store anew from a copy.
///
/// # Errors
/// As [`rebuild::run`]; [`CliError::Io`] when there is no such file.
pub(crate) async fn restore(session: &Session<'_>, args: &RestoreArgs) -> Result<(), CliError> {
    // Looked at before the supervisor is ended for it.
    let file = std::fs::canonicalize(&args.file).map_err(CliError::io("read", &args.file))?;
    rebuild::run(session, &Source::Copy(file)).await
}

/// Who tells what is in a store.
pub(crate) enum Teller {
    /// The supervisor that has it.
    Supervisor,
    /// This program, of a file that nobody has.
    File(Box<Viewed>),
}

/// A file that is named is read here. The present store is asked for from its supervisor, which is started if that is
/// allowed; if not, and none is there, the file is read here too.
///
/// # Errors
/// [`CliError::Store`]; those of [`connect::connect_existing`].
pub(crate) async fn teller(session: &Session<'_>, file: Option<&Path>) -> Result<Teller, CliError> {
    let path = match file {
        Some(path) => path.to_owned(),
        None if session.settings.autostart => return Ok(Teller::Supervisor),
        None if connect::connect_existing(session.settings).await?.is_some() => {
            return Ok(Teller::Supervisor);
        }
        None => present(session),
    };
    match Store::view(&path) {
        Ok(viewed) => Ok(Teller::File(Box::new(viewed))),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// The present store's file.
pub(crate) fn present(session: &Session<'_>) -> PathBuf {
    session.settings.data_dir.join(STORE_FILE)
}

/// The error of a file that is read here.
pub(crate) fn unreadable(path: PathBuf, source: maqet_state::error::StoreError) -> CliError {
    CliError::Store {
        path,
        source: Box::new(source),
    }
}
