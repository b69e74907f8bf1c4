//! A guest boots from a disk on each interface of each machine with a firmware that boots disks, and reads all its other disks through the firmware.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use maqet_tests::{Sandbox, qemu_img};

use crate::facts::until_serial;

/// Bytes of a disk's sector, and of a CD-ROM's.
const SECTOR: usize = 512;
const CD_SECTOR: usize = 2048;
/// Where the boot sector looks for what it says first.
const SAYS: usize = 0x100;
/// The CD-ROM's sectors that its boot goes through.
const BOOT_CATALOG: u8 = 19;
const BOOT_IMAGE: u8 = 20;

/// The firmware that QEMU has for microvm may be one that boots no disks.
const MICROVM_FIRMWARE: &str = "/usr/share/seabios/bios-microvm.bin";

/// A disk of a VM: its name, and its fields beside the path.
type Disk<'a> = (&'a str, &'a str);

/// `boot.S`, assembled.
fn code(directory: &Path) -> Vec<u8> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/disk/boot.S");
    let (object, code) = (directory.join("boot.o"), directory.join("boot.bin"));
    let run = |program: &str, args: &[&str], paths: [&Path; 2]| {
        let done = Command::new(program).args(args).args(paths).status().unwrap();
        assert!(done.success(), "{program}: {done}");
    };
    run("as", &["--32", "-o"], [&object, Path::new(source)]);
    let flat = [
        "-m",
        "elf_i386",
        "--oformat",
        "binary",
        "-Ttext",
        "0",
        "-e",
        "_start",
        "-o",
    ];
    run("ld", &flat, [&code, &object]);
    fs::read(code).unwrap()
}

/// The first two sectors of a disk that boots.
fn boot_sectors(directory: &Path, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    let code = code(directory);
    assert!(code.len() < SAYS, "{}", code.len());
    put(0, &code);
    put(SAYS, format!("boots from {name}\n\0").as_bytes());
    put(SECTOR - 2, &[0x55, 0xaa]);
    put(SECTOR, format!("reads {name}\n\0").as_bytes());
    bytes
}

/// A CD-ROM as El Torito wants it: volume descriptors from sector 16 on, one of which leads to the catalog with one image.
fn cdrom(directory: &Path, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; 64 * CD_SECTOR];
    let mut put = |sector: u8, at: usize, what: &[u8]| {
        let at = usize::from(sector) * CD_SECTOR + at;
        bytes[at..at + what.len()].copy_from_slice(what);
    };
    put(16, 0, b"\x01CD001\x01");
    put(17, 0, b"\0CD001\x01EL TORITO SPECIFICATION");
    put(17, 0x47, &[BOOT_CATALOG]);
    put(18, 0, b"\xffCD001\x01");
    // Valid, for PCs, checksum and signature; then: bootable, no emulation, four sectors of 512 bytes from the image.
    put(BOOT_CATALOG, 0, &[1]);
    put(BOOT_CATALOG, 28, &[0xaa, 0x55, 0x55, 0xaa]);
    put(BOOT_CATALOG, 32, &[0x88, 0, 0, 0, 0, 0, 4, 0, BOOT_IMAGE]);
    let image = boot_sectors(directory, name);
    put(BOOT_IMAGE, 0, &image[..CD_SECTOR]);
    bytes
}

/// Makes the images and a VM whose first disk is booted.
fn boot(sandbox: &Sandbox, machine: &str, disks: &[Disk<'_>]) {
    let directory = tempfile::tempdir().unwrap();
    let firmware = if machine == "microvm" {
        format!("firmware: {MICROVM_FIRMWARE}\n")
    } else {
        String::new()
    };
    let mut yaml = format!("name: web\nmachine: {machine}\naccel: tcg\nmemory: 64M\n{firmware}disks:\n");
    for (name, fields) in disks {
        let image = sandbox.home().join(format!("{name}.img"));
        let content = if fields.contains("media: cdrom") {
            cdrom(directory.path(), name)
        } else {
            boot_sectors(directory.path(), name)
        };
        fs::write(&image, content).unwrap();
        if !fields.contains("format: raw") && !fields.contains("media: cdrom") {
            to_qcow2(&image);
        }
        yaml += &[&format!("  {name}: {{path: ./{name}.img, "), *fields, "}\n"].concat();
    }
    let file = sandbox.write_vm("web", &yaml);
    sandbox
        .maqet(&["add", file.to_str().unwrap(), "--start"])
        .expect(0);
    until_serial(sandbox, "web", "all read");
}

fn to_qcow2(image: &PathBuf) {
    let raw = image.with_extension("raw");
    fs::rename(image, &raw).unwrap();
    qemu_img::convert(("raw", &raw), ("qcow2", image));
}

/// What the guest said, without the firmware's words.
fn said(sandbox: &Sandbox) -> Vec<String> {
    let log = sandbox.maqet(&["logs", "web"]).expect(0).stdout;
    let lines = log.lines().map(str::trim);
    let own = lines.filter(|line| line.starts_with("boots from ") || line.starts_with("reads "));
    own.map(ToOwned::to_owned).collect()
}

/// Boots from each disk in turn and reads the others.
#[track_caller]
fn each_boots(machine: &str, disks: &[Disk<'_>]) {
    for first in 0..disks.len() {
        let mut disks = disks.to_vec();
        disks.rotate_left(first);
        let sandbox = Sandbox::new();
        boot(&sandbox, machine, &disks);
        let mut expected = vec![format!("boots from {}", disks[0].0)];
        expected.extend(disks.iter().map(|(name, _)| format!("reads {name}")));
        assert_eq!(said(&sandbox), expected, "{machine}: {disks:?}");
        sandbox.maqet(&["kill", "web"]).expect(0);
    }
}

/// Boots from a CD-ROM and reads an empty disk beside it.
#[track_caller]
fn a_cdrom_boots(machine: &str, fields: &str) {
    let sandbox = Sandbox::new();
    boot(
        &sandbox,
        machine,
        &[("cd", fields), ("root", "cache: none, aio: native")],
    );
    assert_eq!(
        said(&sandbox),
        ["boots from cd", "reads root"],
        "{machine}: {fields}"
    );
    sandbox.maqet(&["kill", "web"]).expect(0);
}

#[test]
fn from_every_interface_of_q35() {
    let disks = [
        ("virtio", "interface: virtio, cache: none, aio: native"),
        (
            "scsi",
            "interface: scsi, format: raw, readonly: true, aio: io_uring",
        ),
        ("sata", "interface: sata, format: raw, cache: directsync"),
        (
            "nvme",
            "interface: nvme, cache: writethrough, discard: unmap, detect_zeroes: unmap",
        ),
    ];
    each_boots("q35", &disks);
}

#[test]
fn from_every_interface_of_pc() {
    let disks = [
        ("ide", "interface: ide, cache: directsync, aio: io_uring"),
        ("virtio", "interface: virtio, format: raw, readonly: true"),
        ("scsi", "interface: scsi, cache: none"),
        ("sata", "interface: sata, cache: writethrough"),
        ("nvme", "interface: nvme, format: raw, readonly: true"),
    ];
    each_boots("pc", &disks);
}

#[test]
fn from_the_interface_of_isapc() {
    each_boots(
        "isapc",
        &[("ide", "interface: ide, format: raw"), ("data", "interface: ide")],
    );
}

#[test]
fn from_every_interface_of_microvm() {
    let disks = [
        ("virtio", "interface: virtio, aio: io_uring"),
        ("scsi", "interface: scsi, format: raw, readonly: true"),
    ];
    each_boots("microvm", &disks);
}

/// The words for a disk hold for all that it stands on.
#[test]
fn from_an_overlay_past_the_hosts_page_cache() {
    let sandbox = Sandbox::new();
    let directory = tempfile::tempdir().unwrap();
    let base = sandbox.home().join("base.raw");
    fs::write(&base, boot_sectors(directory.path(), "base")).unwrap();
    let overlay = sandbox.home().join("root.img");
    qemu_img::overlay_on("base.raw", &overlay);
    let disk = "cache: directsync, aio: native, discard: unmap, detect_zeroes: unmap";
    let yaml = format!("name: web\naccel: tcg\nmemory: 64M\ndisks: {{root: {{path: ./root.img, {disk}}}}}\n");
    let file = sandbox.write_vm("web", &yaml);
    sandbox
        .maqet(&["add", file.to_str().unwrap(), "--start"])
        .expect(0);
    until_serial(&sandbox, "web", "all read");
    assert_eq!(said(&sandbox), ["boots from base", "reads base"]);
    let nodes = sandbox.json(&["qmp", "run", "web", "query-named-block-nodes"]);
    for node in nodes.as_array().unwrap() {
        assert_eq!(node["cache"]["direct"], true, "{node}");
    }
    assert_eq!(nodes.as_array().unwrap().len(), 4, "{nodes}");
    sandbox.maqet(&["kill", "web"]).expect(0);
}

#[test]
fn from_cdroms() {
    a_cdrom_boots("microvm", "media: cdrom");
    a_cdrom_boots("q35", "media: cdrom");
    a_cdrom_boots("q35", "media: cdrom, interface: scsi, aio: io_uring");
    a_cdrom_boots("pc", "media: cdrom, cache: none");
}
