//! Whether, when and how often an ended VM is started again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whether an ended VM is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartPolicy {
    /// After which ends.
    pub policy: RestartWhen,
    /// Pause before the first restart; each further one within the window doubles it. Above 0, at most
    /// `backoff_max`.
    #[serde(with = "crate::duration")]
    pub backoff: Duration,
    /// Longest pause; at most 24 hours.
    #[serde(with = "crate::duration")]
    pub backoff_max: Duration,
    /// Restarts within the window after which the VM is given up, 1 to [`Self::TRIES_MAX`].
    pub tries: u32,
    /// Time over which restarts are counted. Longer than all pauses of `tries` restarts together, at most 7 days.
    #[serde(with = "crate::duration")]
    pub window: Duration,
}

impl RestartPolicy {
    /// Most restarts that can be asked for: each is remembered.
    pub const TRIES_MAX: u32 = 100;

    /// Pause before the restart that follows `before` others, without jitter.
    pub fn pause(&self, before: u32) -> Duration {
        let doubled = self.backoff.saturating_mul(2_u32.saturating_pow(before.min(31)));
        doubled.min(self.backoff_max)
    }

    /// All pauses of one crash loop together: the window must be longer, or the loop would never be noticed.
    pub fn pauses(&self) -> Duration {
        (0..self.tries.min(Self::TRIES_MAX))
            .map(|before| self.pause(before))
            .fold(Duration::ZERO, Duration::saturating_add)
    }
}

impl Default for RestartPolicy {
    /// Never; once it is asked for: after 1, 2, 4, 8 and 16 seconds, five times in ten minutes.
    fn default() -> Self {
        Self {
            policy: RestartWhen::Never,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_mins(1),
            tries: 5,
            window: Duration::from_mins(10),
        }
    }
}

/// After which ends a VM is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartWhen {
    /// None: only a person starts it.
    #[default]
    Never,
    /// Those that leave it `failed`.
    OnFailure,
    /// Those, and when the guest has ended by itself.
    Always,
}

impl RestartWhen {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}
