//! Disks that come while a machine runs, and where they are at its next start.

use serde_json::json;

use super::*;
use crate::argv::tests::spec;

/// As given to a QEMU with these lines that runs.
fn placed_in(yaml: &str, interface: DiskInterface) -> Result<(VmSpec, Disk), Unpluggable> {
    let disk = json!({"name": "new", "path": "/d/new", "format": "qcow2", "interface": interface, "cache": "none",
        "discard": "unmap"});
    let mut spec = spec(yaml);
    let disk = placed(&spec, serde_json::from_value(disk).unwrap())?;
    spec.disks.push(disk.clone());
    Ok((spec, disk))
}

#[test]
fn a_disk_comes_where_the_machine_takes_it() {
    use DiskInterface::{Ide, None as Nowhere, Nvme, Sata, Scsi, Virtio};
    let scsi = "disks: {a: {path: /d/a, interface: scsi}}";
    for (machine, disks, taken) in [
        ("q35", "", &[Virtio, Nvme, Nowhere][..]),
        ("q35", scsi, &[Virtio, Nvme, Scsi, Nowhere]),
        ("pc", "", &[Virtio, Nvme, Nowhere]),
        ("pc", scsi, &[Virtio, Nvme, Scsi, Nowhere]),
        ("microvm", "", &[Nowhere]),
        ("microvm", scsi, &[Scsi, Nowhere]),
        ("none", "", &[Nowhere]),
    ] {
        for interface in [Virtio, Scsi, Sata, Ide, Nvme, Nowhere] {
            let result = placed_in(&format!("machine: {machine}\n{disks}\n"), interface);
            assert_eq!(
                result.is_ok(),
                taken.contains(&interface),
                "{machine}, {disks}, {interface}: {result:?}"
            );
        }
    }
}

#[test]
fn each_has_a_port_of_its_own_as_long_as_there_is_one() {
    let disk = |port: &u8| format!("  d{port}: {{path: /d/{port}, port: {port}}}\n");
    let with = |ports: &[u8]| {
        format!(
            "disks:\n  root: {{path: /d/root}}\n{}",
            ports.iter().map(disk).collect::<String>()
        )
    };
    let port = |ports: &[u8]| placed_in(&with(ports), DiskInterface::Virtio).map(|(_, disk)| disk.port);
    assert_eq!(port(&[]), Ok(Some(0)));
    assert_eq!(port(&[0, 2]), Ok(Some(1)));
    assert_eq!(port(&[0, 1, 2, 3, 4, 5, 6, 7]), Err(Unpluggable::NoPort));
}

#[test]
fn it_is_what_the_next_start_will_have() {
    let yaml =
        "kernel: {image: /d/k}\ndisks: {a: {path: /d/a, interface: scsi}, b: {path: /d/b, interface: none}}";
    let (spec, _) = placed_in(yaml, DiskInterface::Scsi).unwrap();
    assert_eq!(
        device(&spec, "new").unwrap(),
        json!({"driver": "scsi-hd", "bus": "scsi0.0", "drive": "new", "bootindex": 2, "werror": "enospc", "rerror": "report"})
    );
    let (spec, disk) = placed_in(yaml, DiskInterface::Virtio).unwrap();
    assert_eq!(
        device(&spec, "new").unwrap(),
        json!({"driver": "virtio-blk-pci", "bus": "plug0", "addr": "0", "drive": "new", "bootindex": 2, "werror": "enospc",
               "rerror": "report"})
    );
    assert_eq!(device(&spec, "b"), None);
    assert_eq!(device(&spec, "other"), None);
    let nodes = nodes(&disk, 2, 5, &[(DiskFormat::Raw, 6)]);
    assert_eq!(
        json!(nodes),
        json!([
            [{"driver": "file", "node-name": "file.2.1", "filename": "/dev/fdset/6", "read-only": true, "cache": {"direct": true}},
             {"driver": "raw", "node-name": "below.2.1", "file": "file.2.1", "read-only": true, "cache": {"direct": true}}],
            [{"driver": "file", "node-name": "file.2", "filename": "/dev/fdset/5", "cache": {"direct": true}, "discard": "unmap"},
             {"driver": "qcow2", "node-name": "new", "file": "file.2", "cache": {"direct": true}, "discard": "unmap",
              "backing": "below.2.1"}],
        ])
    );
}

#[test]
fn the_slot_of_the_ports_may_be_a_persons() {
    for (word, has_ports) in [
        ("ioh3420,bus=pcie.0,addr=1c.0", false),
        ("ioh3420,addr=0x1c", false),
        (r#"{"driver": "ioh3420", "addr": "0x1c.3"}"#, false),
        ("ioh3420,addr=1d.0", true),
        ("e1000,mac=52:54:00:00:00:1c", true),
    ] {
        let yaml = format!("qemu: {{args: [-device, '{word}']}}\n");
        let placed = placed_in(&yaml, DiskInterface::Virtio);
        assert_eq!(placed.is_ok(), has_ports, "{word}: {placed:?}");
        let spec = spec(&yaml);
        let words = crate::argv::argv(&spec, &crate::argv::Wiring::sample(&spec)).unwrap();
        let ports = words
            .iter()
            .filter(|word| word.starts_with("pcie-root-port"))
            .count();
        assert_eq!(ports, if has_ports { 8 } else { 0 }, "{word}");
    }
}

#[test]
fn a_pc_has_slots_instead_of_ports() {
    let (spec, _) = placed_in(
        "machine: pc\ndisks: {a: {path: /d/a, port: 0}}",
        DiskInterface::Virtio,
    )
    .unwrap();
    let device = device(&spec, "new").unwrap();
    assert_eq!((&device["addr"], device.get("bus")), (&json!("0x11"), None));
}
