//! Media and words for QEMU's handling of a disk that do not go together.

use super::one;
use crate::vm::{Cache, Disk, DiskFormat, DiskInterface, Media};

/// Message and hint for a disk with these fields.
fn refused(machine: &str, fields: &str) -> (String, String) {
    let text = format!("name: web\nmachine: {machine}\ndisks:\n  root: {{path: a, {fields}}}\n");
    let error = one(&text).unwrap_err();
    let place = (error.line(), error.file_name());
    assert_eq!(place, (Some(4), Some("web.yaml")), "{error}");
    (
        error.message().to_owned(),
        error.hint_text().unwrap_or_default().to_owned(),
    )
}

#[test]
fn what_does_not_go_together_says_what_does() {
    for (fields, message, hint) in [
        (
            "media: cdrom, interface: nvme",
            "no CD-ROM drive with interface `nvme`",
            "`scsi`",
        ),
        (
            "media: cdrom, readonly: false",
            "a CD-ROM is read-only",
            "`readonly`",
        ),
        ("media: cdrom, size: 1G", "never created", "leave out `size`"),
        ("media: cd", "`cd` is not a medium", "disk, cdrom"),
        ("cache: unsafe", "drops the guest's flushes", "`cache: writeback`"),
        ("cache: off", "`off` is not a cache mode", "writethrough"),
        ("aio: native", "past the host's page cache", "`cache: none`"),
        (
            "aio: native, cache: writethrough",
            "past the host's page cache",
            "`cache: none`",
        ),
        (
            "aio: io-uring",
            "`io-uring` is not a way to ask for blocks, did you mean `io_uring`?",
            "",
        ),
        (
            "detect_zeroes: unmap",
            "where unused blocks are",
            "`discard: unmap`",
        ),
        ("discard: on", "`on` is not a way to treat unused blocks", "unmap"),
        (
            "cache: directsync, interface: none",
            "nothing that flushes",
            "write-cache=off",
        ),
    ] {
        let (said, hinted) = refused("q35", fields);
        assert!(said.contains(message), "{fields}: {said}");
        assert!(hinted.contains(hint), "{fields}: {hinted}");
    }
    let (said, _) = refused("q35", "media: cdrom, interface: ide");
    assert_eq!(said, "machine `q35` has no disks with interface `ide`");
}

#[test]
fn a_cdrom_needs_no_more_than_its_path() {
    for (machine, interface) in [
        ("q35", DiskInterface::Sata),
        ("pc", DiskInterface::Ide),
        ("microvm", DiskInterface::Scsi),
        ("virt", DiskInterface::Scsi),
        ("none", DiskInterface::None),
    ] {
        let text = format!("name: web\nmachine: {machine}\ndisks: {{cd: {{path: a.iso, media: cdrom}}}}\n");
        let disk = &one(&text).unwrap().disks[0];
        assert_eq!(
            (disk.media, disk.format, disk.interface, disk.readonly),
            (Media::Cdrom, DiskFormat::Raw, interface, true)
        );
    }
}

#[test]
fn a_record_without_them_reads_as_the_defaults() {
    let written = r#"{"name":"root","path":"/a","format":"qcow2","interface":"virtio","readonly":false}"#;
    let disk: Disk = serde_json::from_str(written).unwrap();
    assert_eq!(disk.cache, Cache::Writeback);
    assert_eq!(serde_json::to_string(&disk).unwrap(), written);
}
