//! What QEMU has for each disk: images that came on top of others while it runs have nodes of their own. Pure.

use std::collections::{BTreeMap, BTreeSet};

use maqet_protocol::runner::Top;
use maqet_qmp::command::{BlockInfo, BlockNode, ImageInfo};
use maqet_spec::argv::nodes::{below, file_of, over, place_of};

/// The nodes of all disks.
#[derive(Debug)]
pub(crate) struct Nodes<'d> {
    /// Names of the disks, in the order of the spec.
    disks: &'d [String],
    known: BTreeSet<String>,
    /// Images below each node, itself counted.
    images: BTreeMap<String, usize>,
    /// Nodes that devices have.
    attached: BTreeSet<String>,
    /// What each node was opened by, and whether it is not written to.
    files: BTreeMap<String, (String, bool)>,
}

/// The node of an image's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileNode {
    /// Its name.
    pub(crate) node: String,
    /// The set that its descriptor is in.
    pub(crate) set: u64,
    /// It cannot be written to.
    pub(crate) readonly: bool,
}

impl<'d> Nodes<'d> {
    /// What QEMU says of its nodes and devices.
    pub(crate) fn new(disks: &'d [String], nodes: Vec<BlockNode>, devices: Vec<BlockInfo>) -> Self {
        let media = devices.into_iter().filter_map(|device| device.inserted);
        let attached = media.filter_map(|medium| medium.node_name).collect();
        let mut images = BTreeMap::new();
        let mut files = BTreeMap::new();
        for node in nodes {
            let Some(name) = node.node_name else { continue };
            images.insert(name.clone(), depth(&node.image));
            files.insert(name, (node.file, node.readonly));
        }
        Self {
            disks,
            known: images.keys().cloned().collect(),
            images,
            attached,
            files,
        }
    }

    /// Whether QEMU has a node of this name.
    pub(crate) fn is_known(&self, node: &str) -> bool {
        self.known.contains(node)
    }

    /// How many nodes with a name QEMU has.
    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }

    /// The node of the file of a disk's node.
    pub(crate) fn file(&self, disk: &str, node: &str) -> Option<FileNode> {
        let node = file_of(node, self.place(disk)?);
        let (file, readonly) = self.files.get(&node)?;
        let set = file.strip_prefix("/dev/fdset/")?.parse().ok()?;
        let readonly = *readonly;
        Some(FileNode { node, set, readonly })
    }

    /// The node of a disk that is written to. Of one that no device has it is that of the disk's name.
    pub(crate) fn top(&self, disk: &str) -> String {
        let mut attached = self.attached.iter();
        let top = attached.find(|node| disk_of(node, self.disks) == Some(disk));
        top.cloned().unwrap_or_else(|| disk.to_owned())
    }

    /// What others are told of a disk.
    pub(crate) fn told(&self, disk: &str) -> Option<Top> {
        let node = self.top(disk);
        Some(Top {
            disk: disk.to_owned(),
            images: *self.images.get(&node)?,
            attached: self.attached.contains(&node),
            node,
        })
    }

    /// Nodes of a disk of which one or more are not in use any more, or not yet: work that was cut off has left them. QEMU lets
    /// none go that is in use.
    pub(crate) fn doubtful(&self, disk: &str) -> Vec<String> {
        let (mut order, top) = (self.order(disk), self.top(disk));
        if self.images.get(&top) == Some(&order.len()) {
            return Vec::new();
        }
        order.retain(|node| *node != top);
        order
    }

    /// The nodes of a disk's images, that on top first; it is right while nothing is doubtful.
    pub(crate) fn order(&self, disk: &str) -> Vec<String> {
        let Some(place) = self.place(disk) else {
            return Vec::new();
        };
        let overs = self.numbers(place, "over.").into_iter().rev();
        let overs = overs.map(|number| over(place, number));
        let belows = self.numbers(place, "below.").into_iter();
        let belows = belows.map(|depth| below(place, depth));
        let own = self.known.get(disk).cloned();
        overs.chain(own).chain(belows).collect()
    }

    /// A name for one more image on top of a disk.
    pub(crate) fn fresh(&self, disk: &str) -> Option<String> {
        let place = self.place(disk)?;
        let newest = self.numbers(place, "over.").last().copied().unwrap_or(0);
        Some(over(place, newest.saturating_add(1)))
    }

    fn place(&self, disk: &str) -> Option<usize> {
        self.disks.iter().position(|name| name == disk)
    }

    /// Numbers of a disk's nodes whose names begin so, ascending.
    fn numbers(&self, place: usize, kind: &str) -> Vec<usize> {
        let prefix = format!("{kind}{place}.");
        let numbers = self
            .known
            .iter()
            .filter_map(|node| node.strip_prefix(&prefix)?.parse().ok());
        let mut numbers: Vec<usize> = numbers.collect();
        numbers.sort_unstable();
        numbers
    }
}

/// The disk that a node belongs to, of those with these names in the order of the spec.
pub(crate) fn disk_of<'d>(node: &str, disks: &'d [String]) -> Option<&'d str> {
    let named = disks.iter().find(|disk| *disk == node);
    let placed = || place_of(node).and_then(|(place, _number)| disks.get(place));
    named.or_else(placed).map(String::as_str)
}

fn depth(image: &ImageInfo) -> usize {
    1 + image.backing.as_deref().map_or(0, depth)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn disks() -> [String; 2] {
        ["root".to_owned(), "data".to_owned()]
    }

    /// Images with so many below each, itself counted; `root` and `data` have devices.
    fn nodes<'d>(disks: &'d [String], images: &[(&str, usize)], tops: [&str; 2]) -> Nodes<'d> {
        let image = |count: &usize| (1..*count).fold(json!({}), |below, _| json!({"backing-image": below}));
        let node = |(name, count): &(&str, usize)| json!({"node-name": name, "image": image(count)});
        let nodes: Vec<Value> = images.iter().map(node).collect();
        let device = |top| json!({"device": "", "inserted": {"file": "", "node-name": top, "ro": false, "drv": "qcow2"}});
        let devices = tops.map(device);
        Nodes::new(
            disks,
            serde_json::from_value(json!(nodes)).unwrap(),
            serde_json::from_value(json!(devices)).unwrap(),
        )
    }

    #[test]
    fn a_disk_is_known_by_each_of_its_nodes() {
        let disks = disks();
        for (node, disk) in [
            ("root", Some("root")),
            ("data", Some("data")),
            ("over.0.3", Some("root")),
            ("below.1.1", Some("data")),
            ("file.1", Some("data")),
            ("file.over.1.2", Some("data")),
            ("over.2.1", None),
            ("#block7", None),
        ] {
            assert_eq!(disk_of(node, &disks), disk, "{node}");
        }
    }

    #[test]
    fn what_came_on_top_is_written_to() {
        let disks = disks();
        let images = [
            ("over.0.2", 4),
            ("over.0.1", 3),
            ("root", 2),
            ("below.0.1", 1),
            ("data", 1),
        ];
        let nodes = nodes(&disks, &images, ["over.0.2", "data"]);
        assert_eq!(nodes.top("root"), "over.0.2");
        assert_eq!(nodes.order("root"), ["over.0.2", "over.0.1", "root", "below.0.1"]);
        assert_eq!(nodes.doubtful("root"), [""; 0]);
        assert_eq!(nodes.fresh("root").unwrap(), "over.0.3");
        assert_eq!(
            (nodes.top("data").as_str(), nodes.fresh("data").unwrap().as_str()),
            ("data", "over.1.1")
        );
        let told = nodes.told("root").unwrap();
        assert_eq!((told.images, told.attached), (4, true));
    }

    #[test]
    fn what_work_left_is_in_doubt() {
        let disks = disks();
        // Made, and the transaction did not come; merged, and not taken away; turned to what is below.
        for (images, top, doubtful) in [
            (
                &[("over.0.1", 1), ("root", 1), ("data", 1)][..],
                "root",
                &["over.0.1"][..],
            ),
            (
                &[("over.0.2", 2), ("over.0.1", 2), ("root", 1), ("data", 1)],
                "over.0.2",
                &["over.0.1", "root"],
            ),
            (
                &[("root", 2), ("below.0.1", 1), ("data", 1)],
                "below.0.1",
                &["root"],
            ),
            (&[("below.0.2", 1), ("data", 1)], "below.0.2", &[]),
        ] {
            let nodes = nodes(&disks, images, [top, "data"]);
            assert_eq!(nodes.doubtful("root"), doubtful, "{top}");
            assert_eq!(nodes.top("root"), top);
        }
    }

    #[test]
    fn a_disk_without_a_device_is_told_as_such() {
        let disks = disks();
        let nodes = nodes(&disks, &[("root", 1), ("data", 1)], ["root", "other"]);
        let told = nodes.told("data").unwrap();
        assert_eq!((told.node.as_str(), told.attached), ("data", false));
        assert!(nodes.told("nothing").is_none());
    }
}
