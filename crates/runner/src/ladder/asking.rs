//! The first rung: the guest has been asked to shut down and gets its time.

use super::Action;

/// First gap between two presses of the power button, milliseconds; some guests drop the first press.
pub(super) const BUTTON_GAP_MS: u64 = 5_000;
/// Longest gap between two presses, milliseconds.
pub(super) const BUTTON_GAP_MS_MAX: u64 = 30_000;
/// Time between two looks at what the guest has written, milliseconds.
pub(super) const SAMPLE_GAP_MS: u64 = 2_000;
/// A guest that wrote something within this time makes progress; also the length of one extension, milliseconds.
pub(super) const PROGRESS_WINDOW_MS: u64 = 5_000;
/// Longest time a guest that makes progress gets, milliseconds, unless its budget is longer.
pub(super) const EXTENDED_MS_MAX: u64 = 300_000;
/// A power button unanswered this long at the end of the budget means that QEMU itself is silent, milliseconds.
pub(super) const SILENT_MS: u64 = 2_000;

/// The guest has been asked and gets its time.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) until: u64,
    cap: u64,
    pub(super) button_at: u64,
    gap: u64,
    pub(super) unanswered_since: Option<u64>,
    /// Next look; `None` while one is under way, and for a hard budget.
    pub(super) sample_at: Option<u64>,
    written: Option<u64>,
    progress_at: Option<u64>,
}

impl Asking {
    /// The button is pressed now and what the guest has written is looked at now.
    pub(super) fn new(budget_ms: u64, now: u64) -> Self {
        Self {
            until: now.saturating_add(budget_ms),
            cap: now.saturating_add(budget_ms.max(EXTENDED_MS_MAX)),
            button_at: now.saturating_add(BUTTON_GAP_MS),
            gap: BUTTON_GAP_MS,
            unanswered_since: Some(now),
            sample_at: None,
            written: None,
            progress_at: None,
        }
    }

    /// What is due before the budget ends: another press, another look.
    pub(super) fn nudge(&mut self, now: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.button_at <= now {
            // Presses at 0, 5, 10, 20, 40 seconds: the gap doubles once the second press was made.
            self.button_at = now.saturating_add(self.gap);
            self.gap = self.gap.saturating_mul(2).min(BUTTON_GAP_MS_MAX);
            self.unanswered_since = self.unanswered_since.or(Some(now));
            actions.push(Action::PressButton);
        }
        if self.sample_at.is_some_and(|at| at <= now) {
            self.sample_at = None;
            actions.push(Action::Sample);
        }
        actions
    }

    pub(super) fn sampled(&mut self, written: Option<u64>, now: u64) {
        if self.written.is_some() && written.is_some() && written != self.written {
            self.progress_at = Some(now);
        }
        self.written = written.or(self.written);
        self.sample_at = Some(now.saturating_add(SAMPLE_GAP_MS));
    }

    /// Grants more time to a guest that makes progress.
    pub(super) fn extend(&mut self, now: u64) -> bool {
        let recent = self
            .progress_at
            .is_some_and(|at| now.saturating_sub(at) <= PROGRESS_WINDOW_MS);
        if !recent || now >= self.cap {
            return false;
        }
        self.until = now.saturating_add(PROGRESS_WINDOW_MS).min(self.cap);
        true
    }

    pub(super) fn silent(&self, budget_ms: u64, now: u64) -> bool {
        self.unanswered_since
            .is_some_and(|since| now.saturating_sub(since) >= SILENT_MS.min(budget_ms))
    }
}
