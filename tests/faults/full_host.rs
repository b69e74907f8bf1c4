//! The host's disk is full under a running VM: the guest is halted, everybody is told, and it goes on once there is room.

use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::{ProcessHandle, Sent, Signal};
use maqet_tests::{Sandbox, linux, qemu_img, wait};
use serde_json::Value;

use crate::hung_disk::HungDisk;
use crate::scene::at_most;
use crate::small_disk::SmallDisk;

const MEBIBYTES: u32 = 6;

/// What the guest writes.
const KIBIBYTES: usize = 2048;

/// A VM whose guest is halted because there is no room for its first write.
struct Scene {
    sandbox: Sandbox,
    disk: SmallDisk,
}

impl Scene {
    /// `None` where this user may not mount.
    fn halted() -> Option<Self> {
        let sandbox = Sandbox::new();
        let disk = SmallDisk::mount(sandbox.home().join("small"), MEBIBYTES)?;
        let image = sandbox.home().join("small/root.qcow2");
        qemu_img::create(&image, "qcow2", "8M");
        disk.fill();
        let yaml = format!(
            "name: web\nmachine: q35\naccel: tcg\nmemory: 256M\n{}\ndisks: {{root: {{path: ./small/root.qcow2}}}}\n",
            linux::kernel(&format!("maqet.fill={KIBIBYTES}"))
        );
        let file = sandbox.write_vm("web", &yaml).display().to_string();
        sandbox.maqet(&["add", &file, "--start"]).expect(0);
        let scene = Self { sandbox, disk };
        wait::until("the guest is halted", wait::PATIENCE * 2, || {
            let trouble = scene.trouble();
            if trouble["problem"] == "host-full" {
                Ok(())
            } else {
                Err(trouble)
            }
        });
        Some(scene)
    }

    fn image(&self) -> PathBuf {
        self.sandbox.home().join("small/root.qcow2")
    }

    fn trouble(&self) -> Value {
        self.sandbox.status("web")["disks"][0]["trouble"].clone()
    }

    fn pid(&self, key: &str) -> ProcessHandle {
        let pid = self.sandbox.status("web")[key].as_i64().unwrap();
        ProcessHandle::open(i32::try_from(pid).unwrap()).unwrap().unwrap()
    }

    /// There is room, and all the guest wanted to write is written.
    fn goes_on(&self) {
        self.sandbox
            .maqet(&["wait", "web", "serial=maqet filled", "--timeout", "120s"])
            .expect(0);
        wait::until("nothing is wrong any more", wait::PATIENCE, || {
            let trouble = self.trouble();
            if trouble.is_null() { Ok(()) } else { Err(trouble) }
        });
        assert_eq!(self.sandbox.status("web")["run_state"], "running");
        self.sandbox.maqet(&["stop", "web"]).expect(0);
        let expected = b"maqet\n".repeat(KIBIBYTES * 1024 / 6 + 1);
        let found = content(&self.image());
        assert!(
            found.len() == KIBIBYTES * 1024 && expected.starts_with(&found),
            "the disk has other bytes"
        );
    }
}

fn content(image: &Path) -> Vec<u8> {
    let mut bytes = qemu_img::content(image);
    bytes.truncate(KIBIBYTES * 1024);
    bytes
}

#[test]
fn a_halted_guest_is_told_everywhere_and_goes_on_by_itself() {
    let Some(scene) = Scene::halted() else { return };
    let sandbox = &scene.sandbox;
    assert_eq!(scene.trouble()["problem"], "host-full");
    assert_eq!(sandbox.status("web")["run_state"], "io-error");
    let told = sandbox.maqet(&["status", "web"]).expect(0).stdout;
    assert!(told.contains("the host's disk is full"), "{told}");
    let listed = sandbox.maqet(&["ls"]).expect(0).stdout;
    assert!(listed.contains("io-error"), "{listed}");
    let told = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    assert!(told.contains("the host has no room for disk `root`"), "{told}");
    let refused = sandbox.maqet(&["resume", "web"]).expect(3).stderr;
    assert!(
        refused.contains("bytes needed") && refused.contains("free"),
        "{refused}"
    );
    scene.disk.free();
    scene.goes_on();
}

#[test]
fn whoever_is_killed_meanwhile_the_guest_goes_on() {
    let Some(scene) = Scene::halted() else { return };
    let qemu = scene.pid("pid");
    let runner = scene.pid("runner_pid");
    assert_eq!(runner.signal(Signal::Kill).unwrap(), Sent::Delivered);
    wait::until("another runner is there", wait::PATIENCE, || {
        let pid = scene.sandbox.status("web")["runner_pid"].clone();
        if pid.is_i64() && pid != runner.pid() {
            Ok(())
        } else {
            Err(pid)
        }
    });
    wait::until("the new runner knows", wait::PATIENCE, || {
        let trouble = scene.trouble();
        if trouble["problem"] == "host-full" {
            Ok(())
        } else {
            Err(trouble)
        }
    });
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    wait::until("the new supervisor knows", wait::PATIENCE, || {
        let trouble = scene.trouble();
        if trouble["problem"] == "host-full" {
            Ok(())
        } else {
            Err(trouble)
        }
    });
    assert_eq!(scene.pid("pid").pid(), qemu.pid());
    scene.disk.free();
    scene.goes_on();
}

#[test]
fn a_pause_by_a_person_outlasts_the_full_disk() {
    let Some(scene) = Scene::halted() else { return };
    scene.sandbox.maqet(&["pause", "web"]).expect(0);
    let qemu = scene.pid("pid");
    scene.disk.free();
    // By then it would have been let go on several times.
    at_most(&qemu, Duration::from_secs(6));
    assert_eq!(scene.sandbox.status("web")["run_state"], "io-error");
    scene.sandbox.maqet(&["resume", "web"]).expect(0);
    scene.goes_on();
}

#[test]
fn a_halted_guest_can_be_stopped() {
    let Some(scene) = Scene::halted() else { return };
    let stopped = scene.sandbox.json(&["stop", "web"]);
    assert_eq!(stopped[0]["how"], "quit", "{stopped}");
    assert_eq!(scene.trouble(), Value::Null);
    scene.disk.free();
    scene.sandbox.maqet(&["start", "web"]).expect(0);
    scene
        .sandbox
        .maqet(&["wait", "web", "serial=maqet filled"])
        .expect(0);
}

#[test]
fn a_file_system_that_hangs_as_well_is_not_waited_for() {
    let Some(scene) = Scene::halted() else { return };
    let sandbox = &scene.sandbox;
    let Some(mut hung) = HungDisk::over(sandbox.home().join("small")) else {
        return;
    };
    let resuming = sandbox.spawn(&["resume", "web"]);
    hung.asked_by(1);
    sandbox.maqet(&["ls", "--deadline", "10s"]).expect(0);
    // Nobody knows whether there is room, so QEMU is asked to go on, and is halted again.
    resuming.output().expect(0);
    drop(hung);
    scene.disk.free();
    scene.goes_on();
}
