//! The command line of maqet: what was typed becomes calls to the supervisor, answers become text.
//!
//! The program keeps no state of its own. `args` says what may be typed, `commands` holds one file per verb, `connect`
//! finds or starts the supervisor, `session` makes calls that survive its death, `output` is the only way to stdout and
//! stderr, `exit` lists every exit code.
//!
//! **Invariant**: data goes to stdout, everything else to stderr.
//! **Invariant**: a change is called again after a broken connection only under the idempotency key of the first call.

mod args;
mod backoff;
mod commands;
mod connect;
mod deadline;
mod error;
mod exit;
#[cfg(test)]
mod fake;
mod journal;
mod output;
mod progress;
mod rebuild;
mod render;
mod session;
mod settings;
mod specification;
mod tail;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;

use args::{Cli, Global, early};
use error::CliError;
use exit::Exit;
use output::Output;
use session::Session;
use settings::Settings;

/// Runs `maqet` with the words and the environment of this process.
pub fn run() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    match parse(&words) {
        Ok(cli) => {
            let output = Output::new(&cli.global);
            let result = execute(cli, &output);
            conclude(&output, result).into()
        }
        Err(error) => misuse(&words, &error).into(),
    }
}

fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    let command = args::command().color(early::color(words));
    let matches = command.try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches)
}

fn execute(cli: Cli, output: &Output) -> Result<(), CliError> {
    let Some(verb) = commands::run_alone(cli.verb, &cli.global, output)? else {
        return Ok(());
    };
    let settings = Settings::resolve(&cli.global)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::call("start the event loop"))?;
    let session = Session::new(&settings, output);
    let work = commands::run(&verb, &session);
    runtime.block_on(async {
        let Some(after) = cli.global.deadline else {
            return work.await;
        };
        let ended = tokio::time::timeout(after, work).await;
        ended.unwrap_or_else(|_| Err(deadline::passed(&verb, after)))
    })
}

/// Reports what went wrong and turns it into a code.
fn conclude(output: &Output, result: Result<(), CliError>) -> Exit {
    let Err(error) = result else {
        return Exit::Done;
    };
    if output::is_closed_pipe(&error) {
        return Exit::Done;
    }
    let reported = matches!(error, CliError::Several { .. });
    // An error that cannot be reported still has its code.
    if !reported && output.error(&error).is_err() {
        return error.exit();
    }
    error.exit()
}

/// Help, version, or a command line that makes no sense.
fn misuse(words: &[OsString], error: &clap::Error) -> Exit {
    let (code, shown) = if error.use_stderr() && early::wants_json(words) {
        (Exit::Usage, Output::json_error(&args::misuse(error)))
    } else if error.use_stderr() {
        (Exit::Usage, error.print().map_err(CliError::Stderr))
    } else {
        (Exit::Done, error.print().map_err(CliError::Stdout))
    };
    match shown {
        // What cannot be told has its code all the same.
        Ok(()) | Err(CliError::Stderr(_)) => code,
        Err(error) => conclude(&Output::new(&Global::default()), Err(error)),
    }
}
