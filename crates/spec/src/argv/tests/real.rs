//! Every machine and interface before a real QEMU: it takes the words, opens its monitors and quits with 0.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};

use super::*;

/// What a QEMU is started with: its files, and descriptors that it inherits.
struct Start {
    directory: tempfile::TempDir,
    fds: Vec<OwnedFd>,
}

impl Start {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            fds: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Lets QEMU inherit a descriptor, under the number it has here.
    fn pass(&mut self, fd: impl Into<OwnedFd>) -> i32 {
        let fd = fd.into();
        fcntl_setfd(&fd, FdFlags::empty()).unwrap();
        let number = fd.as_raw_fd();
        self.fds.push(fd);
        number
    }

    fn socket(&mut self, name: &str) -> i32 {
        let listener = UnixListener::bind(self.path(name)).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.pass(listener)
    }

    fn image(&mut self, disk: &crate::vm::Disk) -> i32 {
        let path = self.path(&format!("{}.img", disk.name));
        create(&path, disk.format);
        self.pass(
            File::options()
                .read(true)
                .write(!disk.readonly)
                .open(&path)
                .unwrap(),
        )
    }

    fn wiring(&mut self, spec: &VmSpec) -> Wiring {
        Wiring {
            launch_id: "0badcafe".to_owned(),
            accel: "tcg".to_owned(),
            control_fd: self.socket("control"),
            recovery_fd: self.socket("recovery"),
            serial: Some(SerialWiring {
                fd: self.socket("serial"),
                log: Some(self.path("serial,.log")),
            }),
            disks: spec
                .disks
                .iter()
                .map(|disk| DiskWiring {
                    name: disk.name.clone(),
                    fd: self.image(disk),
                    below: Vec::new(),
                })
                .collect(),
            shares: spec
                .shares
                .iter()
                .map(|share| ShareWiring {
                    name: share.name.clone(),
                    fd: self.pass(File::open(self.directory.path()).unwrap()),
                })
                .collect(),
            ..Wiring::sample(spec)
        }
    }

    /// Runs QEMU until it has obeyed `quit`; what it said on stderr, and how it ended.
    fn run(self, spec: &VmSpec, words: &[String]) -> (String, Option<i32>) {
        let Self {
            directory: _directory,
            fds,
        } = self;
        let mut command = Command::new(&spec.binary);
        command.args(words).args(["-qmp", "stdio"]).current_dir("/");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(fds);
        let ask = b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}\n";
        let mut stdin = child.stdin.take().unwrap();
        // A QEMU that refused its words is gone already: its stderr says more than a broken pipe.
        let asked = stdin.write_all(ask);
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(asked.is_ok() || !output.status.success(), "{asked:?}");
        (said, output.status.code())
    }
}

fn create(path: &Path, format: DiskFormat) {
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", &format.to_string()])
        .arg(path)
        .arg("1M")
        .status()
        .unwrap();
    assert!(made.success());
}

fn starts(yaml: &str) {
    let spec = spec(&format!("accel: tcg\nmemory: 64M\n{yaml}"));
    let mut start = Start::new();
    let wiring = start.wiring(&spec);
    let words = argv(&spec, &wiring).unwrap();
    let (said, code) = start.run(&spec, &words);
    assert_eq!((said.as_str(), code), ("", Some(0)), "{words:?}");
}

/// A read-only raw and a writable qcow2 disk with one interface.
fn disks(interface: &str) -> String {
    let readonly = !matches!(interface, "ide" | "sata");
    format!(
        "disks:\n  one: {{path: /d/one, interface: {interface}}}\n  \
         two: {{path: /d/two, format: raw, readonly: {readonly}, interface: {interface}}}\n"
    )
}

#[test]
fn every_interface_of_q35() {
    for interface in ["virtio", "scsi", "sata", "nvme", "none"] {
        starts(&format!("machine: q35\n{}", disks(interface)));
    }
}

#[test]
fn every_interface_of_pc() {
    for interface in ["virtio", "scsi", "sata", "ide", "nvme", "none"] {
        starts(&format!("machine: pc\n{}", disks(interface)));
    }
}

#[test]
fn every_interface_of_microvm() {
    for interface in ["virtio", "scsi", "none"] {
        starts(&format!("machine: microvm\n{}", disks(interface)));
    }
}

#[test]
fn isapc_and_none() {
    starts(&format!("machine: isapc\n{}", disks("ide")));
    starts(&format!("machine: none\n{}", disks("none")));
}

#[test]
fn a_cdrom_where_there_are_drives() {
    for (machine, interface) in [
        ("q35", "sata"),
        ("q35", "scsi"),
        ("pc", "ide"),
        ("pc", "sata"),
        ("pc", "scsi"),
        ("microvm", "scsi"),
        ("isapc", "ide"),
    ] {
        starts(&format!(
            "machine: {machine}\ndisks:\n  named: {{path: /d/named, media: cdrom, interface: {interface}}}\n  \
             plain: {{path: /d/plain, media: cdrom}}\n"
        ));
    }
}

#[test]
fn every_cache_with_every_way_to_ask() {
    use std::fmt::Write as _;

    let mut disks = String::from("machine: q35\ndisks:\n");
    for (number, options) in [
        "cache: writeback, aio: threads",
        "cache: writeback, aio: io_uring, interface: scsi",
        "cache: none, aio: threads, interface: scsi",
        "cache: none, aio: native, discard: unmap",
        "cache: none, aio: io_uring, interface: nvme",
        "cache: writethrough, interface: nvme",
        "cache: writethrough, aio: io_uring, interface: sata",
        "cache: directsync, aio: threads, interface: scsi",
        "cache: directsync, aio: native, interface: sata",
        "cache: directsync, aio: io_uring, discard: unmap, detect_zeroes: unmap",
        "detect_zeroes: on, discard: unmap, interface: none",
    ]
    .iter()
    .enumerate()
    {
        writeln!(disks, "  d{number}: {{path: /d/{number}, {options}}}").unwrap();
    }
    starts(&disks);
}

#[test]
fn more_disks_than_one_controller_has_ports() {
    use std::fmt::Write as _;

    for machine in ["q35", "pc"] {
        let mut yaml = format!("machine: {machine}\ndisks:\n");
        for number in 0..8 {
            writeln!(
                yaml,
                "  d{number}: {{path: /d/{number}, format: raw, interface: sata}}"
            )
            .unwrap();
        }
        starts(&yaml);
    }
    starts(
        "machine: pc\ndisks:\n  a: {path: /a, interface: ide}\n  b: {path: /b, interface: ide}\n  c: {path: /c, interface: ide}\n  d: {path: /d, interface: ide}\n",
    );
}

#[test]
fn shares_where_there_is_virtio() {
    for machine in ["q35", "pc", "microvm"] {
        starts(&format!(
            "machine: {machine}\nshares:\n  a: ./a\n  b: {{path: ./b, readonly: true, security: mapped-file}}\n  \
             c: {{path: ./c, security: none}}\n  d: {{path: ./d, security: passthrough}}\n"
        ));
    }
}

#[test]
fn networks_and_the_rest() {
    for machine in ["q35", "pc", "microvm", "isapc"] {
        starts(&format!(
            "machine: {machine}\nnetworks: {{lan: {{forwards: ['tcp:auto:22', 'udp:auto:53']}}}}\n"
        ));
    }
    starts(
        "machine: q35,smm=off\ncpus: 2\nvga: std\non_reboot: stop\nsandbox: off\ncpu_model: qemu64,-svm\n",
    );
    starts(
        "arguments: [{device: {virtio-rng-pci: ~}}, {device: virtio-balloon-pci}, {object: {memory-backend-ram: ~, id: m0, size: 16M}}, no-hpet]\n",
    );
}
