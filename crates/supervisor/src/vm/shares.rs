//! Shared directories: what is shown of them, and what is told when one is lost.

use actix::Context;
use maqet_protocol::control::{ShareLoss, ShareStatus};
use maqet_state::change::Change;
use maqet_state::record::{Helper, Launch};

use super::VmActor;

impl VmActor {
    /// The virtiofsd of a share is gone under QEMU. What was told before is in the journal already.
    pub(super) fn share_lost(
        &mut self,
        share: String,
        loss: ShareLoss,
        again: bool,
        context: &mut Context<Self>,
    ) {
        let Some(live) = &mut self.live else { return };
        let known = live.losses.insert(share.clone(), loss.clone()).is_some();
        if known || again {
            return;
        }
        let shares = &self.record.spec.shares;
        let path = shares.iter().find(|known| known.name == share);
        let path = path.map(|known| known.path.display().to_string());
        let event = self.event("vm.share-lost").with("share", share);
        let event = event.with("path", path).with("detail", loss.detail);
        self.persist_later(Change::default().event(event), context);
    }

    /// What `status` shows of the shares.
    pub(super) fn shares(&self) -> Vec<ShareStatus> {
        let live = self.live.as_ref().filter(|live| live.exit.is_none());
        let helpers = self.helpers();
        let shares = self.record.spec.shares.iter().map(|share| {
            let lost = live.and_then(|live| live.losses.get(&share.name)).cloned();
            let helper = helpers.iter().find(|helper| helper.share == share.name);
            let there = live.is_some() && lost.is_none();
            ShareStatus {
                name: share.name.clone(),
                path: share.path.clone(),
                tag: share.tag.clone(),
                kind: share.kind.as_str().to_owned(),
                readonly: share.readonly,
                pid: helper.filter(|_| there).map(|helper| helper.identity.pid),
                lost,
            }
        });
        shares.collect()
    }

    /// Helpers of the present launch.
    pub(super) fn helpers(&self) -> &[Helper] {
        let launch: Option<&Launch> = self.record.state.launch();
        launch.map_or(&[], |launch| &launch.helpers)
    }
}
