//! Names of the nodes that a disk's images are in QEMU, and the options of those that come while it runs.
//!
//! A disk's own image at its start is the node of the disk's name. What it stands on is `below.DISK.DEPTH`, the nearest first;
//! images that come on top while QEMU runs are `over.DISK.NUMBER`, the first one 1. DISK is the disk's place in the spec. The
//! file of a node is one more node, of its name after `file.`.

use serde_json::{Map, Value, json};

use crate::vm::{Aio, DetectZeroes, Discard, Disk};

/// Node of an image below the one that a disk had at its start.
pub fn below(place: usize, depth: usize) -> String {
    format!("below.{}", under(place, depth))
}

pub(super) fn under(place: usize, depth: usize) -> String {
    format!("{place}.{depth}")
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
    let file = file_of(node, place);
    let mut of_file = file_options(disk, &file, set, false);
    let mut of_image = json!({"driver": "qcow2", "node-name": node, "file": file, "backing": null});
    if disk.cache.is_direct() {
        put(&mut of_image, "cache", json!({"direct": true}));
    }
    if disk.discard == Discard::Unmap {
        put(&mut of_file, "discard", json!("unmap"));
        put(&mut of_image, "discard", json!("unmap"));
    }
    match disk.detect_zeroes {
        DetectZeroes::Off => {}
        detect @ (DetectZeroes::On | DetectZeroes::Unmap) => {
            put(&mut of_image, "detect-zeroes", json!(detect.to_string()));
        }
    }
    [of_file, of_image]
}

/// Options of the node of a disk's file in the descriptor set `set`.
pub fn file_options(disk: &Disk, node: &str, set: u64, readonly: bool) -> Value {
    let mut options = json!({
        "driver": "file", "node-name": node, "filename": format!("/dev/fdset/{set}"), "read-only": readonly,
    });
    if disk.cache.is_direct() {
        put(&mut options, "cache", json!({"direct": true}));
    }
    match disk.aio {
        Aio::Threads => {}
        aio @ (Aio::Native | Aio::IoUring) => put(&mut options, "aio", json!(aio.to_string())),
    }
    options
}

fn put(options: &mut Value, name: &str, value: Value) {
    options
        .as_object_mut()
        .unwrap_or(&mut Map::new())
        .insert(name.to_owned(), value);
}

#[cfg(test)]
mod tests {
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
