//! Shared directories.

use super::devices::name;
use crate::decode::{Context, file};
use crate::fault::Fault;
use crate::fields::{Fields, boolean, choice, text};
use crate::share::{Share, ShareKind, ShareSecurity};
use crate::yaml::{Entry, Node};

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
    let kind = fields.read("type", kind)?.unwrap_or_default();
    let unsaid = match kind {
        ShareKind::Plan9 => ShareSecurity::default(),
        ShareKind::Virtiofs => ShareSecurity::Passthrough,
    };
    Ok(Share {
        path: file(path, cx)?,
        tag: fields.read("tag", text)?.unwrap_or_else(|| name.clone()),
        kind,
        readonly: fields.read("readonly", boolean)?.unwrap_or_default(),
        security: fields
            .read("security", |node| {
                choice(node, "a way to keep owners", &ShareSecurity::ALL)
            })?
            .unwrap_or(unsaid),
        name,
    })
}

fn kind(node: &Node) -> Result<ShareKind, Fault> {
    let known = [
        ("auto", ShareKind::Plan9),
        ("9p", ShareKind::Plan9),
        ("virtiofs", ShareKind::Virtiofs),
    ];
    choice(node, "a type of share", &known)
}
