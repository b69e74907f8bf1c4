//! A whole operating system: Debian's kernel, the power button, a virtio disk.

use std::io::{Read, Write};
use std::net::TcpStream;

use maqet_tests::{Sandbox, linux, qemu_img, wait};

use crate::facts::{one, until_serial};

/// Adds and starts the guest with these words on its command line.
pub(crate) fn start(sandbox: &Sandbox, name: &str, words: &str, lines: &str) {
    let yaml = format!(
        "name: {name}\nmachine: q35\naccel: tcg\nmemory: 256M\n\
         {}\n\
         disks: {{root: {{path: ./{name}.qcow2, size: 8M}}}}\nstop: {{timeout: 2m}}\n{lines}",
        linux::kernel(words),
    );
    let file = sandbox.write_vm(name, &yaml);
    sandbox
        .maqet(&["add", file.to_str().unwrap(), "--start"])
        .expect(0);
}

/// The kernel tells when a disk becomes another.
#[test]
fn a_running_guest_sees_its_disk_grow() {
    let sandbox = Sandbox::new();
    start(&sandbox, "linux", "loglevel=7", "");
    until_serial(&sandbox, "linux", "maqet linux guest ready");
    let resized = sandbox.json(&["storage", "resize", "linux", "root", "+8M"]);
    assert_eq!(
        (&resized["before"], &resized["after"], &resized["live"]),
        (&(8 << 20).into(), &(16 << 20).into(), &true.into()),
        "{resized}"
    );
    until_serial(
        &sandbox,
        "linux",
        "vda\\] new size: 32768 512-byte logical blocks",
    );
    // Never smaller under a guest.
    let smaller = ["storage", "resize", "linux", "root", "4M", "--shrink"];
    sandbox.maqet(&smaller).expect(3);
    let spec = sandbox.json(&["info", "linux"]);
    assert_eq!(spec["spec"]["disks"][0]["size"], 16 << 20, "{spec}");
}

#[test]
fn it_boots_writes_and_is_shut_down_by_its_power_button() {
    let sandbox = Sandbox::new();
    start(&sandbox, "linux", "maqet.write=remember-the-milk", "");
    until_serial(&sandbox, "linux", "maqet linux guest ready");
    let stopped = sandbox.json(&["stop", "linux"]);
    assert_eq!(one(&stopped)["how"], "guest", "{stopped}");
    let log = sandbox.maqet(&["logs", "linux"]).expect(0).stdout;
    assert!(
        log.contains("maqet wrote") && log.contains("powering off"),
        "{log}"
    );

    // What it wrote is on the disk, for us and for the next boot.
    let content = qemu_img::content(&sandbox.home().join("linux.qcow2"));
    assert!(content.starts_with(b"remember-the-milk\n"));
}

#[test]
fn what_it_wrote_is_there_at_its_next_boot_and_its_port_answers() {
    let sandbox = Sandbox::new();
    let network = "networks: {lan: {type: user, forwards: ['tcp:127.0.0.1:auto:80']}}\n";
    start(
        &sandbox,
        "linux",
        "maqet.write=twice maqet.read maqet.net",
        network,
    );
    sandbox
        .maqet(&[
            "wait",
            "linux",
            "port=80",
            "serial=maqet linux guest ready",
            "--timeout",
            "2m",
        ])
        .expect(0);
    let port = sandbox.status("linux")["ports"][0]["host_port"].as_u64().unwrap();
    let page = fetch(port.try_into().unwrap());
    assert!(page.contains("maqet linux guest"), "{page}");
    sandbox.maqet(&["restart", "linux"]).expect(0);
    until_serial(&sandbox, "linux", "maqet read: twice");
}

/// The page behind a forwarded port.
fn fetch(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}
