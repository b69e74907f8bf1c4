//! What the supervisor says of itself.

use actix::{Handler, ResponseFuture};
use maqet_protocol::control::SupervisorStatus;
use maqet_state::lifecycle::Status;

use super::SupervisorActor;
use crate::messages::{DescribeStore, DescribeSupervisor};

impl Handler<DescribeSupervisor> for SupervisorActor {
    type Result = ResponseFuture<SupervisorStatus>;

    fn handle(&mut self, _message: DescribeSupervisor, _context: &mut Self::Context) -> Self::Result {
        let running = self.shared.board.lines(Some(Status::Running)).len();
        let status = SupervisorStatus {
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: self.since,
            data_dir: self.shared.places.data.clone(),
            runtime_dir: self.shared.places.runtime.clone(),
            vms: u64::try_from(self.vms.len()).unwrap_or(u64::MAX),
            running: u64::try_from(running).unwrap_or(u64::MAX),
            memory: resident_memory(),
            cursor: 0,
            store: None,
            virtiofsd: self.shared.settings.storage.virtiofsd.clone(),
        };
        let state = self.shared.state.clone();
        Box::pin(async move {
            match state.send(DescribeStore).await {
                Ok(store) => SupervisorStatus {
                    cursor: store.cursor,
                    store: Some(store.status),
                    ..status
                },
                Err(_gone) => status,
            }
        })
    }
}

/// Bytes of memory this process has resident; zero when the system does not tell.
fn resident_memory() -> u64 {
    use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
    let Ok(mut system) = System::new() else { return 0 };
    let pid = Pid::from_u32(std::process::id());
    let refresh = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, refresh);
    system.process(pid).map_or(0, sysinfo::Process::memory)
}
