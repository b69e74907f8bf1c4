//! Why QEMU ended, worked out from what is left of it.

use maqet_process::pidfd::ExitStatus;
use maqet_state::clock::Timestamp;
use maqet_state::lifecycle::{Cause, LastExit};

use crate::ladder::Way;

/// Why QEMU is being ended, or is known to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// It has not come up yet: whatever ends it, the start failed.
    Start,
    /// Somebody asked for a stop.
    Stop,
    /// The runner was told to end, as at logout and host shutdown.
    HostShutdown,
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest asked for a reset that ends the VM.
    GuestReset,
    /// The guest panicked; with what it told about it.
    GuestPanic(Option<String>),
}

/// What is left of a QEMU.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    /// Exit status, when the kernel told it.
    pub(crate) status: Option<ExitStatus>,
    /// Why it was to end; `None` when nobody meant it to.
    pub(crate) intent: Option<Intent>,
    /// Which rungs of the stop ladder were used.
    pub(crate) way: Option<Way>,
    /// What the kernel's counters say about its memory.
    pub(crate) oom: Option<&'static str>,
    /// End of its stderr.
    pub(crate) last_words: Option<String>,
    /// When it was noticed.
    pub(crate) at: Timestamp,
}

impl Remains {
    /// Makes the record of it.
    pub(crate) fn classify(self) -> LastExit {
        let cause = self.cause();
        let (exit_code, signal) = match self.status {
            Some(ExitStatus::Code(code)) => (Some(code), None),
            Some(ExitStatus::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        LastExit {
            cause,
            at: self.at,
            exit_code,
            signal,
            detail: self.detail(cause),
        }
    }

    fn cause(&self) -> Cause {
        if self.intent == Some(Intent::Start) {
            return Cause::StartFailed;
        }
        if let Some(way) = self.way.filter(|way| way.killed) {
            return self.cause_of_killing(way);
        }
        match (self.status, &self.intent) {
            (Some(ExitStatus::Signal(signal)), _) if raised_by_itself(signal) => Cause::QemuCrashed,
            (Some(ExitStatus::Signal(_)), _) => Cause::QemuKilled,
            (Some(ExitStatus::Code(0)) | None, Some(intent)) => meant(intent),
            (Some(ExitStatus::Code(_)), _) => Cause::QemuExited,
            (None, None) => Cause::EndedUnknown,
        }
    }

    /// A guest that had ended by itself keeps its cause when only the emptied shell of QEMU had to be killed.
    fn cause_of_killing(&self, way: Way) -> Cause {
        match &self.intent {
            Some(intent @ (Intent::GuestShutdown | Intent::GuestReset | Intent::GuestPanic(_)))
                if way.flushed =>
            {
                meant(intent)
            }
            Some(
                Intent::Start
                | Intent::Stop
                | Intent::HostShutdown
                | Intent::GuestShutdown
                | Intent::GuestReset
                | Intent::GuestPanic(_),
            )
            | None => Cause::StopForced,
        }
    }

    fn detail(self, cause: Cause) -> Option<String> {
        if let Some(way) = self.way.filter(|way| way.killed) {
            let how = if way.flushed {
                "killed after its disks were flushed"
            } else {
                "unclean: killed without a flush, unflushed writes may be lost"
            };
            return Some(how.to_owned());
        }
        match cause {
            Cause::GuestPanic => match self.intent {
                Some(Intent::GuestPanic(detail)) => detail,
                Some(
                    Intent::Start
                    | Intent::Stop
                    | Intent::HostShutdown
                    | Intent::GuestShutdown
                    | Intent::GuestReset,
                )
                | None => None,
            },
            Cause::StartFailed
            | Cause::QemuExited
            | Cause::QemuCrashed
            | Cause::QemuKilled
            | Cause::EndedUnknown => self.known(),
            Cause::GuestShutdown
            | Cause::GuestReset
            | Cause::Stop
            | Cause::StopForced
            | Cause::HostShutdown
            | Cause::HostRebooted
            | Cause::RunnerLost
            | Cause::HelperLost => None,
        }
    }
}

impl Remains {
    /// The kernel's hint, for an end it may have made, and QEMU's own words.
    fn known(self) -> Option<String> {
        let killed = matches!(self.status, None | Some(ExitStatus::Signal(libc::SIGKILL)));
        let hint = self.oom.filter(|_| killed).map(str::to_owned);
        let lines: Vec<String> = hint.into_iter().chain(self.last_words).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

fn meant(intent: &Intent) -> Cause {
    match intent {
        Intent::Start => Cause::StartFailed,
        Intent::Stop => Cause::Stop,
        Intent::HostShutdown => Cause::HostShutdown,
        Intent::GuestShutdown => Cause::GuestShutdown,
        Intent::GuestReset => Cause::GuestReset,
        Intent::GuestPanic(_) => Cause::GuestPanic,
    }
}

/// Signals that a program brings upon itself; the seccomp filter's SIGSYS is one of them.
fn raised_by_itself(signal: i32) -> bool {
    [
        libc::SIGSEGV,
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGSYS,
        libc::SIGTRAP,
    ]
    .contains(&signal)
}

/// An exit status in words: `exit code 1`, `signal 9`.
pub(crate) fn in_words(status: Option<ExitStatus>) -> String {
    match status {
        Some(ExitStatus::Code(code)) => format!("exit code {code}"),
        Some(ExitStatus::Signal(signal)) => format!("signal {signal}"),
        None => "unknown exit status".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: Way = Way {
        killed: false,
        flushed: true,
        by_guest: false,
    };
    const KILLED: Way = Way {
        killed: true,
        flushed: false,
        by_guest: false,
    };

    fn end(status: impl Into<Option<ExitStatus>>, intent: Option<Intent>, way: Option<Way>) -> LastExit {
        Remains {
            status: status.into(),
            intent,
            way,
            oom: Some("out of memory"),
            last_words: Some("words".to_owned()),
            at: Timestamp(1),
        }
        .classify()
    }

    fn code(code: i32) -> ExitStatus {
        ExitStatus::Code(code)
    }

    fn signal(signal: i32) -> ExitStatus {
        ExitStatus::Signal(signal)
    }

    #[test]
    fn what_was_meant_is_the_cause_of_a_clean_exit() {
        let panic = Intent::GuestPanic(Some("kernel".to_owned()));
        for (intent, cause) in [
            (Intent::Stop, Cause::Stop),
            (Intent::HostShutdown, Cause::HostShutdown),
            (Intent::GuestShutdown, Cause::GuestShutdown),
            (Intent::GuestReset, Cause::GuestReset),
            (panic, Cause::GuestPanic),
        ] {
            assert_eq!(end(code(0), Some(intent.clone()), Some(CLEAN)).cause, cause);
            assert_eq!(end(None, Some(intent), Some(CLEAN)).cause, cause);
        }
    }

    #[test]
    fn a_panic_tells_its_detail() {
        let exit = end(
            code(0),
            Some(Intent::GuestPanic(Some("oops".to_owned()))),
            Some(CLEAN),
        );
        assert_eq!(exit.detail.as_deref(), Some("oops"));
    }

    #[test]
    fn unmeant_ends_keep_the_last_words() {
        for (status, cause) in [
            (Some(code(0)), Cause::QemuExited),
            (Some(code(1)), Cause::QemuExited),
            (Some(signal(libc::SIGSEGV)), Cause::QemuCrashed),
            (Some(signal(libc::SIGSYS)), Cause::QemuCrashed),
            (Some(signal(libc::SIGTRAP)), Cause::QemuCrashed),
            (Some(signal(libc::SIGKILL)), Cause::QemuKilled),
            (Some(signal(libc::SIGTERM)), Cause::QemuKilled),
            (None, Cause::EndedUnknown),
        ] {
            let exit = end(status, None, None);
            assert_eq!(exit.cause, cause);
            let by_kernel = matches!(status, None | Some(ExitStatus::Signal(libc::SIGKILL)));
            let words = if by_kernel {
                "out of memory\nwords"
            } else {
                "words"
            };
            assert_eq!(exit.detail.as_deref(), Some(words));
        }
    }

    #[test]
    fn a_crash_on_the_way_out_is_a_crash() {
        let exit = end(signal(libc::SIGABRT), Some(Intent::Stop), Some(CLEAN));
        assert_eq!(exit.cause, Cause::QemuCrashed);
        assert_eq!(exit.signal, Some(libc::SIGABRT));
        assert_eq!(
            end(code(1), Some(Intent::Stop), Some(CLEAN)).cause,
            Cause::QemuExited
        );
        assert_eq!(
            end(signal(libc::SIGKILL), Some(Intent::Stop), Some(CLEAN)).cause,
            Cause::QemuKilled
        );
    }

    #[test]
    fn a_killing_of_ours_is_forced_and_says_whether_it_was_clean() {
        let exit = end(signal(libc::SIGKILL), Some(Intent::Stop), Some(KILLED));
        assert_eq!(exit.cause, Cause::StopForced);
        assert!(exit.detail.unwrap().starts_with("unclean"));
        let flushed = Way {
            flushed: true,
            ..KILLED
        };
        let exit = end(signal(libc::SIGKILL), Some(Intent::Stop), Some(flushed));
        assert_eq!(exit.cause, Cause::StopForced);
        assert_eq!(
            exit.detail.as_deref(),
            Some("killed after its disks were flushed")
        );
    }

    #[test]
    fn a_finished_guest_keeps_its_cause_when_its_shell_is_killed() {
        let flushed = Way {
            flushed: true,
            ..KILLED
        };
        let exit = end(signal(libc::SIGKILL), Some(Intent::GuestShutdown), Some(flushed));
        assert_eq!(exit.cause, Cause::GuestShutdown);
        let exit = end(
            signal(libc::SIGKILL),
            Some(Intent::GuestPanic(None)),
            Some(KILLED),
        );
        assert_eq!(exit.cause, Cause::StopForced);
    }

    #[test]
    fn before_it_is_up_every_end_is_a_failed_start() {
        for status in [Some(code(0)), Some(code(1)), Some(signal(libc::SIGKILL)), None] {
            let exit = end(status, Some(Intent::Start), None);
            assert_eq!(exit.cause, Cause::StartFailed);
            assert!(exit.detail.unwrap().ends_with("words"));
        }
        assert_eq!(
            end(signal(9), Some(Intent::Start), Some(KILLED)).cause,
            Cause::StartFailed
        );
    }

    #[test]
    fn statuses_have_words() {
        assert_eq!(in_words(Some(code(1))), "exit code 1");
        assert_eq!(in_words(Some(signal(9))), "signal 9");
        assert_eq!(in_words(None), "unknown exit status");
    }
}
