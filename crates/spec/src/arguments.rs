//! `arguments:` of the Python tool, option by option, as words for QEMU.
//!
//! `foo` is `-foo`; `{k: v}` is `-k v`; `{k: v, a: 1}` is `-k v,a=1`; `{k: {v: ~, a: 1}}` likewise; deeper maps give
//! dotted keys, lists are joined with commas. Different from that tool: booleans are `on` and `off`, and a comma inside
//! the value of a key is doubled, as QEMU wants it. Options that have a field of their own (`machine`, `kernel`,
//! `m`, …) become that field, so that maqet knows about them.

use std::path::Path;

use crate::fault::Fault;
use crate::normalize::Lifted;
use crate::path;
use crate::yaml::{Entry, Kind, Mark, Node, Value};

/// What one item stands for.
#[derive(Debug)]
pub(crate) enum Lowered {
    /// Words for `qemu.args`.
    Words(Vec<Node>),
    /// A field of the spec.
    Native(Lifted),
    /// Something that is always so.
    Implied,
}

/// Options with a field of their own: top-level key, key within it.
const NATIVE: [(&str, &str, Option<&str>); 13] = [
    ("machine", "machine", None),
    ("M", "machine", None),
    ("accel", "accel", None),
    ("m", "memory", None),
    ("smp", "cpus", None),
    ("cpu", "cpu_model", None),
    ("bios", "firmware", None),
    ("display", "display", None),
    ("vga", "vga", None),
    ("kernel", "kernel", Some("image")),
    ("initrd", "kernel", Some("initrd")),
    ("append", "kernel", Some("append")),
    ("no-reboot", "on_reboot", None),
];

/// Given to every QEMU anyway.
const IMPLIED: [&str; 3] = ["nodefaults", "no-user-config", "no-shutdown"];

/// Options whose whole value is a path.
const PATH_OPTIONS: [&str; 12] = [
    "dtb",
    "pflash",
    "mtdblock",
    "sd",
    "cdrom",
    "hda",
    "hdb",
    "hdc",
    "hdd",
    "fda",
    "fdb",
    "option-rom",
];

/// Lowers one item. Relative paths refer to `directory`.
pub(crate) fn lower(item: &Node, directory: &Path, home: Option<&Path>) -> Result<Lowered, Fault> {
    let (option, mark, value) = match &item.value {
        Value::Scalar(Kind::Null, _) | Value::List(_) => return Err(Fault::expected(item, "an option")),
        Value::Scalar(_, text) => (text.trim_start_matches('-'), item.mark, None),
        Value::Map(entries) => {
            let [first, rest @ ..] = entries.as_slice() else {
                return Err(Fault::expected(item, "an option"));
            };
            (
                first.key.trim_start_matches('-'),
                first.mark,
                joined(&first.value, rest)?,
            )
        }
    };
    if IMPLIED.contains(&option) && value.is_none() {
        return Ok(Lowered::Implied);
    }
    if let Some(native) = native(option, mark, value.as_ref()) {
        return Ok(Lowered::Native(native));
    }
    let mut words = vec![Node::text(mark, format!("-{option}"))];
    if let Some(Joined { text, mark, .. }) = value {
        let resolved = resolve(option, &text, directory, home).map_err(|message| Fault::at(mark, message))?;
        words.push(Node::text(mark, resolved));
    }
    Ok(Lowered::Words(words))
}

/// The value of an option in one word.
struct Joined {
    mark: Mark,
    kind: Kind,
    text: String,
}

fn native(option: &str, mark: Mark, value: Option<&Joined>) -> Option<Lifted> {
    if option == "enable-kvm" && value.is_none() {
        return Some(lifted("accel", None, option, mark, Node::text(mark, "kvm")));
    }
    let (_, key, inner) = NATIVE.iter().find(|(name, ..)| *name == option)?;
    match (option, value) {
        ("no-reboot", None) => Some(lifted(key, None, option, mark, Node::text(mark, "stop"))),
        // `-smp cores=2` and `-m slots=2` say more than the field holds: QEMU merges them with ours.
        ("smp", Some(joined)) if !matches!(joined.kind, Kind::Integer(_)) => None,
        ("m", Some(joined)) if joined.text.contains(['=', ',']) => None,
        ("no-reboot", Some(_)) | (_, None) => None,
        (_, Some(joined)) => {
            let value = Node {
                mark: joined.mark,
                value: Value::Scalar(joined.kind, joined.text.clone()),
            };
            Some(lifted(key, *inner, option, mark, value))
        }
    }
}

fn lifted(key: &'static str, inner: Option<&'static str>, option: &str, mark: Mark, value: Node) -> Lifted {
    Lifted {
        key,
        inner,
        entry: Entry {
            key: option.to_owned(),
            mark,
            value,
        },
    }
}

/// Joins the value of an option with the keys beside it.
fn joined(first: &Node, rest: &[Entry]) -> Result<Option<Joined>, Fault> {
    if let (Value::Scalar(kind, text), []) = (&first.value, rest) {
        let text = scalar_text(*kind, text);
        return Ok((*kind != Kind::Null).then_some(Joined {
            mark: first.mark,
            kind: *kind,
            text,
        }));
    }
    let mut parts = Vec::new();
    match &first.value {
        Value::Scalar(Kind::Null, _) => {}
        Value::Scalar(kind, text) => parts.push(scalar_text(*kind, text)),
        Value::List(items) => push_list("", items, &mut parts)?,
        Value::Map(entries) => entries
            .iter()
            .try_for_each(|entry| push_entry("", entry, &mut parts))?,
    }
    rest.iter()
        .try_for_each(|entry| push_entry("", entry, &mut parts))?;
    let text = parts.join(",");
    Ok((!text.is_empty()).then_some(Joined {
        mark: first.mark,
        kind: Kind::Text,
        text,
    }))
}

/// `key`, `key=value`, `prefix.key=value`, …
fn push_entry(prefix: &str, entry: &Entry, parts: &mut Vec<String>) -> Result<(), Fault> {
    let key = if prefix.is_empty() {
        entry.key.clone()
    } else {
        format!("{prefix}.{}", entry.key)
    };
    match &entry.value.value {
        Value::Scalar(Kind::Null, _) => parts.push(key),
        Value::Scalar(kind, text) => {
            parts.push(format!("{key}={}", scalar_text(*kind, text).replace(',', ",,")));
        }
        Value::List(items) => push_list(&key, items, parts)?,
        Value::Map(entries) => entries
            .iter()
            .try_for_each(|inner| push_entry(&key, inner, parts))?,
    }
    Ok(())
}

fn push_list(prefix: &str, items: &[Node], parts: &mut Vec<String>) -> Result<(), Fault> {
    for item in items {
        match &item.value {
            Value::Scalar(kind, text) if *kind != Kind::Null => {
                let text = scalar_text(*kind, text);
                parts.push(if prefix.is_empty() {
                    text
                } else {
                    format!("{prefix}.{text}")
                });
            }
            Value::Map(entries) => entries
                .iter()
                .try_for_each(|entry| push_entry(prefix, entry, parts))?,
            Value::Scalar(..) | Value::List(_) => return Err(Fault::expected(item, "a word")),
        }
    }
    Ok(())
}

fn scalar_text(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Boolean(true) => "on".to_owned(),
        Kind::Boolean(false) => "off".to_owned(),
        Kind::Null | Kind::Integer(_) | Kind::Fraction | Kind::Text => text.to_owned(),
    }
}

/// Makes the paths in an option's value absolute: QEMU runs in `/`. A path is recognized by its option, by the keys
/// `file`, `filename` and `path`, or by beginning with `./`, `../` or `~/`, also after `unix:`, `file:` or `pipe:`.
fn resolve(option: &str, text: &str, directory: &Path, home: Option<&Path>) -> Result<String, String> {
    if PATH_OPTIONS.contains(&option) {
        return escaped(text, directory, home).map(|path| path.replace(",,", ","));
    }
    let parts: Result<Vec<String>, String> = text
        .split(',')
        .map(|part| resolve_part(part, directory, home))
        .collect();
    Ok(parts?.join(","))
}

fn resolve_part(part: &str, directory: &Path, home: Option<&Path>) -> Result<String, String> {
    let (key, value) = part
        .split_once('=')
        .map_or(("", part), |(key, value)| (key, value));
    let scheme = ["unix:", "file:", "pipe:"]
        .iter()
        .find(|scheme| value.starts_with(**scheme))
        .copied()
        .unwrap_or("");
    let bare = value.get(scheme.len()..).unwrap_or_default();
    let explicit = ["./", "../", "~/"].iter().any(|start| bare.starts_with(start));
    let by_key = matches!(key, "file" | "filename" | "path") && !bare.is_empty() && !bare.contains(':');
    if !explicit && !by_key {
        return Ok(part.to_owned());
    }
    let before = part.get(..part.len() - bare.len()).unwrap_or_default();
    Ok(format!("{before}{}", escaped(bare, directory, home)?))
}

fn escaped(written: &str, directory: &Path, home: Option<&Path>) -> Result<String, String> {
    let path = path::absolute(written, directory, home)?;
    Ok(path.display().to_string().replace(',', ",,"))
}

#[cfg(test)]
mod tests;
