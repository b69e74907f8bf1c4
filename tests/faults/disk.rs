//! The disk is full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use maqet_tests::{Guest, Sandbox};
use rustix::process::geteuid;

use crate::scene::{kill, process, say};

/// A small file system of its own; taken away when dropped.
#[derive(Debug)]
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=6m,mode=0700", "maqet-test"]);
        let mounted = geteuid().is_root()
            && mount
                .arg(&path)
                .output()
                .is_ok_and(|output| output.status.success());
        if mounted {
            return Some(Self { path });
        }
        say("WARNING: a full disk is NOT EXERCISED: only root can mount a small one");
        fs::remove_dir(&path).unwrap();
        None
    }

    /// Writes until nothing more fits; returns the file to delete.
    fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [65536, 4096, 1] {
            fill(&mut file, size);
        }
        path
    }
}

fn fill(file: &mut File, size: usize) {
    let part = vec![b'x'; size];
    loop {
        match file.write(&part) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    let unmounted = Command::new("umount").arg("-l").arg(path).output().unwrap();
    if !unmounted.status.success() {
        say(&format!("{unmounted:?}"));
    }
}

#[test]
fn a_full_disk_keeps_nobody_from_looking_and_stopping() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::mount(sandbox.data_dir()) else {
        return;
    };
    Guest::tiny("web").start(&sandbox);
    Guest::tiny("db").start(&sandbox);
    Guest::tiny("idle").add(&sandbox);
    let filler = disk.fill();

    assert_eq!(sandbox.json(&["ls"]).as_array().unwrap().len(), 3);
    assert_eq!(sandbox.status("web")["status"], "running");
    // A start may find room for its few bytes; one that does not says so and leaves nothing behind.
    let started = sandbox.maqet(&["start", "idle", "-o", "json"]);
    if started.code != 0 {
        let refusal = started.error();
        assert!(refusal.to_string().contains("No space left"), "{refusal}");
        assert_ne!(sandbox.status("idle")["status"], "running");
    }
    stop_all_the_same(&sandbox);

    // The end that could not be recorded is found out by the next supervisor.
    let supervisor = process(&sandbox.json(&["supervisor", "status", "--no-autostart"])["pid"]);
    fs::remove_file(filler).unwrap();
    kill(&[&supervisor]);
    let status = sandbox.status("web");
    assert_eq!(
        (&status["status"], &status["last_exit"]["cause"]),
        (&"stopped".into(), &"stop".into()),
        "{status}"
    );
    assert_eq!(sandbox.status("db")["status"], "running");
    sandbox.maqet(&["start", "idle"]).expect(0);

    sandbox.maqet(&["rm", "--all", "--force", "--yes"]).expect(0);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
}

fn stop_all_the_same(sandbox: &Sandbox) {
    let qemu = process(&sandbox.status("web")["pid"]);
    let stopped = sandbox.json(&["stop", "web"]);
    assert_eq!(
        (&stopped[0]["status"], &stopped[0]["how"]),
        (&"stopped".into(), &"guest".into()),
        "{stopped}"
    );
    assert!(qemu.has_exited());
    assert_eq!(sandbox.status("web")["status"], "stopped");
}
