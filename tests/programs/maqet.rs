//! `maqet` for the tests of this package.

fn main() -> std::process::ExitCode {
    maqet_cli::run()
}
