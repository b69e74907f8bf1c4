//! `accel: auto`: KVM where it really runs a guest, TCG where it does not.

use std::process::Command;
use std::time::Duration;

use maqet_process::{ProcessHandle, Signal};
use maqet_supervisor::guest::READY;
use maqet_tests::{Guest, Sandbox, wait};

use crate::facts::{send, until_serial};

/// How long the first line of the tiny guest may take under KVM, where it takes milliseconds.
const BOOT: Duration = Duration::from_secs(10);

/// Asks a bare QEMU, so that the answer does not depend on what is tested.
fn kvm_runs_a_guest(sandbox: &Sandbox) -> bool {
    let log = sandbox.home().join("kvm.log");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-machine",
        "pc",
        "-accel",
        "kvm",
        "-m",
        "16M",
        "-display",
        "none",
        "-nodefaults",
        "-no-reboot",
    ]);
    qemu.arg("-bios").arg(sandbox.tiny_image());
    qemu.arg("-serial").arg(format!("file:{}", log.display()));
    let mut child = qemu.stderr(std::process::Stdio::null()).spawn().unwrap();
    let process = ProcessHandle::open(i32::try_from(child.id()).unwrap())
        .unwrap()
        .unwrap();
    let speaks = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(READY));
    let begun = std::time::Instant::now();
    while !speaks() && begun.elapsed() < BOOT && !wait::exited(&process, Duration::from_millis(50)) {}
    let runs = speaks();
    send(&process, Signal::Kill);
    child.wait().unwrap();
    runs
}

#[test]
fn auto_is_what_the_host_can_do() {
    let sandbox = Sandbox::new();
    let yaml = Guest::tiny("web")
        .yaml(&sandbox)
        .replace("accel: tcg", "accel: auto");
    let file = sandbox.write_vm("web", &yaml);
    sandbox
        .maqet(&["add", file.to_str().unwrap(), "--start"])
        .expect(0);
    // Whatever was chosen, the guest runs.
    until_serial(&sandbox, "web", READY);
    let expected = if kvm_runs_a_guest(&sandbox) { "kvm" } else { "tcg" };
    assert_eq!(sandbox.status("web")["accel"], expected);
    // Whoever asks learns why it is not KVM.
    let story = sandbox.maqet(&["events", "--vm", "web"]).expect(0).stdout;
    assert_eq!(story.contains("accel_fallback"), expected == "tcg", "{story}");
    assert_eq!(sandbox.json(&["stop", "web"])[0]["how"], "guest");
}

#[test]
fn the_accelerator_that_was_named_is_taken() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    assert_eq!(sandbox.status("web")["accel"], "tcg");
    let answer = sandbox.json(&["qmp", "run", "web", "query-kvm"]);
    assert_eq!(answer["enabled"], false);
}
