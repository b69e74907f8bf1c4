//! Shared directories.

use super::devices::name;
use crate::decode::{Context, file};
use crate::fault::Fault;
use crate::fields::{Fields, boolean, choice, text};
use crate::share::{Share, ShareKind, ShareSecurity};
use crate::yaml::{Entry, Node, Value};

/// What a document may say about a share.
const KEYS: [&str; 5] = ["path", "tag", "type", "readonly", "security"];

/// Shares in the order of the document.
pub(super) fn shares(node: &Node, cx: Context<'_>) -> Result<Vec<Share>, Fault> {
    let Some(entries) = node.entries() else {
        return Err(Fault::expected(node, "shares by name").hint("for example `shares: {src: ./src}`"));
    };
    entries.iter().map(|entry| share(entry, cx)).collect()
}

fn share(entry: &Entry, cx: Context<'_>) -> Result<Share, Fault> {
    let name = name(entry, "share")?;
    let hint = format!("write `{name}: ./{name}` or `{name}: {{path: ./{name}, readonly: true}}`");
    if entry.value.is_null() {
        return Err(Fault::at(entry.mark, format!("share `{name}` has no value")).hint(hint));
    }
    let fields = Fields::of(&entry.value, "a share", &KEYS)?;
    let Some(path) = fields.get("path") else {
        return Err(Fault::at(entry.mark, format!("share `{name}` has no `path`")).hint(hint));
    };
    Ok(Share {
        path: file(path, cx)?,
        tag: fields.read("tag", text)?.unwrap_or_else(|| name.clone()),
        kind: fields.read("type", kind)?.unwrap_or_default(),
        readonly: fields.read("readonly", boolean)?.unwrap_or_default(),
        security: fields
            .read("security", |node| {
                choice(node, "a way to keep owners", &ShareSecurity::ALL)
            })?
            .unwrap_or_default(),
        name,
    })
}

fn kind(node: &Node) -> Result<ShareKind, Fault> {
    match &node.value {
        Value::Scalar(_, text) if text == "virtiofs" => Err(Fault::at(
            node.mark,
            "`type: virtiofs`: this version shares directories by 9p only",
        )
        .hint("leave `type` out; in the guest: `mount -t 9p -o trans=virtio TAG /mnt`")),
        Value::Scalar(..) | Value::List(_) | Value::Map(_) => choice(
            node,
            "a type of share",
            &[("auto", ShareKind::Plan9), ("9p", ShareKind::Plan9)],
        ),
    }
}
