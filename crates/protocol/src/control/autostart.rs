//! Starts without a person: enabled VMs, and the restart policy.

use maqet_state::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::method::Method;

/// Start a VM whenever a supervisor starts, unless somebody stopped it during this boot of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enable {
    /// The VM.
    pub vm: String,
    /// Lower ones start first, equal ones together; without it as before, at first 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// Pause after its start before the next order, milliseconds; without it as before, at first 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

impl Method for Enable {
    const NAME: &'static str = "org.maqet.Control.Enable";
    type Reply = AutostartSet;
}

/// Leave a VM alone when a supervisor starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disable {
    /// The VM.
    pub vm: String,
}

impl Method for Disable {
    const NAME: &'static str = "org.maqet.Control.Disable";
    type Reply = AutostartSet;
}

/// Answer to [`Enable`] and [`Disable`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutostartSet {
    /// Name of the VM.
    pub vm: String,
    /// It was so already.
    pub already: bool,
    /// How it is now; `None` when disabled.
    pub autostart: Option<AutostartStatus>,
}

/// An enabled VM's place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutostartStatus {
    /// Lower ones start first, equal ones together.
    pub order: u32,
    /// Pause after its start before the next order, milliseconds.
    pub delay_ms: u64,
}

/// How far a VM's restart policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartState {
    /// Restarts within the window up to the VM's last change.
    pub tries: u32,
    /// So many are made; the end after that is final.
    pub tries_max: u32,
    /// Time over which they are counted, seconds.
    pub window_s: u64,
    /// When the next one is due.
    pub next_at: Option<Timestamp>,
    /// It was given up: a crash loop, until somebody starts the VM.
    pub gave_up: bool,
}
