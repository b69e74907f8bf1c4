//! What was typed. Nothing here touches the system; meaning is built later.

pub(crate) mod autostart;
pub(crate) mod condition;
pub(crate) mod doctor;
pub(crate) mod early;
pub(crate) mod image;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod storage;
pub(crate) mod verb;
pub(crate) mod vm;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, Parser, ValueEnum};

use crate::error::CliError;
use crate::exit;
pub(crate) use verb::Verb;

/// Manage local QEMU virtual machines
///
/// A VM is a YAML file: `maqet add web.yaml --start` stores and boots it, `maqet ls` shows it, `maqet stop web` shuts
/// it down. A supervisor owns the truth about all VMs; it is started when none is there. A VM is named by its name, its
/// id, or the first 8 or more digits of its id. Data goes to stdout, talk and progress to stderr.
#[derive(Debug, Parser)]
#[command(name = "maqet", version, disable_help_subcommand = true, after_long_help = exit::section())]
pub(crate) struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options accepted before and after every verb.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Form of the answer; JSON is the stable contract
    #[arg(
        short = 'o',
        long,
        global = true,
        value_enum,
        value_name = "FORM",
        default_value_t,
        hide_default_value = true
    )]
    pub(crate) output: Format,
    /// Directory of the store, keys and logs [env: `MAQET_DATA_DIR`] [default: `$XDG_DATA_HOME/maqet`]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Directory of the sockets [env: `MAQET_RUNTIME_DIR`] [default: `$XDG_RUNTIME_DIR/maqet`]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Configuration of the supervisor [env: `MAQET_CONFIG`] [default: `$XDG_CONFIG_HOME/maqet/config.yaml`,
    /// else `/etc/maqet/config.yaml`]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Fail with exit code 6 instead of starting a supervisor
    #[arg(long, global = true)]
    pub(crate) no_autostart: bool,
    /// Stop waiting after this long (`90`, `90s`, `5m`) and exit with 124; what was asked for goes on, but for an import and a clone
    #[arg(long, global = true, value_name = "DUR", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
    /// Say more on stderr
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// When to use colours; `auto` honours `NO_COLOR`
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        hide_default_value = true
    )]
    pub(crate) color: Color,
}

/// Form of an answer on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// The stable contract.
    Json,
    /// The same values as YAML.
    Yaml,
    /// Names only, one on each line.
    Name,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The whole command tree, for completions and man pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// A command line that makes no sense, as the run's error.
pub(crate) fn misuse(error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    // The first paragraph; clap lists what is missing on lines of its own.
    let first: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let message = first.join(" ");
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: "));
    CliError::usage(message.strip_prefix("error: ").unwrap_or(&message), tip.or(usage))
}

/// Reads `30s`, `1m 30s`, or a bare number of seconds as the Python tool took.
///
/// # Errors
/// The text is neither.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds)
            .map_err(|_| "no such time; write `90s` or `5m`".to_owned());
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write `90s` or `5m`"))
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
