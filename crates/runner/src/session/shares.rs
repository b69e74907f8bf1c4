//! Watches who serves the shares of QEMU.

use std::time::Duration;

use maqet_process::ProcessHandle;
use maqet_protocol::control::ShareLoss;
use maqet_protocol::runner::RunnerFact;
use maqet_state::clock;
use tokio::time::timeout;

use super::{News, Session, Stage};
use crate::monitor;
use crate::qemu::Qemu;

/// A virtiofsd ends because QEMU does, and may be first: its connection is closed before QEMU is quite gone.
const WITH_QEMU: Duration = Duration::from_millis(500);

impl Session {
    /// Has the ends of QEMU's helpers told.
    pub(super) fn attend_helpers(&self, qemu: &Qemu) {
        for helper in &qemu.helpers {
            let handle = helper.handle.as_ref().map(ProcessHandle::try_clone);
            let (Some(Ok(handle)), Ok(qemu)) = (handle, qemu.handle.try_clone()) else {
                continue;
            };
            let share = helper.share.clone();
            self.expect(async move {
                monitor::gone(&handle).await;
                let ended_first = timeout(WITH_QEMU, monitor::gone(&qemu)).await.is_err();
                News::HelperGone { share, ended_first }
            });
        }
    }

    /// A virtiofsd is gone. While QEMU is being ended, or has not come up, that is told with QEMU's end.
    pub(super) fn helper_gone(&mut self, share: &str, ended_first: bool) {
        let ending = self.ending.is_some();
        let Stage::Up(live) = &mut self.stage else { return };
        if ending || !ended_first || live.dead_until.is_some() {
            return;
        }
        let Qemu { helpers, logs, .. } = &mut live.qemu;
        let Some(helper) = helpers.iter_mut().find(|helper| helper.share == share) else {
            return;
        };
        let (detail, since) = (helper.account(logs), clock::now());
        let loss = ShareLoss { detail, since };
        helper.loss = Some(loss.clone());
        helper.told = true;
        tracing::warn!(share, detail = loss.detail, "a share is lost");
        self.publish(&RunnerFact::ShareLost {
            share: share.to_owned(),
            loss,
            again: false,
        });
        self.moved();
    }

    /// Shares that are lost, for a new watcher.
    pub(super) fn losses(&self) -> Vec<RunnerFact> {
        let Stage::Up(live) = &self.stage else {
            return Vec::new();
        };
        let facts = live.qemu.helpers.iter().filter_map(|helper| {
            let (share, loss) = helper.lost()?;
            let again = helper.told;
            Some(RunnerFact::ShareLost { share, loss, again })
        });
        facts.collect()
    }

    /// Tells of shares that were lost while no runner was there.
    pub(super) fn tell_losses(&mut self) {
        let facts = self.losses();
        for fact in &facts {
            self.publish(fact);
        }
        if let Stage::Up(live) = &mut self.stage {
            for helper in &mut live.qemu.helpers {
                helper.told = helper.loss.is_some();
            }
        }
        if !facts.is_empty() {
            self.moved();
        }
    }
}
