//! What the journal tells of an end.

use maqet_state::clock::Timestamp;
use maqet_state::journal::NewEvent;
use maqet_state::lifecycle::Status;
use maqet_state::record::VmRecord;

/// `vm.stopped` or `vm.failed` of a VM that has just ended, with all that is known of how.
pub(crate) fn end_of(record: &VmRecord, now: Timestamp) -> NewEvent {
    let kind = if record.status() == Status::Stopped {
        "vm.stopped"
    } else {
        "vm.failed"
    };
    let event = NewEvent::new(kind, now).about(record);
    let event = match record.load_cut_off() {
        Some(snapshot) => event.with("load_cut_off", snapshot),
        None => event,
    };
    let Some(exit) = &record.last_exit else {
        return event.with("cause", "ended-unknown");
    };
    let event = event.with("cause", exit.cause.as_str());
    let event = match &exit.detail {
        Some(detail) => event.with("detail", detail.clone()),
        None => event,
    };
    event
        .with("exit_code", exit.exit_code)
        .with("signal", exit.signal)
}
