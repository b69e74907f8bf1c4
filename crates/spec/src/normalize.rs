//! One document in the shape that merging and decoding work on.
//!
//! Accepted beside the native keys are those of the Python tool of the same name: `cpu` for `cpus`, `storage` for
//! `disks` (as list or map), `args` and `arguments` for `qemu.args`.

use std::path::Path;

use crate::arguments::{self, Lowered};
use crate::fault::Fault;
use crate::fields::{Fields, text};
use crate::virtfs;
use crate::yaml::{Entry, Kind, Mark, Node, Value};

/// What one document needs to know about its surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    /// Relative paths inside `arguments` refer to it.
    pub(crate) directory: &'a Path,
    pub(crate) home: Option<&'a Path>,
    /// Disks and networks of the documents before: nameless ones are counted on from there.
    pub(crate) disks_before: usize,
    pub(crate) networks_before: usize,
}

/// Gives `root` its native shape: a map with native keys, `disks` and `networks` as maps by name, `kernel` as a
/// map, all extra words in `qemu.args`.
pub(crate) fn normalize(root: Node, around: Surroundings<'_>) -> Result<Node, Fault> {
    let mark = root.mark;
    let entries = match root.value {
        Value::Map(entries) => entries,
        Value::Scalar(Kind::Null, _) => Vec::new(),
        value @ (Value::Scalar(..) | Value::List(_)) => {
            let root = Node { mark, value };
            return Err(Fault::expected(&root, "a VM as a map").hint("for example `name: web`"));
        }
    };
    let mut shape = Shape {
        entries: Vec::new(),
        words: Vec::new(),
        words_mark: mark,
        virtfs: Vec::new(),
        around,
    };
    let mut lifted = Vec::new();
    for entry in entries {
        shape.take(entry, &mut lifted)?;
    }
    for Lifted { key, inner, entry } in lifted {
        shape.lift(key, inner, entry)?;
    }
    shape.lift_shares()?;
    Ok(Node::map(mark, shape.finish()))
}

/// A native field found among `arguments`.
#[derive(Debug)]
pub(crate) struct Lifted {
    /// Top-level key.
    pub(crate) key: &'static str,
    /// Key within it, for `kernel`.
    pub(crate) inner: Option<&'static str>,
    /// Its value, keyed as it was written.
    pub(crate) entry: Entry,
}

struct Shape<'a> {
    entries: Vec<Entry>,
    words: Vec<Node>,
    words_mark: Mark,
    virtfs: Vec<Entry>,
    around: Surroundings<'a>,
}

impl Shape<'_> {
    fn take(&mut self, entry: Entry, lifted: &mut Vec<Lifted>) -> Result<(), Fault> {
        match entry.key.as_str() {
            "cpu" => self.put("cpus", entry),
            "storage" | "disks" => {
                let mut value = by_name(entry.value, "storage", self.around.disks_before)?;
                self.virtfs.extend(virtfs::take_out(&mut value)?);
                self.put("disks", Entry { value, ..entry })
            }
            "shares" => {
                let value = shares(entry.value)?;
                self.put("shares", Entry { value, ..entry })
            }
            "networks" => {
                let value = by_name(entry.value, "net", self.around.networks_before)?;
                self.put("networks", Entry { value, ..entry })
            }
            "kernel" => {
                let value = kernel_as_map(entry.value);
                self.put("kernel", Entry { value, ..entry })
            }
            "restart" => {
                let value = restart_as_map(entry.value);
                self.put("restart", Entry { value, ..entry })
            }
            "sandbox" => {
                let value = scalar_as_map(entry.value, "mode");
                self.put("sandbox", Entry { value, ..entry })
            }
            "qemu" => self.take_qemu(entry),
            "args" => self.take_words(&entry.value, entry.mark),
            "arguments" => self.take_arguments(&entry.value, entry.mark, lifted),
            _ => {
                let key = entry.key.clone();
                self.put(&key, entry)
            }
        }
    }

    /// Adds a native key, once.
    fn put(&mut self, key: &str, entry: Entry) -> Result<(), Fault> {
        if self.entries.iter().any(|other| other.key == key) {
            return Err(Fault::at(entry.mark, format!("`{key}` is given twice")).hint(twice_hint(key)));
        }
        self.entries.push(Entry {
            key: key.to_owned(),
            ..entry
        });
        Ok(())
    }

    fn take_qemu(&mut self, entry: Entry) -> Result<(), Fault> {
        let nothing = entry.value.is_null() || entry.value.get("args").is_some_and(Node::is_null);
        if nothing {
            return self.put("qemu", entry);
        }
        let fields = Fields::of(&entry.value, "`qemu`", &["args"])?;
        fields
            .get("args")
            .map_or(Ok(()), |args| self.take_words(args, entry.mark))
    }

    fn take_words(&mut self, node: &Node, mark: Mark) -> Result<(), Fault> {
        self.words_mark = mark;
        let Value::List(items) = &node.value else {
            return if node.is_null() {
                Ok(())
            } else {
                Err(Fault::expected(node, "a list of words")
                    .hint("for example `[\"-msg\", \"timestamp=on\"]`"))
            };
        };
        for item in items {
            self.words.push(word(item)?);
        }
        Ok(())
    }

    fn take_arguments(&mut self, node: &Node, mark: Mark, lifted: &mut Vec<Lifted>) -> Result<(), Fault> {
        self.words_mark = mark;
        let Value::List(items) = &node.value else {
            return if node.is_null() {
                Ok(())
            } else {
                Err(Fault::expected(node, "a list of options")
                    .hint("for example `[{device: {virtio-rng-pci: ~}}]`"))
            };
        };
        for item in items {
            match arguments::lower(item, self.around.directory, self.around.home)? {
                Lowered::Words(words) => self.words.extend(words),
                Lowered::Native(native) => lifted.push(native),
                Lowered::Implied => {}
            }
        }
        Ok(())
    }

    /// Puts a native field found among the arguments where it belongs.
    fn lift(&mut self, key: &'static str, inner: Option<&'static str>, entry: Entry) -> Result<(), Fault> {
        let Some(inner) = inner else {
            return self.put(key, entry);
        };
        let mark = entry.mark;
        let entry = Entry {
            key: inner.to_owned(),
            ..entry
        };
        let at = self.entries.iter_mut().find(|other| other.key == key);
        match at.map(|other| &mut other.value.value) {
            Some(Value::Map(entries)) if entries.iter().any(|other| other.key == inner) => {
                Err(Fault::at(mark, format!("`{key}.{inner}` is given twice")).hint(twice_hint(key)))
            }
            Some(Value::Map(entries)) => {
                entries.push(entry);
                Ok(())
            }
            Some(Value::Scalar(..) | Value::List(_)) | None => {
                let value = Node::map(mark, vec![entry]);
                self.put(
                    key,
                    Entry {
                        key: key.to_owned(),
                        mark,
                        value,
                    },
                )
            }
        }
    }

    /// Puts the shares found among the disks beside the others.
    fn lift_shares(&mut self) -> Result<(), Fault> {
        let found = std::mem::take(&mut self.virtfs);
        let Some(mark) = found.first().map(|entry| entry.mark) else {
            return Ok(());
        };
        let at = self.entries.iter_mut().find(|entry| entry.key == "shares");
        let Some(entries) = at.and_then(|entry| match &mut entry.value.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar(..) | Value::List(_) => None,
        }) else {
            let value = Node::map(mark, found);
            let key = "shares".to_owned();
            return self.put("shares", Entry { key, mark, value });
        };
        for entry in found {
            if entries.iter().any(|other| other.key == entry.key) {
                return Err(Fault::at(
                    entry.mark,
                    format!("the name `{}` is used twice", entry.key),
                ));
            }
            entries.push(entry);
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<Entry> {
        if !self.words.is_empty() {
            let mark = self.words_mark;
            let args = Node {
                mark,
                value: Value::List(self.words),
            };
            let value = Node::map(
                mark,
                vec![Entry {
                    key: "args".to_owned(),
                    mark,
                    value: args,
                }],
            );
            self.entries.push(Entry {
                key: "qemu".to_owned(),
                mark,
                value,
            });
        }
        self.entries
    }
}

/// A key cannot be repeated in a map, so it was also given by another name.
fn twice_hint(key: &str) -> String {
    match key {
        "cpus" => "`cpu`, `cpus` and `smp` among the `arguments` mean the same; keep one".to_owned(),
        "disks" => "`storage` and `disks` mean the same; keep one".to_owned(),
        _ => format!("options among the `arguments` count as `{key}` too; keep one"),
    }
}

/// One word for QEMU as it is written.
fn word(node: &Node) -> Result<Node, Fault> {
    match &node.value {
        Value::Scalar(kind, text) if *kind != Kind::Null => Ok(Node::text(node.mark, text.clone())),
        Value::Scalar(..) | Value::List(_) | Value::Map(_) => Err(Fault::expected(node, "a word")),
    }
}

/// `kernel: ./vmlinuz` is short for `kernel: {image: ./vmlinuz}`.
fn kernel_as_map(node: Node) -> Node {
    scalar_as_map(node, "image")
}

/// `restart: always` is short for `restart: {policy: always}`.
fn restart_as_map(node: Node) -> Node {
    scalar_as_map(node, "policy")
}

/// What is written short as the one field it stands for, so that files can be merged field by field.
fn scalar_as_map(node: Node, key: &str) -> Node {
    match &node.value {
        Value::Scalar(kind, _) if *kind != Kind::Null => {
            let mark = node.mark;
            Node::map(
                mark,
                vec![Entry {
                    key: key.to_owned(),
                    mark,
                    value: node,
                }],
            )
        }
        Value::Scalar(..) | Value::List(_) | Value::Map(_) => node,
    }
}

/// Shares by name; `src: ./src` is short for `src: {path: ./src}`.
fn shares(node: Node) -> Result<Node, Fault> {
    let mut shares = by_name(node, "share", 0)?;
    if let Value::Map(entries) = &mut shares.value {
        *entries = std::mem::take(entries)
            .into_iter()
            .map(|entry| Entry {
                value: scalar_as_map(entry.value, "path"),
                key: entry.key,
                mark: entry.mark,
            })
            .collect();
    }
    Ok(shares)
}

/// A list of maps with a `name` becomes a map by name; nameless ones get `prefix` and a number.
fn by_name(node: Node, prefix: &str, before: usize) -> Result<Node, Fault> {
    let mark = node.mark;
    let Value::List(items) = node.value else {
        return Ok(node);
    };
    let mut entries: Vec<Entry> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let entry = named(item, &format!("{prefix}{}", before + index))?;
        if entries.iter().any(|other| other.key == entry.key) {
            return Err(Fault::at(
                entry.mark,
                format!("the name `{}` is used twice", entry.key),
            ));
        }
        entries.push(entry);
    }
    Ok(Node::map(mark, entries))
}

fn named(item: Node, otherwise: &str) -> Result<Entry, Fault> {
    let mark = item.mark;
    let Value::Map(mut entries) = item.value else {
        return Err(Fault::expected(&item, "a map"));
    };
    let name = match entries.iter().position(|entry| entry.key == "name") {
        Some(index) => entries.remove(index).value,
        None => Node::text(mark, otherwise),
    };
    Ok(Entry {
        key: text(&name)?,
        mark: name.mark,
        value: Node::map(mark, entries),
    })
}
