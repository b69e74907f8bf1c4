//! Reading typed values out of nodes.

use std::ops::RangeInclusive;

use crate::fault::Fault;
use crate::yaml::{Entry, Kind, Node, Value, nearest};

/// The keys of a map, all of them known.
#[derive(Debug)]
pub(crate) struct Fields<'n> {
    entries: &'n [Entry],
}

/// Keys of other tools, and of the Python tool, that are no typing mistakes: what to write instead.
const FOREIGN: [(&str, &str); 21] = [
    ("enable_kvm", "write `accel: kvm`"),
    ("kvm", "write `accel: kvm`"),
    ("machine_type", "write `machine`"),
    (
        "ssh_port",
        "write `networks: {lan: {forwards: [\"tcp:127.0.0.1:PORT:22\"]}}`",
    ),
    (
        "ports",
        "write `networks: {lan: {forwards: [\"tcp:127.0.0.1:auto:22\"]}}`",
    ),
    ("vnc_port", "write `display: \"vnc=127.0.0.1:1\"`"),
    (
        "cdrom",
        "give the image as a disk: `disks: {cd: {path: ./x.iso, media: cdrom}}`",
    ),
    ("boot_order", "disks boot in the order of the file"),
    (
        "disk_size",
        "write `disks: {root: {path: ./root.qcow2, size: 10G}}`",
    ),
    (
        "storage_format",
        "write `disks: {root: {path: ./root.qcow2, format: qcow2}}`",
    ),
    ("extra_args", "write `qemu: {args: […]}`"),
    ("vms", "one file is one VM"),
    (
        "extends",
        "give several files: `maqet add base.yaml web.yaml` merges them left to right",
    ),
    (
        "include",
        "give several files: `maqet add base.yaml web.yaml` merges them left to right",
    ),
    (
        "backing_file",
        "images with a backing file cannot be created by this version; make it with `qemu-img create -b` and give its path",
    ),
    (
        "backing_format",
        "images with a backing file cannot be created by this version; make it with `qemu-img create -b` and give its path",
    ),
    ("initrd", "write `kernel: {image: …, initrd: …}`"),
    ("append", "write `kernel: {image: …, append: …}`"),
    ("cmdline", "write `append`"),
    ("bios", "write `firmware`"),
    (
        "media",
        "a CD-ROM is one of the `disks`: `{path: ./x.iso, media: cdrom}`",
    ),
];

impl<'n> Fields<'n> {
    /// Checks that `node` is a map with no other keys than `known`. `what` names it in errors: `a disk`.
    pub(crate) fn of(node: &'n Node, what: &str, known: &[&str]) -> Result<Self, Fault> {
        let Some(entries) = node.entries() else {
            let keys = known.join(", ");
            return Err(
                Fault::expected(node, &format!("{what} as a map")).hint(format!("its fields are {keys}"))
            );
        };
        match entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
            Some(entry) => Err(unknown(entry, known)),
            None => Ok(Self { entries }),
        }
    }

    /// The value of a key; `None` also when it is null.
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.written(key).filter(|node| !node.is_null())
    }

    /// The value of a key, null or not.
    pub(crate) fn written(&self, key: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// The value of a key read by `read`, if there is one.
    pub(crate) fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&'n Node) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        self.get(key).map(read).transpose()
    }
}

fn unknown(entry: &Entry, known: &[&str]) -> Fault {
    let key = &entry.key;
    if let Some((_, hint)) = FOREIGN.iter().find(|(foreign, _)| foreign == key) {
        return Fault::at(entry.mark, format!("unknown field `{key}`")).hint(*hint);
    }
    if let Some(meant) = nearest(key, known) {
        return Fault::at(
            entry.mark,
            format!("unknown field `{key}`, did you mean `{meant}`?"),
        );
    }
    Fault::at(entry.mark, format!("unknown field `{key}`"))
        .hint(format!("fields here are {}", known.join(", ")))
}

/// A text; numbers are taken as they are written.
pub(crate) fn text(node: &Node) -> Result<String, Fault> {
    match &node.value {
        Value::Scalar(Kind::Text | Kind::Integer(_) | Kind::Fraction, text) => {
            match text.chars().find(|c| c.is_control()) {
                Some(c) => Err(Fault::at(
                    node.mark,
                    format!("a control character ({}) in a text", c.escape_default()),
                )),
                None => Ok(text.clone()),
            }
        }
        Value::Scalar(Kind::Boolean(_), text) => {
            Err(Fault::expected(node, "a text").hint(format!("write `\"{text}\"` if you mean the word")))
        }
        Value::Scalar(Kind::Null, _) | Value::List(_) | Value::Map(_) => Err(Fault::expected(node, "a text")),
    }
}

/// A text with something in it.
pub(crate) fn word(node: &Node) -> Result<String, Fault> {
    let text = text(node)?;
    if text.is_empty() {
        Err(Fault::at(node.mark, "expected a text, found an empty one"))
    } else {
        Ok(text)
    }
}

/// `true` or `false`.
pub(crate) fn boolean(node: &Node) -> Result<bool, Fault> {
    let fault = Fault::expected(node, "`true` or `false`");
    match &node.value {
        Value::Scalar(Kind::Boolean(value), _) => Ok(*value),
        Value::Scalar(_, text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" | "1" => Err(fault.hint("write `true`")),
            "no" | "off" | "n" | "0" => Err(fault.hint("write `false`")),
            _ => Err(fault),
        },
        Value::List(_) | Value::Map(_) => Err(fault),
    }
}

/// A whole number within a range; `what` names it in errors.
pub(crate) fn integer(node: &Node, what: &str, range: RangeInclusive<u32>) -> Result<u32, Fault> {
    let (low, high) = (*range.start(), *range.end());
    match &node.value {
        Value::Scalar(Kind::Integer(value), text) => value
            .and_then(|value| u32::try_from(value).ok())
            .filter(|value| range.contains(value))
            .ok_or_else(|| Fault::at(node.mark, format!("{what} must be {low} to {high}, not {text}"))),
        Value::Scalar(..) | Value::List(_) | Value::Map(_) => Err(Fault::expected(node, "a whole number")),
    }
}

/// One of several words.
pub(crate) fn choice<T: Copy>(node: &Node, what: &str, words: &[(&str, T)]) -> Result<T, Fault> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let found = match &node.value {
        Value::Scalar(_, text) => text,
        Value::List(_) | Value::Map(_) => {
            return Err(Fault::expected(node, &format!("one of {}", names.join(", "))));
        }
    };
    if let Some((_, value)) = words.iter().find(|(name, _)| name == found) {
        return Ok(*value);
    }
    let fault = Fault::at(node.mark, format!("`{found}` is not {what}"));
    Err(match nearest(found, &names) {
        Some(meant) => Fault::at(node.mark, format!("{}, did you mean `{meant}`?", fault.message)),
        None => fault.hint(format!("it is one of {}", names.join(", "))),
    })
}
