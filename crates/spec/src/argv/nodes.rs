//! Names of the nodes that a disk's images are in QEMU, and the options of those that come while it runs.
//!
//! A disk's own image at its start is the node of the disk's name. What it stands on is `below.DISK.DEPTH`, the nearest first;
//! images that come on top while QEMU runs are `over.DISK.NUMBER`, the first one 1. DISK is the disk's place in the spec. The
//! file of a node is one more node, of its name after `file.`.

use serde_json::Value;

use super::options::Options;
use crate::vm::{Aio, DetectZeroes, Discard, Disk, DiskFormat};

/// Node of an image below the one that a disk had at its start.
pub fn below(place: usize, depth: usize) -> String {
    format!("below.{place}.{depth}")
}

/// Node of an image that came on top of a disk while QEMU ran.
pub fn over(place: usize, number: usize) -> String {
    format!("over.{place}.{number}")
}

/// Node of the file of one of these, or of the one that a disk had at its start.
pub fn file_of(node: &str, place: usize) -> String {
    match node.strip_prefix("below.") {
        Some(numbers) => format!("file.{numbers}"),
        None if node.starts_with("over.") => format!("file.{node}"),
        None => format!("file.{place}"),
    }
}

/// Place of the disk that a node belongs to, and which of those that came on top it is, if it is one. `None` for the node of
/// a disk's name, and for those that are not maqet's.
pub fn place_of(node: &str) -> Option<(usize, Option<usize>)> {
    let node = node.strip_prefix("file.").unwrap_or(node);
    let (is_over, numbers) = match node.strip_prefix("over.") {
        Some(numbers) => (true, numbers),
        None => (false, node.strip_prefix("below.").unwrap_or(node)),
    };
    let mut numbers = numbers.split('.').map(str::parse);
    let (place, number) = (numbers.next()?.ok()?, numbers.next().transpose().ok()?);
    match numbers.next() {
        None => Some((place, number.filter(|_| is_over))),
        Some(_) => None,
    }
}

/// Options of the nodes of a qcow2 image that comes on top of a disk: of its file, which is in the descriptor set `set`, and of
/// the image. It stands on nothing yet.
pub fn on_top(disk: &Disk, node: &str, set: u64) -> [Value; 2] {
    let place = place_of(node).map_or(0, |(place, _number)| place);
    let name = file_of(node, place);
    let of_file = file(disk, &name, set, Some(false)).maybe("discard", discard(disk));
    let of_image = Options::of("qcow2").with("node-name", node).with("file", name);
    let of_image = of_image.when(disk.cache.is_direct(), "cache.direct");
    let mut of_image = written(of_image, disk).json();
    if let Some(options) = of_image.as_object_mut() {
        options.insert("backing".to_owned(), Value::Null);
    }
    [of_file.json(), of_image]
}

/// Options of the node of a disk's file in the descriptor set `set`.
pub fn file_options(disk: &Disk, node: &str, set: u64, readonly: bool) -> Value {
    file(disk, node, set, Some(readonly)).json()
}

/// Options of the nodes of a disk's images, each with that of its file before it and whatever it stands on before that; the
/// descriptor sets of the files, and what is below its own image, the nearest first.
pub(super) fn of_disk(disk: &Disk, place: usize, sets: &ImageSets<'_>) -> Vec<[Options; 2]> {
    let mut nodes = Vec::new();
    let mut stands_on: Option<String> = None;
    for (depth, (format, set)) in sets.below.iter().enumerate().rev() {
        let name = below(place, depth + 1);
        let node = file_of(&name, place);
        let of_file = file(disk, &node, *set, Some(true));
        let of_image = image(*format, &name, &node).with("read-only", true);
        let of_image = of_image.when(disk.cache.is_direct(), "cache.direct");
        nodes.push([of_file, of_image.maybe("backing", stands_on)]);
        stands_on = Some(name);
    }
    let node = file_of(&disk.name, place);
    let readonly = disk.readonly.then_some(true);
    let of_file = file(disk, &node, sets.own, readonly).maybe("discard", discard(disk));
    let of_image = image(disk.format, &disk.name, &node).maybe("read-only", readonly);
    let of_image = of_image.when(disk.cache.is_direct(), "cache.direct");
    nodes.push([of_file, written(of_image, disk).maybe("backing", stands_on)]);
    nodes
}

/// Descriptor sets of the files of a disk's images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageSets<'s> {
    /// That of its own image.
    pub(super) own: u64,
    /// Format and set of what it stands on, the nearest first.
    pub(super) below: &'s [(DiskFormat, u64)],
}

fn file(disk: &Disk, node: &str, set: u64, readonly: Option<bool>) -> Options {
    let aio = match disk.aio {
        Aio::Threads => None,
        aio @ (Aio::Native | Aio::IoUring) => Some(aio.to_string()),
    };
    Options::of("file")
        .with("node-name", node)
        .with("filename", format!("/dev/fdset/{set}"))
        .maybe("read-only", readonly)
        .when(disk.cache.is_direct(), "cache.direct")
        .maybe("aio", aio)
}

fn image(format: DiskFormat, name: &str, file: &str) -> Options {
    Options::of(format.to_string())
        .with("node-name", name)
        .with("file", file)
}

/// What is said of the image that is written to.
fn written(options: Options, disk: &Disk) -> Options {
    let zeroes = match disk.detect_zeroes {
        DetectZeroes::Off => None,
        detect @ (DetectZeroes::On | DetectZeroes::Unmap) => Some(detect.to_string()),
    };
    options
        .maybe("discard", discard(disk))
        .maybe("detect-zeroes", zeroes)
}

fn discard(disk: &Disk) -> Option<&'static str> {
    (disk.discard == Discard::Unmap).then_some("unmap")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_tells_its_disk() {
        for (node, told) in [
            (over(3, 12), Some((3, Some(12)))),
            (file_of(&over(3, 12), 3), Some((3, Some(12)))),
            (below(3, 1), Some((3, None))),
            (file_of(&below(3, 1), 3), Some((3, None))),
            (file_of("root", 3), Some((3, None))),
            ("root".to_owned(), None),
            ("over.x.1".to_owned(), None),
            ("over.1.2.3".to_owned(), None),
            ("#block123".to_owned(), None),
        ] {
            assert_eq!(place_of(&node), told, "{node}");
        }
    }

    #[test]
    fn an_image_on_top_is_read_and_written_as_the_disk_is() {
        let disk: Disk = serde_json::from_value(json!({
            "name": "root", "path": "/vm/root", "format": "raw", "interface": "virtio", "cache": "none", "aio": "native",
            "discard": "unmap", "detect_zeroes": "unmap",
        }))
        .unwrap();
        let [file, image] = on_top(&disk, "over.0.1", 7);
        assert_eq!(
            file,
            json!({"driver": "file", "node-name": "file.over.0.1", "filename": "/dev/fdset/7", "read-only": false,
                   "cache": {"direct": true}, "aio": "native", "discard": "unmap"})
        );
        assert_eq!(
            image,
            json!({"driver": "qcow2", "node-name": "over.0.1", "file": "file.over.0.1", "backing": null,
                   "cache": {"direct": true}, "discard": "unmap", "detect-zeroes": "unmap"})
        );
    }
}
