//! What a runner left behind when its QEMU was gone, and what that means for what was wanted.

use std::fs;
use std::path::Path;

use maqet_protocol::runner::ExitNote;
use maqet_state::lifecycle::{Cause, LastExit};
use maqet_state::record::Intent;

/// The end of one launch as its runner noted it; `None` when there is no note of that launch.
pub(crate) fn read(runtime: &Path, launch_id: &str) -> Option<LastExit> {
    let bytes = fs::read(runtime.join(ExitNote::FILE)).ok()?;
    match serde_json::from_slice::<ExitNote>(&bytes) {
        Ok(note) if note.launch_id == launch_id => Some(note.exit),
        Ok(_other_launch) => None,
        Err(error) => {
            tracing::warn!(path = %runtime.display(), %error, "the runner's note of its end is unreadable");
            None
        }
    }
}

/// An end in the light of the recorded intent. Whoever takes over during a stop finds a guest that has shut down, or a
/// QEMU that left without a fault, and cannot know that it was told to by the runner before. What a lost runner means is
/// `Fact::for_intent`'s to say, except of a QEMU that left by itself.
pub(crate) fn as_intended(exit: LastExit, intent: Intent) -> LastExit {
    let in_order = match exit.cause {
        Cause::GuestShutdown => true,
        Cause::QemuExited => exit.exit_code == Some(0),
        Cause::GuestReset
        | Cause::GuestPanic
        | Cause::Stop
        | Cause::StopForced
        | Cause::StartFailed
        | Cause::QemuCrashed
        | Cause::QemuKilled
        | Cause::HostShutdown
        | Cause::HostRebooted
        | Cause::RunnerLost
        | Cause::HelperLost
        | Cause::EndedUnknown => false,
    };
    let cause = match intent {
        Intent::Stop | Intent::RunnerLost if in_order => Cause::Stop,
        Intent::StopForced if in_order => Cause::StopForced,
        Intent::HostShutdown if in_order => Cause::HostShutdown,
        Intent::Run | Intent::Stop | Intent::StopForced | Intent::HostShutdown | Intent::RunnerLost => {
            exit.cause
        }
    };
    LastExit { cause, ..exit }
}

#[cfg(test)]
mod tests {
    use maqet_state::clock::Timestamp;

    use super::*;

    fn seen(cause: Cause, intent: Intent) -> Cause {
        let exit = LastExit {
            cause,
            at: Timestamp(1),
            exit_code: Some(0),
            signal: None,
            detail: None,
        };
        as_intended(exit, intent).cause
    }

    #[test]
    fn a_guest_that_was_told_to_shut_down_was_stopped() {
        assert_eq!(seen(Cause::GuestShutdown, Intent::Run), Cause::GuestShutdown);
        assert_eq!(seen(Cause::GuestShutdown, Intent::Stop), Cause::Stop);
        assert_eq!(seen(Cause::GuestShutdown, Intent::StopForced), Cause::StopForced);
        assert_eq!(
            seen(Cause::GuestShutdown, Intent::HostShutdown),
            Cause::HostShutdown
        );
    }

    #[test]
    fn a_qemu_that_left_in_order_was_stopped_and_one_with_a_fault_was_not() {
        assert_eq!(seen(Cause::QemuExited, Intent::Run), Cause::QemuExited);
        assert_eq!(seen(Cause::QemuExited, Intent::Stop), Cause::Stop);
        let faulty = LastExit {
            cause: Cause::QemuExited,
            at: Timestamp(1),
            exit_code: Some(1),
            signal: None,
            detail: None,
        };
        assert_eq!(as_intended(faulty, Intent::Stop).cause, Cause::QemuExited);
    }

    #[test]
    fn whatever_else_ended_it_did() {
        for cause in [Cause::GuestPanic, Cause::GuestReset, Cause::QemuKilled] {
            assert_eq!(seen(cause, Intent::Stop), cause);
        }
    }
}
