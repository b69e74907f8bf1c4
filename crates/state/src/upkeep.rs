//! What keeps a VM up without a person: its restart policy, and whether somebody wants it down.
//!
//! Pure: [`Upkeep::judge`] says what an end calls for, the other functions make the next [`Upkeep`]. It is stored in the
//! VM's record, in the commit of the end or launch it is about, so a killed supervisor goes on where it was and never
//! answers the same end twice. All of it is about one boot of the host; of an earlier boot nothing counts.

use std::time::Duration;

use maqet_spec::vm::{RestartPolicy, RestartWhen};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::lifecycle::Cause;
use crate::record::Intent;

/// What was done to keep a VM up, and what is due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upkeep {
    /// Boot of the host that all of it is about; empty before anything happened.
    pub boot_id: String,
    /// When the policy restarted the VM, oldest first; at most [`RestartPolicy::TRIES_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<Timestamp>,
    /// When the next restart is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Since when the policy has given up: a crash loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<Timestamp>,
    /// The newest start was not a person's.
    pub unattended: bool,
    /// A person stopped it, and has not started it since.
    pub stopped: bool,
}

/// An autostarted VM's place among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autostart {
    /// Lower ones start first, equal ones together.
    pub order: u32,
    /// Pause between the end of its start and the next order.
    #[serde(with = "maqet_spec::duration")]
    pub delay: Duration,
}

/// What an end calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Rest,
    /// A start, at this time.
    RestartAt(Timestamp),
    /// A start, but there were too many already.
    GiveUp,
}

impl Upkeep {
    /// Nothing has happened in this boot yet; also what a person's start makes of it.
    pub fn new(boot_id: &str) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            ..Self::default()
        }
    }

    /// What of it counts in this boot: all or nothing.
    #[must_use]
    pub fn in_boot(self, boot_id: &str) -> Self {
        if self.boot_id == boot_id {
            self
        } else {
            Self::new(boot_id)
        }
    }

    /// A person wants the VM down.
    #[must_use]
    pub fn stopped(self) -> Self {
        Self {
            stopped: true,
            next_at: None,
            gave_up: None,
            unattended: false,
            ..self
        }
    }

    /// The policy's start of the VM is on record.
    #[must_use]
    pub fn restarted(mut self, policy: RestartPolicy, now: Timestamp) -> Self {
        self.restarts.retain(|at| now.since(*at) < policy.window);
        self.restarts.push(now);
        Self {
            next_at: None,
            gave_up: None,
            unattended: true,
            ..self
        }
    }

    /// Restarts that count at this time.
    pub fn tries(&self, policy: RestartPolicy, now: Timestamp) -> u32 {
        let recent = self.restarts.iter().filter(|at| now.since(**at) < policy.window);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }

    /// What an end calls for whose launch was wanted like this. `jitter`, 0 to 1, shortens the pause by up to a half.
    pub fn judge(&self, policy: RestartPolicy, end: (Cause, Intent), now: Timestamp, jitter: f64) -> Verdict {
        if self.stopped || !wants(policy.policy, end, self.unattended) {
            return Verdict::Rest;
        }
        let tries = self.tries(policy, now);
        if tries >= policy.tries {
            return Verdict::GiveUp;
        }
        let pause = policy.pause(tries).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Verdict::RestartAt(Timestamp(now.0.saturating_add(pause)))
    }

    /// The end was judged.
    #[must_use]
    pub fn judged(self, verdict: Verdict, now: Timestamp) -> Self {
        let (next_at, gave_up) = match verdict {
            Verdict::Rest => (None, None),
            Verdict::RestartAt(at) => (Some(at), None),
            Verdict::GiveUp => (None, Some(now)),
        };
        Self {
            next_at,
            gave_up,
            ..self
        }
    }
}

/// Whether a policy restarts after this end. No wildcard: a new cause does not compile until it is decided.
fn wants(policy: RestartWhen, (cause, intent): (Cause, Intent), unattended: bool) -> bool {
    let meant = match intent {
        Intent::Stop | Intent::StopForced | Intent::HostShutdown => true,
        Intent::Run | Intent::RunnerLost => false,
    };
    let called_for = match cause {
        Cause::Stop | Cause::StopForced | Cause::HostShutdown | Cause::HostRebooted => false,
        // Whoever asked for a start was told that it failed.
        Cause::StartFailed => unattended,
        Cause::GuestShutdown | Cause::GuestReset => policy == RestartWhen::Always,
        Cause::GuestPanic
        | Cause::QemuExited
        | Cause::QemuCrashed
        | Cause::QemuKilled
        | Cause::RunnerLost
        | Cause::HelperLost
        | Cause::EndedUnknown => true,
    };
    policy != RestartWhen::Never && called_for && !meant
}
