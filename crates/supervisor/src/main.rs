//! The `maqet-supervisor` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    maqet_supervisor::run()
}
