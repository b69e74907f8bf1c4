//! Disks and networks.

use std::path::{Path, PathBuf};

use crate::decode::{Context, file, size};
use crate::fault::Fault;
use crate::fields::{Fields, boolean, choice, integer, word};
use crate::image::ImageName;
use crate::machine::{Family, HOTPLUG_PORTS};
use crate::validate::is_device_name;
use crate::vm::{
    Aio, Cache, DetectZeroes, Discard, Disk, DiskFormat, DiskInterface, Forward, Media, Network, NetworkKind,
};
use crate::yaml::{Entry, Node, Value};

/// What a document may say about a disk; `file` and `type` are the Python tool's words.
const DISK_KEYS: [&str; 14] = [
    "path",
    "size",
    "from",
    "format",
    "interface",
    "readonly",
    "media",
    "cache",
    "aio",
    "discard",
    "detect_zeroes",
    "port",
    "file",
    "type",
];

/// Disks in the order of the document. `own` is where images of this VM are whose disks have no `path`.
pub(super) fn disks(
    node: &Node,
    cx: Context<'_>,
    (family, own): (Family, Option<&Path>),
) -> Result<Vec<Disk>, Fault> {
    let hint = "for example `disks: {root: {path: ./root.qcow2, size: 10G}}`";
    let Some(entries) = node.entries() else {
        return Err(Fault::expected(node, "disks by name").hint(hint));
    };
    entries
        .iter()
        .map(|entry| disk(entry, cx, (family, own)))
        .collect()
}

fn disk(entry: &Entry, cx: Context<'_>, (family, own): (Family, Option<&Path>)) -> Result<Disk, Fault> {
    let name = name(entry, "disk")?;
    if entry.value.is_null() {
        let fault = Fault::at(entry.mark, format!("disk `{name}` has no value"));
        return Err(fault.hint(format!("write `{name}: {{path: ./{name}.qcow2, size: 10G}}`")));
    }
    let fields = Fields::of(&entry.value, "a disk", &DISK_KEYS)?;
    let from = fields.read("from", image)?;
    let path = match either(&fields, "path", "file")? {
        Some(path) => file(path, cx)?,
        None => default_path(&name, own.filter(|_own| from.is_some()), entry)?,
    };
    let format = either(&fields, "format", "type")?;
    let media = one_of(&fields, "media", "a medium", &Media::ALL)?;
    let preset = Preset::of(media, family);
    Ok(Disk {
        path,
        size: fields.read("size", size)?,
        from,
        format: format.map(disk_format).transpose()?.unwrap_or(preset.format),
        interface: fields.read("interface", interface)?.unwrap_or(preset.interface),
        readonly: fields.read("readonly", boolean)?.unwrap_or(preset.readonly),
        media,
        cache: fields.read("cache", cache)?.unwrap_or_default(),
        aio: one_of(&fields, "aio", "a way to ask for blocks", &Aio::ALL)?,
        discard: one_of(&fields, "discard", "a way to treat unused blocks", &Discard::ALL)?,
        detect_zeroes: one_of(
            &fields,
            "detect_zeroes",
            "a way to treat zeroes",
            &DetectZeroes::ALL,
        )?,
        port: fields.read("port", port)?,
        name,
    })
}

/// Where the image of a disk is that has no `path`.
fn default_path(name: &str, own: Option<&Path>, entry: &Entry) -> Result<PathBuf, Fault> {
    let path = own.map(|own| own.join(format!("{name}.qcow2")));
    path.ok_or_else(|| {
        let fault = Fault::at(entry.mark, format!("disk `{name}` has no `path`"));
        fault.hint(format!(
            "write `path: ./{name}.qcow2`, and `size: 10G` to have it created"
        ))
    })
}

/// What a medium has where the document does not say.
struct Preset {
    format: DiskFormat,
    interface: DiskInterface,
    readonly: bool,
}

impl Preset {
    fn of(media: Media, family: Family) -> Self {
        match media {
            Media::Disk => Self {
                format: DiskFormat::default(),
                interface: DiskInterface::default(),
                readonly: false,
            },
            Media::Cdrom => Self {
                format: DiskFormat::Raw,
                interface: family.cdrom_interface(),
                readonly: true,
            },
        }
    }
}

/// One word of several, or the default.
fn one_of<T: Copy + Default>(
    fields: &Fields<'_>,
    key: &str,
    what: &str,
    words: &[(&str, T)],
) -> Result<T, Fault> {
    let read = fields.read(key, |node| choice(node, what, words))?;
    Ok(read.unwrap_or_default())
}

fn cache(node: &Node) -> Result<Cache, Fault> {
    match &node.value {
        Value::Scalar(_, text) if text == "unsafe" => Err(Fault::at(
            node.mark,
            "`cache: unsafe` is not offered: it drops the guest's flushes, and a crash of the host leaves an image \
             that may be beyond repair",
        )
        .hint("write `cache: writeback`, the default")),
        Value::Scalar(..) | Value::List(_) | Value::Map(_) => choice(node, "a cache mode", &Cache::ALL),
    }
}

/// The value of `key`, or of the Python tool's name for it.
fn either<'n>(fields: &Fields<'n>, key: &str, alias: &str) -> Result<Option<&'n Node>, Fault> {
    match (fields.get(key), fields.get(alias)) {
        (Some(_), Some(other)) => Err(Fault::at(
            other.mark,
            format!("`{alias}` is given although `{key}` is"),
        )
        .hint("both mean the same; keep one")),
        (one, other) => Ok(one.or(other)),
    }
}

/// The name of an image of the library.
fn image(node: &Node) -> Result<ImageName, Fault> {
    let named = word(node)?.parse::<ImageName>();
    named.map_err(|error| Fault::at(node.mark, error.to_string()).hint("maqet image ls"))
}

fn disk_format(node: &Node) -> Result<DiskFormat, Fault> {
    choice(
        node,
        "an image format",
        &[("qcow2", DiskFormat::Qcow2), ("raw", DiskFormat::Raw)],
    )
}

fn interface(node: &Node) -> Result<DiskInterface, Fault> {
    let words = [
        ("virtio", DiskInterface::Virtio),
        ("scsi", DiskInterface::Scsi),
        ("sata", DiskInterface::Sata),
        ("ide", DiskInterface::Ide),
        ("nvme", DiskInterface::Nvme),
        ("none", DiskInterface::None),
    ];
    choice(node, "a disk interface", &words)
}

fn port(node: &Node) -> Result<u8, Fault> {
    let last = HOTPLUG_PORTS - 1;
    let port = integer(node, "a port", 0..=last.into())?;
    Ok(u8::try_from(port).unwrap_or(last))
}

/// Network cards in the order of the document.
pub(super) fn networks(node: &Node, family: Family) -> Result<Vec<Network>, Fault> {
    let Some(entries) = node.entries() else {
        return Err(
            Fault::expected(node, "networks by name").hint("for example `networks: {lan: {type: user}}`")
        );
    };
    entries.iter().map(|entry| network(entry, family)).collect()
}

fn network(entry: &Entry, family: Family) -> Result<Network, Fault> {
    let name = name(entry, "network")?;
    if entry.value.is_null() {
        let fault = Fault::at(entry.mark, format!("network `{name}` has no value"));
        return Err(fault.hint(format!("write `{name}: {{type: user}}`")));
    }
    let fields = Fields::of(&entry.value, "a network", &["type", "model", "forwards"])?;
    Ok(Network {
        name,
        kind: fields.read("type", kind)?.unwrap_or_default(),
        model: fields
            .read("model", word)?
            .unwrap_or_else(|| family.network_model().to_owned()),
        forwards: fields.read("forwards", forwards)?.unwrap_or_default(),
    })
}

fn kind(node: &Node) -> Result<NetworkKind, Fault> {
    choice(
        node,
        "a network type this version knows",
        &[("user", NetworkKind::User)],
    )
}

fn forwards(node: &Node) -> Result<Vec<Forward>, Fault> {
    let Value::List(items) = &node.value else {
        return Err(
            Fault::expected(node, "a list of forwards").hint("for example `[\"tcp:127.0.0.1:auto:22\"]`")
        );
    };
    items.iter().map(forward).collect()
}

fn forward(node: &Node) -> Result<Forward, Fault> {
    word(node)?
        .parse()
        .map_err(|error: crate::forward::InvalidForward| {
            Fault::at(node.mark, error.to_string()).hint(error.hint())
        })
}

/// The name of a device.
pub(super) fn name(entry: &Entry, what: &str) -> Result<String, Fault> {
    let name = &entry.key;
    if is_device_name(name) {
        return Ok(name.clone());
    }
    let shown: String = name.chars().flat_map(char::escape_debug).collect();
    Err(Fault::at(entry.mark, format!("`{shown}` is not a {what} name"))
        .hint("such names are a letter a-z, then up to 30 of a-z 0-9 -"))
}
