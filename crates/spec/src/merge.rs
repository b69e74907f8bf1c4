//! Several documents become one, left to right.
//!
//! Maps merge key by key at any depth; so do `disks` and `networks`, which are maps by name even when they were
//! written as lists. A scalar or list replaces what was there. Null (`~`) takes out what was there. Extra QEMU
//! words are appended, never folded by option name: two `-device` are two devices. A map whose keys are all
//! numbers replaces single elements of a list (`--set networks.lan.forwards.0=…`).

use crate::fault::Fault;
use crate::yaml::{Entry, Node, Value};

/// Where in the document a merge goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spot {
    Root,
    Qemu,
    Words,
    Elsewhere,
}

impl Spot {
    fn child(self, key: &str) -> Self {
        match (self, key) {
            (Self::Root, "qemu") => Self::Qemu,
            (Self::Qemu, "args") => Self::Words,
            (Self::Root | Self::Qemu | Self::Words | Self::Elsewhere, _) => Self::Elsewhere,
        }
    }
}

/// Merges `over` into `base`; both are normalized.
pub(crate) fn merge(base: &mut Node, over: Node) -> Result<(), Fault> {
    merge_at(base, over, Spot::Root)
}

fn merge_at(base: &mut Node, over: Node, spot: Spot) -> Result<(), Fault> {
    let Node { mark, value } = over;
    match (&mut base.value, value) {
        (Value::Map(entries), Value::Map(changes)) => changes
            .into_iter()
            .try_for_each(|change| merge_entry(entries, change, spot)),
        (Value::List(items), Value::Map(changes)) if are_indices(&changes) => changes
            .into_iter()
            .try_for_each(|change| replace_item(items, change)),
        (Value::List(items), Value::List(more)) if spot == Spot::Words => {
            items.extend(more);
            Ok(())
        }
        (_, value) => {
            *base = Node { mark, value };
            Ok(())
        }
    }
}

fn merge_entry(entries: &mut Vec<Entry>, change: Entry, spot: Spot) -> Result<(), Fault> {
    let Some(index) = entries.iter().position(|entry| entry.key == change.key) else {
        entries.push(change);
        return Ok(());
    };
    if change.value.is_null() {
        entries.remove(index);
        return Ok(());
    }
    match entries.get_mut(index) {
        Some(entry) => {
            let inner = spot.child(&change.key);
            entry.mark = change.mark;
            merge_at(&mut entry.value, change.value, inner)
        }
        None => Ok(()),
    }
}

fn are_indices(changes: &[Entry]) -> bool {
    !changes.is_empty()
        && changes
            .iter()
            .all(|change| change.key.bytes().all(|byte| byte.is_ascii_digit()))
}

fn replace_item(items: &mut Vec<Node>, change: Entry) -> Result<(), Fault> {
    let length = items.len();
    let index: usize = change.key.parse().unwrap_or(usize::MAX);
    match items.get_mut(index) {
        Some(item) => {
            *item = change.value;
            Ok(())
        }
        None if index == length => {
            items.push(change.value);
            Ok(())
        }
        None => Err(Fault::at(
            change.mark,
            format!("no element {} in a list of {length}", change.key),
        )
        .hint(format!("elements are counted from 0; {length} appends one"))),
    }
}
