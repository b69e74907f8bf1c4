//! QEMU is killed because the memory of its control group ran out.

use std::fs;
use std::path::PathBuf;

use maqet_tests::wait;

use crate::scene::{Scene, VM, say};

/// Enough for supervisor, runner and a tiny QEMU, not for what the test has QEMU allocate.
const LIMIT_BYTES: u64 = 400 << 20;

/// A control group of version 1 or 2 with a limit, gone with its owner.
struct Group(PathBuf);

impl Group {
    /// `None` where this user cannot make one.
    fn new() -> Option<Self> {
        let name = format!("maqet-test-{}", std::process::id());
        let places = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        places.into_iter().find_map(|(place, limit)| {
            let group = Self(PathBuf::from(place).join(&name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(limit), LIMIT_BYTES.to_string())
                .ok()
                .map(|()| group)
        })
    }

    fn enter(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait::until(
            "the control group is empty",
            wait::PATIENCE,
            || match fs::remove_dir(&self.0) {
                Err(error) if self.0.exists() => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        );
    }
}

#[test]
fn a_qemu_that_ran_out_of_memory_is_told_from_one_that_was_killed() {
    let Some(group) = Group::new() else {
        return say("LEFT OUT: no control group with a memory limit can be made here");
    };
    let scene = Scene::new();
    // What is started from now on is in the group.
    group.enter(scene.supervisor().pid());
    scene.assert_stops();
    scene.sandbox.maqet(&["start", VM]).expect(0);
    let allocate = [
        "qom-type=memory-backend-ram",
        "id=much",
        "size=1073741824",
        "prealloc=true",
    ];
    let words: Vec<&str> = ["qmp", "run", VM, "object-add"]
        .into_iter()
        .chain(allocate)
        .collect();
    scene.sandbox.maqet(&words).expect(1);
    let exit = scene.ended("failed");
    assert_eq!(
        (&exit["cause"], &exit["signal"]),
        (&"qemu-killed".into(), &9.into()),
        "{exit}"
    );
    assert!(
        exit["detail"]
            .to_string()
            .contains("out of memory: the kernel's OOM killer"),
        "{exit}"
    );
    scene.assert_processes(1);
    scene.sandbox.maqet(&["start", VM]).expect(0);
    scene.assert_stops();
    scene.sandbox.maqet(&["supervisor", "stop"]).expect(0);
    drop(scene);
    drop(group);
}
