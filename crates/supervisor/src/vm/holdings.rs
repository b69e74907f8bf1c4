//! What a VM has, for those who look for what nobody has.

use actix::{Context, Handler, MessageResult};
use maqet_process::identity::Liveness;
use maqet_process::pidfd::ProcessHandle;
use maqet_state::lifecycle::Activity;

use super::VmActor;
use crate::leaks::Held;
use crate::messages::WhatIsHeld;

impl Handler<WhatIsHeld> for VmActor {
    type Result = MessageResult<WhatIsHeld>;

    fn handle(&mut self, _message: WhatIsHeld, _context: &mut Context<Self>) -> Self::Result {
        MessageResult(self.held())
    }
}

impl VmActor {
    fn held(&self) -> Held {
        let live = self.live.as_ref();
        let processes = [
            live.and_then(|live| live.runner.as_ref()),
            live.map(|live| &live.qemu),
            self.leaving.as_ref(),
        ];
        // As long as a pidfd shows no end, the number is that process's.
        let alive = |process: &&ProcessHandle| !process.has_exited();
        let helpers = self.helpers().iter();
        let helpers = helpers.filter(|helper| matches!(helper.identity.verify(), Liveness::Alive(_)));
        let pids: Vec<_> = processes
            .into_iter()
            .flatten()
            .filter(alive)
            .map(ProcessHandle::pid)
            .chain(helpers.map(|helper| helper.identity.pid))
            .collect();
        Held {
            id: self.record.id.clone(),
            name: self.name().to_owned(),
            busy: self.activity != Activity::Idle
                || self.is_changing_hands()
                || self.tally.is_pending()
                || self.turn.try_lock().is_err(),
            launch_id: self.record.state.launch().map(|launch| launch.launch_id.clone()),
            runs: !pids.is_empty(),
            qemu: live.map(|live| live.qemu.pid()).filter(|pid| pids.contains(pid)),
            pids,
            disks: self
                .record
                .spec
                .disks
                .iter()
                .map(|disk| disk.path.clone())
                .collect(),
        }
    }

    /// A runner is being replaced, or QEMU has ended and how is being found out.
    fn is_changing_hands(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| live.runner.is_none() || live.exit.is_some() || live.qemu.has_exited())
    }
}
