//! Why VMs end, in plain words.

use std::fmt::Write;

use maqet_state::lifecycle::{Cause, LastExit};
use nix::sys::signal::Signal;

/// One sentence; what QEMU or the kernel had to say is in [`LastExit::detail`].
pub(in crate::commands) fn sentence(exit: &LastExit) -> String {
    match exit.cause {
        Cause::GuestShutdown => "the guest shut itself down".to_owned(),
        Cause::GuestReset => "the guest rebooted, and this VM is to end then (`on_reboot: stop`)".to_owned(),
        Cause::GuestPanic => "the guest's kernel panicked".to_owned(),
        Cause::Stop => "it was stopped, as somebody had asked".to_owned(),
        Cause::StopForced => "it was ended by force: the guest was not waited for".to_owned(),
        Cause::StartFailed => with_status("it could not be started", exit),
        Cause::QemuExited => with_status("QEMU ended by itself", exit),
        Cause::QemuCrashed => with_status("QEMU crashed", exit),
        Cause::QemuKilled => with_status("QEMU was killed, and not by maqet", exit),
        Cause::HostShutdown => {
            "its runner was told to end, as when the host shuts down or the session ends; the guest was shut down first"
                .to_owned()
        }
        Cause::HostRebooted => {
            "the host was rebooted, or lost its power, while this VM ran; the guest was not shut down"
                .to_owned()
        }
        Cause::RunnerLost => {
            "the runner, the process of maqet that looks after this VM's QEMU, was lost, and QEMU ended too"
                .to_owned()
        }
        Cause::HelperLost => "a helper process that this VM needs was lost".to_owned(),
        Cause::EndedUnknown => "QEMU is gone, and nothing is left that tells why".to_owned(),
    }
}

/// What QEMU, the kernel or maqet added, line by line.
pub(super) fn details(exit: &LastExit) -> impl Iterator<Item = &str> {
    exit.detail.iter().flat_map(|detail| detail.lines())
}

fn with_status(words: &str, exit: &LastExit) -> String {
    let mut text = words.to_owned();
    // Writing to a string cannot fail.
    let _infallible = match (exit.signal, exit.exit_code) {
        (Some(signal), _) => write!(text, " (signal {})", named(signal)),
        (None, Some(code)) => write!(text, " (exit code {code})"),
        (None, None) => Ok(()),
    };
    text
}

/// `9, SIGKILL`.
fn named(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(name) => format!("{signal}, {name}"),
        Err(_) => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use maqet_state::clock::Timestamp;

    use super::{Cause, LastExit, sentence};

    #[test]
    fn every_cause_has_its_sentence() {
        let exits = Cause::ALL.map(|cause| LastExit {
            cause,
            at: Timestamp(0),
            exit_code: (cause == Cause::QemuExited || cause == Cause::StartFailed).then_some(1),
            signal: [(Cause::QemuCrashed, 11), (Cause::QemuKilled, 9)]
                .into_iter()
                .find_map(|(of, signal)| (of == cause).then_some(signal)),
            detail: None,
        });
        let told: Vec<_> = exits
            .iter()
            .map(|exit| format!("{}: {}", exit.cause, sentence(exit)))
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
