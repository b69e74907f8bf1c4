//! What happened, in plain words.

mod disks;

use std::time::Duration;

use maqet_protocol::control::Event;
use maqet_state::lifecycle::LastExit;
use serde_json::{Value, json};

use super::causes;
use crate::render::units;

/// One entry of the journal as a person would tell it; `None` for what only programs care about.
pub(super) fn tell(event: &Event) -> Option<String> {
    Some(match event.kind.as_str() {
        "vm.added" => "it was added".to_owned(),
        "vm.enabled" => "it was enabled: it starts with the supervisor".to_owned(),
        "vm.disabled" => "it was disabled: it no longer starts with the supervisor".to_owned(),
        "vm.restored" => "its record was restored, because the store had lost it".to_owned(),
        "vm.rebuilt" => rebuilt(event),
        "vm.starting" => starting(event).to_owned(),
        "vm.running" => running(event),
        "vm.stopping" => stopping(event),
        "vm.stop-failed" => format!("the stop failed, and it runs on: {}", text(event, "message")),
        "vm.stopped" | "vm.failed" => ended(event),
        "vm.restarting" => restarting(event),
        "vm.restart-cancelled" => {
            "the restart that was due was called off, because a stop was asked for".to_owned()
        }
        "vm.crash-loop" => gave_up(event),
        "vm.silent" => {
            "it stopped answering: its QEMU or its runner hangs, was frozen, or is gone".to_owned()
        }
        "vm.answering" => "it answers again".to_owned(),
        "runner.adopted" => {
            "maqet took the running VM over again; the guest went on all the while".to_owned()
        }
        "vm.removing" if event.data.get("resumed") == Some(&Value::Bool(true)) => {
            "a removal that was cut off went on".to_owned()
        }
        "vm.removing" => format!("its removal began, with these images: {}", list(event, "images")),
        "vm.removal-failed" => removal_failed(event),
        "vm.share-lost" => format!(
            "share `{}` was lost, and whatever the guest does there waits for ever: {}",
            text(event, "share"),
            text(event, "detail")
        ),
        kind => {
            return match kind.strip_prefix("qmp.") {
                Some(name) => by_qemu(name, event),
                None => disks::tell(event),
            };
        }
    })
}

/// The few events of QEMU that tell a person something.
fn by_qemu(name: &str, event: &Event) -> Option<String> {
    Some(match name {
        "POWERDOWN" => "the guest was asked to shut down (its power button was pressed)".to_owned(),
        "SHUTDOWN" if event.data.get("guest") == Some(&Value::Bool(true)) => {
            match text(event, "reason").as_str() {
                "guest-panic" => "the guest ended by its panic".to_owned(),
                "guest-reset" => "the guest rebooted".to_owned(),
                _ => "the guest has shut down".to_owned(),
            }
        }
        "RESET" if event.data.get("guest") == Some(&Value::Bool(true)) => "the guest rebooted".to_owned(),
        "RESET" => "the guest was reset".to_owned(),
        "STOP" => "the guest was halted".to_owned(),
        "RESUME" => "the guest was let run".to_owned(),
        "GUEST_PANICKED" => "the guest's kernel panicked".to_owned(),
        "WATCHDOG" => format!("the guest's watchdog ran out (action: {})", text(event, "action")),
        "BLOCK_IO_ERROR" => format!(
            "disk `{}` failed to {}: {}",
            text(event, "device"),
            text(event, "operation"),
            text(event, "reason")
        ),
        _ => return None,
    })
}

/// Who wanted a start.
pub(super) fn starting(event: &Event) -> &'static str {
    match by(event) {
        Some("command") => "a command asked for its start",
        Some("policy") => "its restart policy started it again",
        Some("autostart") => "it was started with the supervisor, because it is enabled",
        _ => "it was started",
    }
}

/// Whom the journal names as the one who wanted it.
pub(super) fn by(event: &Event) -> Option<&str> {
    event.data.get("by").and_then(Value::as_str)
}

fn running(event: &Event) -> String {
    let took = number(event, "took_ms").map(|ms| format!(", {} after the start was asked for", span(ms)));
    let slow = event.data.get("accel_fallback").and_then(Value::as_str);
    let slow = slow.map(|why| format!("; emulated and slow, because {why}"));
    let more: String = took.into_iter().chain(slow).collect();
    let accel = text(event, "accel");
    format!("QEMU ran (process {}, {accel}){more}", text(event, "pid"))
}

fn stopping(event: &Event) -> String {
    let force = event.data.get("force") == Some(&Value::Bool(true));
    match (by(event), force) {
        (Some("runner-lost"), _) => {
            "a stop began, because its runner was lost (`on_runner_loss: stop`)".to_owned()
        }
        (Some("supervisor-exit"), _) => {
            "the supervisor ended and stopped it first (`on_exit: stop`)".to_owned()
        }
        (_, true) => "a command asked for its end by force".to_owned(),
        (_, false) => "a command asked it to stop".to_owned(),
    }
}

fn ended(event: &Event) -> String {
    let known = |key: &str| event.data.get(key).cloned().unwrap_or(Value::Null);
    let exit = json!({"cause": known("cause"), "at": event.at, "exit_code": known("exit_code"),
        "signal": known("signal"), "detail": Value::Null});
    let sentence = match serde_json::from_value::<LastExit>(exit) {
        Ok(exit) => causes::sentence(&exit),
        Err(_unknown) => text(event, "cause"),
    };
    let verdict = if event.kind == "vm.failed" {
        "it failed"
    } else {
        "it ended"
    };
    let found = if text(event, "found_by") == "recovery" {
        "; found so by a new supervisor, which was not there when it happened"
    } else {
        ""
    };
    let cut_off = match event.data.get("load_cut_off").and_then(Value::as_str) {
        Some(name) => format!(
            "; while the snapshot `{name}` was being loaded: its disks may hold different moments, until a snapshot is loaded again"
        ),
        None => String::new(),
    };
    format!("{verdict}: {sentence}{found}{cut_off}")
}

fn restarting(event: &Event) -> String {
    let pause = number(event, "pause_ms").map_or_else(|| "soon".to_owned(), |ms| format!("in {}", span(ms)));
    format!(
        "its restart policy will start it again {pause} (restart {} of {})",
        text(event, "try"),
        text(event, "tries")
    )
}

fn gave_up(event: &Event) -> String {
    let window = number(event, "window_s").map(units::uptime);
    format!(
        "its restart policy gave up: {} restarts within {} did not keep it up. A start by a person begins anew",
        text(event, "tries"),
        window.unwrap_or_else(|| "its window".to_owned())
    )
}

fn removal_failed(event: &Event) -> String {
    let message = text(event, "message");
    match event.data.get("deleted") {
        Some(_) => format!(
            "its removal stopped: {message}; deleted: {}",
            list(event, "deleted")
        ),
        None => format!("its removal failed, and no image is deleted: {message}"),
    }
}

fn rebuilt(event: &Event) -> String {
    let panic = event.data.get("panic").and_then(Value::as_str);
    let why = panic.map(|words| format!(" ({words})")).unwrap_or_default();
    format!(
        "a defect in maqet{why} ended the part of the supervisor that looks after it, which was made anew"
    )
}

fn span(milliseconds: u64) -> String {
    units::duration(Duration::from_millis(milliseconds))
}

fn number(event: &Event, key: &str) -> Option<u64> {
    event.data.get(key).and_then(Value::as_u64)
}

/// What is in a list, one after the other.
fn list(event: &Event, key: &str) -> String {
    let listed = event.data.get(key).and_then(Value::as_array);
    let words = listed.into_iter().flatten().filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(", ")
}

fn text(event: &Event, key: &str) -> String {
    match event.data.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "?".to_owned(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
