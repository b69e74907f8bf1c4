//! `maqet-runner`: one process per VM, QEMU's parent.

use std::process::ExitCode;

fn main() -> ExitCode {
    maqet_runner::run()
}
