//! `maqet-supervisor`: owns the truth about all VMs of one data directory.
//!
//! Requests flow down: `ipc`, `supervisor`, `vm`, then `store` or a runner. Facts flow up as mail. The pure decisions
//! are `maqet_state::lifecycle`'s; here they are carried out: decide, persist, act, publish. One thread; only commits
//! and file work leave it.
//!
//! A client of the control socket is answered only after every stored VM was reconciled with the kernel.

mod admission;
mod args;
mod aside;
mod autostart;
mod board;
mod control_key;
mod deletion;
mod disks;
mod events;
mod exit_note;
pub mod guest;
mod instance;
mod inventory;
mod ipc;
mod launch;
mod leaks;
mod leases;
mod ledger;
mod library;
mod link;
mod maintenance;
mod messages;
mod operation;
mod panics;
mod readiness;
mod reaper;
mod recovery;
mod room;
mod salvage;
mod settings;
mod shared;
mod snapshots;
mod soundness;
mod standing;
mod startup;
mod store;
mod strays;
mod supervisor;
mod virtiofsd;
mod vm;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::instance::InstanceError;
use crate::readiness::Readiness;
use crate::salvage::NothingLeft;
use crate::settings::SettingsError;

/// A second supervisor on the same data directory; see CLI.md.
const EXIT_HELD: u8 = 75;

/// The configuration is invalid; see CLI.md.
const EXIT_CONFIG: u8 = 78;

/// Runs the program; returns its exit code.
pub fn run() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let mut readiness = Readiness::new(args.ready_fd);
    match startup::run(&args, &mut readiness) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = describe(&error);
            readiness.failed(&text);
            // Where stderr is gone there is nobody to tell.
            drop(std::io::stderr().write_all(text.as_bytes()));
            exit_code(&error)
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // Help and version go to stdout with 0, everything else to stderr with 2; clap knows which.
    drop(error.print());
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str("  ");
        text.push_str(&cause.to_string());
        text.push('\n');
    }
    if error.downcast_ref::<NothingLeft>().is_some() {
        text.push_str("hint: maqet state restore FILE, or maqet doctor --rebuild to begin anew\n");
    }
    match error.downcast_ref() {
        Some(InstanceError::Held { what: "runtime", .. }) => {
            text.push_str("hint: give each data directory a `--runtime-dir` of its own\n");
        }
        Some(InstanceError::Held { .. }) => text.push_str("hint: maqet supervisor status\n"),
        Some(InstanceError::Io { .. }) | None => {}
    }
    text
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    if matches!(error.downcast_ref(), Some(InstanceError::Held { .. })) {
        return ExitCode::from(EXIT_HELD);
    }
    if error.downcast_ref::<SettingsError>().is_some() {
        return ExitCode::from(EXIT_CONFIG);
    }
    ExitCode::FAILURE
}
