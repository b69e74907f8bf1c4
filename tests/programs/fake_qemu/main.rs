//! A QEMU that does what a script says, wrongly on purpose.
//!
//! It takes the command line maqet writes, listens on the sockets it inherited, and speaks as much QMP as a start and
//! a stop need. `script` lists what it can be told to do. Questions about options (`-help`, `-machine help`, …) are
//! answered by the real QEMU.

mod machine;
mod monitor;
mod options;
mod script;
mod serial;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::Context;

use machine::Machine;
use options::{Options, Role};
use script::Script;

/// Who answers questions about options.
const REAL: &str = "qemu-system-x86_64";

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if options::is_question(&words) {
        let error = Command::new(REAL).args(&words).exec();
        return fail(&format!("exec {REAL}: {error}"));
    }
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// The way QEMU speaks of a command line it does not like.
fn fail(text: &str) -> ExitCode {
    // Without stderr there is nobody to tell.
    drop(writeln!(std::io::stderr(), "{REAL}: {text}"));
    ExitCode::FAILURE
}

/// Plays the machine until it ends; returns the exit code.
fn run(words: &[OsString]) -> anyhow::Result<u8> {
    let mut options = Options::parse(words)?;
    let script = Script::find(&options.globals)?;
    if script.fails {
        anyhow::bail!("-device nope: 'nope' is not a valid device model name");
    }
    let (ended, end) = mpsc::channel();
    let listeners = options.listeners()?;
    let machine = Arc::new(Machine::new(options, script, ended));
    for (role, listener) in listeners {
        let machine = Arc::clone(&machine);
        std::thread::spawn(move || match role {
            Role::Monitor => monitor::serve(&machine, &listener),
            Role::Serial => serial::serve(&machine, &listener),
        });
    }
    end.recv().context("every thread is gone")
}
