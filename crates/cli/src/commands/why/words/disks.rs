//! What happened to disks and their snapshots.

use maqet_protocol::control::Event;
use serde_json::Value;

use super::{number, text};
use crate::render::units;

/// One entry of the journal about a disk; `None` for all others.
pub(super) fn tell(event: &Event) -> Option<String> {
    let disk = text(event, "disk");
    Some(match event.kind.as_str() {
        "disk.created" => format!("its disk image was made: {}", text(event, "path")),
        "vm.disk-checked" => checked(event),
        "vm.disk-quarantined" => {
            let found = text(event, "found");
            format!("disk `{disk}` was found damaged and is not written to: {found}")
        }
        "vm.disk-repaired" => repaired(event),
        "vm.disk-full" => full(event),
        "vm.disk-resumed" => format!("there was room for disk `{disk}` again, and the guest went on"),
        "vm.disk-error" => format!("disk `{disk}`: {}", text(event, "detail")),
        "vm.disk-damaged" => format!("QEMU found disk `{disk}` damaged: {}", text(event, "detail")),
        "vm.disk-accepted" => format!("the file of disk `{disk}` was accepted as it is"),
        "vm.disk-attached" if event.data.get("live") == Some(&Value::Bool(true)) => {
            format!("its guest got disk `{disk}`: {}", text(event, "path"))
        }
        "vm.disk-attached" => format!("it got disk `{disk}`: {}", text(event, "path")),
        "vm.disk-not-attached" => format!("QEMU did not take disk `{disk}`: {}", text(event, "message")),
        "vm.disk-resized" => {
            let bytes = |key| number(event, key).map_or_else(|| "?".to_owned(), units::size);
            format!(
                "disk `{disk}` has {} instead of {}",
                bytes("after"),
                bytes("before")
            )
        }
        _ => return snapshot(event),
    })
}

fn snapshot(event: &Event) -> Option<String> {
    let name = text(event, "name");
    let is = |key: &str| event.data.get(key) == Some(&Value::Bool(true));
    let memory = if is("memory") { " with memory" } else { "" };
    Some(match event.kind.as_str() {
        "vm.snapshot-created" => format!("snapshot `{name}` was made{memory}"),
        "vm.snapshot-loaded" => format!("its disks went back to snapshot `{name}`{memory}"),
        "vm.snapshot-deleted" => format!("snapshot `{name}` was deleted"),
        "vm.snapshot-failed" => format!("work on a snapshot failed: {}", text(event, "message")),
        "vm.snapshot-recovered" if is("achieved") => {
            format!("work on snapshot `{name}` was cut off, and is done")
        }
        "vm.snapshot-recovered" if event.data.contains_key("kept_as") => format!(
            "snapshot `{name}` was being replaced; the new one is kept as `{}`, the old one is gone",
            text(event, "kept_as")
        ),
        "vm.snapshot-recovered" => format!("work on snapshot `{name}` was cut off, and was taken back"),
        _ => return None,
    })
}

fn full(event: &Event) -> String {
    let free = number(event, "free_bytes").map(|bytes| format!(" ({bytes} bytes free)"));
    let (disk, free) = (text(event, "disk"), free.unwrap_or_default());
    format!(
        "the guest was halted: the host has no room for disk `{disk}`{free}; it goes on by itself once there is"
    )
}

fn checked(event: &Event) -> String {
    let disk = text(event, "disk");
    match number(event, "leaks") {
        Some(leaks) if leaks > 0 => {
            let leaks = units::count(leaks, "leaked cluster", "leaked clusters");
            format!("disk `{disk}` was checked after an unclean end: whole, but for {leaks}")
        }
        _ => format!("disk `{disk}` was checked after an unclean end: whole"),
    }
}

fn repaired(event: &Event) -> String {
    let disk = text(event, "disk");
    let whole = if event.data.get("whole") == Some(&Value::Bool(true)) {
        "it is whole"
    } else {
        "it is not whole yet"
    };
    let what = event.data.get("repaired").and_then(Value::as_array);
    let what: Vec<_> = what.into_iter().flatten().filter_map(Value::as_str).collect();
    match what.as_slice() {
        [] => format!("disk `{disk}` was checked: {whole}"),
        what => format!("disk `{disk}` was repaired, {whole}: {}", what.join(", ")),
    }
}
