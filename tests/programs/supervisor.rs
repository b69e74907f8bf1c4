//! `maqet-supervisor` for the tests of this package.

fn main() -> std::process::ExitCode {
    maqet_supervisor::run()
}
