//! The stop ladder, as decisions only: time is an argument, what QEMU does is an input, what to do is an answer.
//!
//! Rungs: power button, QMP `stop` (drains and flushes every disk), QMP `quit`, SIGKILL. The signal is only
//! sent when the disks were flushed before, when it was asked for by force, or when the VM's own policy says so;
//! a QEMU that answers nothing is otherwise left alone and reported as still running.

use maqet_protocol::runner::StopQemu;

mod asking;
#[cfg(test)]
mod tests;

use asking::Asking;

/// Time for QMP `stop`: it waits for every write under way, milliseconds.
const FLUSH_MS: u64 = 10_000;
/// Time from QMP `quit` to the end of the process, milliseconds.
const QUIT_MS: u64 = 15_000;
/// Time QMP gets before the signal when the end is forced, milliseconds.
const FORCE_MS: u64 = 2_000;
/// Time from SIGKILL to the end of the process; longer means that the kernel holds it, milliseconds.
const KILL_MS: u64 = 10_000;

/// What the guest does when the ladder is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// Its CPUs run: it can be asked.
    Running,
    /// Its CPUs rest (paused, never let run, panicked, disk full): it cannot be asked.
    AtRest,
    /// It has ended by itself and its disks were flushed on the way.
    Over,
}

/// How a QMP command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Carried out.
    Done,
    /// QEMU answered with an error.
    Refused,
    /// No answer.
    Silent,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Somebody asked for a stop while this ladder is walked.
    Joined(StopQemu),
    /// The press of the power button was answered, in whatever way.
    ButtonAnswered,
    /// Bytes the guest has written so far (disks and serial); `None`: QEMU did not say.
    Progress(Option<u64>),
    /// The guest came to rest.
    Halted(Guest),
    /// QMP `stop` was answered.
    Stopped(Answer),
    /// QMP `quit` was answered.
    Quit(Answer),
    /// SIGKILL was delivered.
    Killed,
    /// QEMU is gone.
    Gone,
    /// The moment named by [`Ladder::wake_at`] has come.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// QMP `system_powerdown`.
    PressButton,
    /// Find out what the guest has written so far.
    Sample,
    /// QMP `stop`.
    Stop {
        /// Deadline, milliseconds from now.
        within_ms: u64,
    },
    /// QMP `quit`.
    Quit {
        /// Deadline, milliseconds from now.
        within_ms: u64,
    },
    /// SIGKILL through the verified pidfd.
    Kill,
    /// The ladder is over.
    Finish(Verdict),
}

/// How the ladder ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// QEMU is gone.
    Gone(Way),
    /// QEMU answers nothing and was left alone.
    StillRunning,
    /// QEMU did not end after SIGKILL.
    Unkillable,
}

/// On which rung QEMU went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// SIGKILL was delivered.
    pub(crate) killed: bool,
    /// Every disk was flushed before.
    pub(crate) flushed: bool,
    /// The guest had shut itself down.
    pub(crate) by_guest: bool,
}

#[derive(Debug)]
enum Rung {
    Asking(Asking),
    Flushing { until: u64 },
    Quitting { until: u64 },
    Killing { until: u64 },
    Over,
}

/// One stop ladder being walked.
#[derive(Debug)]
pub(crate) struct Ladder {
    order: StopQemu,
    rung: Rung,
    way: Way,
}

impl Ladder {
    /// Sets the ladder up and takes the first step. `now` is in milliseconds of any clock that only goes forward.
    pub(crate) fn new(order: StopQemu, guest: Guest, now: u64) -> (Self, Vec<Action>) {
        let mut ladder = Self {
            order,
            rung: Rung::Over,
            way: Way {
                killed: false,
                flushed: guest == Guest::Over,
                by_guest: guest == Guest::Over,
            },
        };
        let actions = match guest {
            Guest::Over => ladder.quit(now),
            Guest::AtRest => ladder.flush(now),
            Guest::Running if order.force || order.budget_ms == 0 => ladder.flush(now),
            Guest::Running => ladder.ask(now),
        };
        (ladder, actions)
    }

    /// When [`Input::Tick`] is due; `None` once the ladder is over.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        match &self.rung {
            Rung::Asking(asking) => {
                let next = asking.until.min(asking.button_at);
                Some(asking.sample_at.map_or(next, |at| next.min(at)))
            }
            Rung::Flushing { until } | Rung::Quitting { until } | Rung::Killing { until } => Some(*until),
            Rung::Over => None,
        }
    }

    /// Takes in what happened; answers what to do.
    pub(crate) fn step(&mut self, input: Input, now: u64) -> Vec<Action> {
        match input {
            Input::Joined(order) => self.join(order, now),
            Input::ButtonAnswered => {
                if let Rung::Asking(asking) = &mut self.rung {
                    asking.unanswered_since = None;
                }
                Vec::new()
            }
            Input::Progress(written) => {
                if let Rung::Asking(asking) = &mut self.rung {
                    asking.sampled(written, now);
                }
                Vec::new()
            }
            Input::Halted(guest) => self.halted(guest, now),
            Input::Stopped(answer) => self.stopped(answer, now),
            Input::Quit(answer) => self.quit_answered(answer),
            Input::Killed => {
                self.way.killed = true;
                Vec::new()
            }
            Input::Gone => self.finish(Verdict::Gone(self.way)),
            Input::Tick => self.tick(now),
        }
    }

    fn ask(&mut self, now: u64) -> Vec<Action> {
        self.rung = Rung::Asking(Asking::new(self.order.budget_ms, now));
        if self.order.hard {
            vec![Action::PressButton]
        } else {
            vec![Action::PressButton, Action::Sample]
        }
    }

    fn flush(&mut self, now: u64) -> Vec<Action> {
        let within_ms = if self.order.force { FORCE_MS } else { FLUSH_MS };
        self.rung = Rung::Flushing {
            until: now.saturating_add(within_ms),
        };
        vec![Action::Stop { within_ms }]
    }

    fn quit(&mut self, now: u64) -> Vec<Action> {
        let forced_until = match self.rung {
            Rung::Flushing { until } if self.order.force => Some(until),
            Rung::Asking(_)
            | Rung::Flushing { .. }
            | Rung::Quitting { .. }
            | Rung::Killing { .. }
            | Rung::Over => None,
        };
        let fresh = now.saturating_add(if self.order.force { FORCE_MS } else { QUIT_MS });
        let until = forced_until.unwrap_or(fresh);
        self.rung = Rung::Quitting { until };
        vec![Action::Quit {
            within_ms: until.saturating_sub(now),
        }]
    }

    fn kill(&mut self, now: u64) -> Vec<Action> {
        self.rung = Rung::Killing {
            until: now.saturating_add(KILL_MS),
        };
        vec![Action::Kill]
    }

    /// QEMU does not answer: the signal if that was wished, else leave it alone.
    fn give_up(&mut self, now: u64) -> Vec<Action> {
        if self.way.flushed || self.order.force || self.order.kill_on_timeout {
            self.kill(now)
        } else {
            self.finish(Verdict::StillRunning)
        }
    }

    fn finish(&mut self, verdict: Verdict) -> Vec<Action> {
        if matches!(self.rung, Rung::Over) {
            return Vec::new();
        }
        self.rung = Rung::Over;
        vec![Action::Finish(verdict)]
    }

    fn join(&mut self, order: StopQemu, now: u64) -> Vec<Action> {
        self.order.kill_on_timeout |= order.kill_on_timeout;
        if order.force {
            return self.force(now);
        }
        if let (Rung::Asking(asking), true) = (&mut self.rung, order.hard) {
            self.order.hard = true;
            asking.sample_at = None;
            asking.until = asking.until.min(now.saturating_add(order.budget_ms));
        }
        Vec::new()
    }

    fn force(&mut self, now: u64) -> Vec<Action> {
        self.order.force = true;
        let soon = now.saturating_add(FORCE_MS);
        match &mut self.rung {
            Rung::Asking(_) => self.flush(now),
            Rung::Flushing { until } | Rung::Quitting { until } => {
                *until = soon.min(*until);
                Vec::new()
            }
            Rung::Killing { .. } | Rung::Over => Vec::new(),
        }
    }

    fn halted(&mut self, guest: Guest, now: u64) -> Vec<Action> {
        if guest == Guest::Over {
            self.way.by_guest = true;
            self.way.flushed = true;
        }
        match (&self.rung, guest) {
            (Rung::Asking(_), Guest::Over) => self.quit(now),
            (Rung::Asking(_), Guest::AtRest) => self.flush(now),
            (Rung::Asking(_), Guest::Running)
            | (Rung::Flushing { .. } | Rung::Quitting { .. } | Rung::Killing { .. } | Rung::Over, _) => {
                Vec::new()
            }
        }
    }

    fn stopped(&mut self, answer: Answer, now: u64) -> Vec<Action> {
        if answer == Answer::Done {
            self.way.flushed = true;
        }
        match (&self.rung, answer) {
            // `quit` flushes as well, so a refused `stop` is no reason to stay.
            (Rung::Flushing { .. }, Answer::Done | Answer::Refused) => self.quit(now),
            (Rung::Flushing { .. }, Answer::Silent) => self.give_up(now),
            (Rung::Asking(_) | Rung::Quitting { .. } | Rung::Killing { .. } | Rung::Over, _) => Vec::new(),
        }
    }

    /// Only the end of the process counts; the answer merely tells a refusal, which no newer try would change.
    fn quit_answered(&mut self, answer: Answer) -> Vec<Action> {
        match (&self.rung, answer) {
            (Rung::Quitting { .. }, Answer::Refused) if !self.way.flushed => {
                self.finish(Verdict::StillRunning)
            }
            (
                Rung::Asking(_)
                | Rung::Flushing { .. }
                | Rung::Quitting { .. }
                | Rung::Killing { .. }
                | Rung::Over,
                _,
            ) => Vec::new(),
        }
    }

    fn tick(&mut self, now: u64) -> Vec<Action> {
        let due = self.wake_at().is_some_and(|at| at <= now);
        if !due {
            return Vec::new();
        }
        match &mut self.rung {
            Rung::Asking(asking) if now < asking.until => asking.nudge(now),
            Rung::Asking(asking) => {
                if !self.order.hard && asking.extend(now) {
                    return asking.nudge(now);
                }
                if asking.silent(self.order.budget_ms, now) {
                    return self.give_up(now);
                }
                self.flush(now)
            }
            Rung::Flushing { .. } | Rung::Quitting { .. } => self.give_up(now),
            Rung::Killing { .. } => self.finish(Verdict::Unkillable),
            Rung::Over => Vec::new(),
        }
    }
}
