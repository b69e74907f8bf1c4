//! States, facts and records to put together.

use maqet_process::identity::{ProcessIdentity, Role};
use maqet_state::clock::Timestamp;
use maqet_state::lifecycle::{Cause, Fact, FactKind, LastExit, apply};
use maqet_state::record::{Intent, Launch, VmRecord, VmState};
use serde_json::json;

/// The launch that [`states`] are at.
pub(crate) const GENERATION: u64 = 4;

pub(crate) fn at(ms: u64) -> Timestamp {
    Timestamp(1_800_000_000_000 + ms)
}

pub(crate) fn identity(role: Role, generation: u64) -> ProcessIdentity {
    ProcessIdentity {
        role,
        boot_id: "boot".to_owned(),
        pidns_inode: 1,
        pid: 100,
        pidfs_inode: None,
        pidfs_handle: None,
        start_ticks: 5,
        executables: Vec::new(),
        launch_id: format!("{generation:032x}"),
        generation,
    }
}

pub(crate) fn exit(cause: Cause) -> LastExit {
    LastExit {
        cause,
        at: at(9),
        exit_code: None,
        signal: None,
        detail: None,
    }
}

/// A fact of `kind` about launch `generation`; an end has this cause.
pub(crate) fn fact(kind: FactKind, generation: u64, cause: Cause) -> Fact {
    match kind {
        FactKind::Launching => {
            let runner = identity(Role::Runner, generation);
            Fact::Launching(Box::new(Launch::new(
                runner.launch_id.clone(),
                generation,
                runner,
                at(1),
            )))
        }
        FactKind::LaunchFailed => Fact::LaunchFailed {
            exit: exit(Cause::StartFailed),
        },
        FactKind::QemuRecorded => Fact::QemuRecorded {
            qemu: identity(Role::Qemu, generation),
            helpers: Vec::new(),
        },
        FactKind::Confirmed => Fact::Confirmed {
            generation,
            running: json!({"run_state": "running"}),
        },
        FactKind::StopIntended => Fact::StopIntended {
            generation,
            intent: Intent::Stop,
        },
        FactKind::RunnerReplaced => Fact::RunnerReplaced {
            runner: identity(Role::Runner, generation),
        },
        FactKind::Ended => Fact::Ended {
            generation,
            exit: exit(cause),
        },
    }
}

/// Every state with the name it has in the tables: `running` is three, by how far its launch has come.
pub(crate) fn states() -> [(&'static str, VmState); 6] {
    let next = |state: &VmState, kind| apply(state, fact(kind, GENERATION, Cause::Stop)).unwrap();
    let launching = next(&VmState::Created, FactKind::Launching);
    let recorded = next(&launching, FactKind::QemuRecorded);
    let confirmed = next(&recorded, FactKind::Confirmed);
    [
        ("created", VmState::Created),
        ("launching", launching),
        ("recorded", recorded),
        ("confirmed", confirmed),
        ("stopped", VmState::Stopped),
        ("failed", VmState::Failed),
    ]
}

/// The name that [`states`] gives a state like this one.
pub(crate) fn name(state: &VmState) -> &'static str {
    match state {
        VmState::Created => "created",
        VmState::Stopped => "stopped",
        VmState::Failed => "failed",
        VmState::Running(launch) if launch.is_confirmed() => "confirmed",
        VmState::Running(launch) if launch.qemu.is_some() => "recorded",
        VmState::Running(_) => "launching",
    }
}

pub(crate) fn record() -> VmRecord {
    let spec = serde_json::from_value(json!({
        "name": "web", "binary": "qemu-system-x86_64", "machine": "q35", "accel": "tcg",
        "memory": 536_870_912, "cpus": 2,
    }));
    VmRecord::new(format!("{:032x}", 1).parse().unwrap(), spec.unwrap(), at(0))
}
