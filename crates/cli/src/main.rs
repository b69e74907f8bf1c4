//! `maqet`: the command line. Everything lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    maqet_cli::run()
}
