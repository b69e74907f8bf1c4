//! Shares as the Python tool of the same name writes them: among its `storage`, with `type: virtfs`.

use crate::fault::Fault;
use crate::fields::Fields;
use crate::yaml::{Entry, Node, Value};

/// Takes the shares out of disks by name, as shares by name.
pub(crate) fn take_out(disks: &mut Node) -> Result<Vec<Entry>, Fault> {
    let Value::Map(entries) = &mut disks.value else {
        return Ok(Vec::new());
    };
    let (shares, rest) = std::mem::take(entries)
        .into_iter()
        .partition(|entry| is_virtfs(&entry.value));
    *entries = rest;
    let shares: Vec<Entry> = shares;
    shares.into_iter().map(lower).collect()
}

fn is_virtfs(disk: &Node) -> bool {
    let kind = disk.get("type").map(|kind| &kind.value);
    matches!(kind, Some(Value::Scalar(_, text)) if text == "virtfs")
}

fn lower(entry: Entry) -> Result<Entry, Fault> {
    let fields = Fields::of(&entry.value, "a share", &["type", "path", "options"])?;
    let path = fields.get("path").map(|path| named("path", path));
    let mut native: Vec<Entry> = path.into_iter().collect();
    if let Some(options) = fields.get("options") {
        let known = ["mount_tag", "security_model", "id", "readonly"];
        let options = Fields::of(options, "the `options` of a share", &known)?;
        // `id` is a name inside QEMU that nobody else sees.
        for (theirs, ours) in [
            ("mount_tag", "tag"),
            ("security_model", "security"),
            ("readonly", "readonly"),
        ] {
            native.extend(options.get(theirs).map(|value| named(ours, value)));
        }
    }
    Ok(Entry {
        value: Node::map(entry.mark, native),
        ..entry
    })
}

fn named(key: &str, value: &Node) -> Entry {
    Entry {
        key: key.to_owned(),
        mark: value.mark,
        value: value.clone(),
    }
}
