//! Long work tells on a terminal how far it is.

use std::process::Command;

use maqet_process::{Sent, Signal};
use maqet_tests::{Guest, Running, Sandbox, qemu_img};

use crate::cut::{at_work, frozen_clone};

/// `maqet` with these words on a terminal of its own.
fn on_a_terminal(sandbox: &Sandbox, words: &str) -> Running {
    let maqet = sandbox.command("maqet-under-test");
    let line = format!("{} {words}", maqet.get_program().display());
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]);
    let variables = maqet.get_envs().filter_map(|(name, value)| Some((name, value?)));
    script.env_clear().envs(variables).env("TERM", "xterm");
    script.current_dir(sandbox.home());
    Running::start(script)
}

#[test]
fn a_clone_tells_how_far_it_is() {
    let sandbox = Sandbox::new();
    qemu_img::filled(&sandbox.home().join("big.qcow2"), 96);
    Guest::tiny("web")
        .line("disks: {root: {path: ./big.qcow2}}")
        .add(&sandbox);
    let clone = || on_a_terminal(&sandbox, "storage clone web root copy.qcow2");
    let (clone, copying) = frozen_clone(&sandbox, clone);
    clone.says("copying");
    assert_eq!(copying.handle.signal(Signal::Cont).unwrap(), Sent::Delivered);
    let told = clone.output().expect(0).stdout;
    assert!(told.contains("copy.qcow2: 96M for the guest"), "{told}");
    // What a pipe gets has no trace of it.
    let plain = sandbox.maqet(&["storage", "verify", "web"]).expect(0);
    assert_eq!(plain.stderr, "");
}

#[test]
fn a_merge_tells_how_far_it_is() {
    let sandbox = Sandbox::new();
    qemu_img::filled(&sandbox.home().join("big.qcow2"), 1);
    qemu_img::run_in(sandbox.home(), &["resize", "-q", "big.qcow2", "192M"]);
    Guest::tiny("web")
        .line("disks: {root: {path: ./big.qcow2}}")
        .add(&sandbox);
    // A merge may be done before anybody has seen it.
    let caught = (0..50).find_map(|_attempt| {
        sandbox
            .maqet(&["snapshot", "create", "web", "one", "--external"])
            .expect(0);
        let top = sandbox.status("web")["disks"][0]["path"].clone();
        let mut write = Command::new("qemu-io");
        write.args(["-f", "qcow2", "-c", "write -q -P 7 0 192M", top.as_str().unwrap()]);
        assert!(write.status().unwrap().success());
        let client = on_a_terminal(&sandbox, "snapshot delete web one");
        match at_work(&sandbox, &client, "qemu-img commit") {
            Some(merging) if merging.handle.signal(Signal::Stop).unwrap() == Sent::Delivered => {
                Some((client, merging))
            }
            Some(_) | None => {
                client.output().expect(0);
                None
            }
        }
    });
    let (client, merging) = caught.unwrap();
    client.says("merging");
    assert_eq!(merging.handle.signal(Signal::Cont).unwrap(), Sent::Delivered);
    client.output().expect(0);
}
