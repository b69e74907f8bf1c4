//! A file system that hangs, as a network disk does whose server is gone, holds up whoever asks it, and nobody else.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox, qemu_img};
use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::scene::say;

/// The first question that the kernel asks a FUSE daemon, and those that need no answer; `linux/fuse.h`.
const INIT: u32 = 26;
const UNANSWERED: [u32; 3] = [2, 36, 42];

/// A directory from which nobody gets an answer: the daemon behind it reads questions and does no more. Taken away when
/// dropped, and everybody who waits gets an error.
#[derive(Debug)]
pub(crate) struct HungDisk {
    path: PathBuf,
    daemon: Option<File>,
    asked: usize,
}

impl HungDisk {
    /// Mounted over what is there; `None` where this user may not mount.
    pub(crate) fn over(path: PathBuf) -> Option<Self> {
        let mut options = File::options();
        options.read(true).write(true);
        let flags = OFlags::NONBLOCK.bits().try_into().unwrap();
        let daemon = options.custom_flags(flags).open("/dev/fuse").ok();
        let mounted = daemon.filter(|daemon| {
            let mut mount = Command::new("mount");
            mount.args(["-i", "-t", "fuse", "maqet-test"]).arg(&path);
            mount.args(["-o", "fd=0,rootmode=40000,user_id=0,group_id=0"]);
            mount.stdin(daemon.try_clone().unwrap());
            geteuid().is_root() && mount.output().is_ok_and(|output| output.status.success())
        });
        if mounted.is_none() {
            say("WARNING: a disk that hangs is NOT EXERCISED: only root with /dev/fuse can mount one");
        }
        mounted.map(|daemon| Self {
            path,
            daemon: Some(daemon),
            asked: 0,
        })
    }

    /// Waits until so many threads wait for an answer.
    #[track_caller]
    pub(crate) fn asked_by(&mut self, threads: usize) {
        wait::until("the disk is asked", PATIENCE, || {
            self.read();
            if self.asked >= threads {
                Ok(())
            } else {
                Err(self.asked)
            }
        });
    }

    /// Reads what has been asked by now.
    fn read(&mut self) {
        let mut daemon = self.daemon.as_ref().unwrap();
        let mut question = vec![0; 1 << 16];
        loop {
            match daemon.read(&mut question) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
            let number = u32::from_ne_bytes(question[4..8].try_into().unwrap());
            if number == INIT {
                daemon.write_all(&ready(&question[8..16])).unwrap();
            } else if !UNANSWERED.contains(&number) {
                self.asked += 1;
            }
        }
    }
}

/// The answer to the first question: an old version, and nothing special.
fn ready(unique: &[u8]) -> Vec<u8> {
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect::<Vec<_>>()
    };
    let answer = words(&[7, 12, 4096, 0, 0, 4096]);
    let length = u32::try_from(16 + answer.len()).unwrap();
    [words(&[length, 0]), unique.to_vec(), answer].concat()
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).output().unwrap();
        if !unmounted.status.success() {
            say(&format!("{unmounted:?}"));
        }
    }
}

/// A VM whose disk will hang, and one that has nothing to do with it.
fn two_vms() -> Sandbox {
    let sandbox = Sandbox::new();
    let net = sandbox.home().join("net");
    fs::create_dir(&net).unwrap();
    qemu_img::create(&net.join("root.qcow2"), "qcow2", "1M");
    Guest::tiny("far")
        .line("disks: {root: {path: ./net/root.qcow2}}")
        .add(&sandbox);
    Guest::tiny("near").add(&sandbox);
    sandbox
}

#[test]
fn whatever_is_asked_of_a_disk_that_hangs_others_are_answered() {
    let sandbox = two_vms();
    Guest::tiny("third").add(&sandbox);
    let at = |name: &str| sandbox.home().join(name).display().to_string();
    let description = Guest::tiny("another").line("disks: {root: {path: ./net/other.qcow2}}");
    let description = description.write(&sandbox).display().to_string();
    let copy = at("copy.qcow2");
    let (file, none) = (at("net/root.qcow2"), at("net/none.qcow2"));
    let questions: [&[&str]; 13] = [
        &["start", "far"],
        &["storage", "info", "far"],
        &["storage", "verify", "far"],
        &["storage", "orphaned"],
        &["storage", "accept", "far", "root"],
        &["storage", "resize", "far", "root", "2M"],
        &["storage", "clone", "far", "root", &copy],
        &["storage", "attach", "third", &none, "--disk", "more"],
        &["snapshot", "list", "far"],
        &["snapshot", "create", "far", "one"],
        &["image", "import", &file, "--name", "base"],
        &["image", "ls"],
        &["add", &description],
    ];
    for question in questions {
        let Some(mut disk) = HungDisk::over(sandbox.home().join("net")) else {
            return;
        };
        let asking = sandbox.spawn(question);
        disk.asked_by(1);
        others_are_answered(&sandbox);
        assert!(!asking.handle().has_exited(), "{question:?}: {}", asking.stderr());
        drop(disk);
        // Whatever the answer is, it comes.
        asking.output();
        sandbox.maqet(&["kill", "far"]).expect(0);
    }
}

fn others_are_answered(sandbox: &Sandbox) {
    sandbox.maqet(&["ls", "--deadline", "10s"]).expect(0);
    sandbox.maqet(&["start", "near", "--deadline", "10s"]).expect(0);
    sandbox.maqet(&["kill", "near", "--deadline", "10s"]).expect(0);
    sandbox.maqet(&["status", "far", "--deadline", "10s"]).expect(0);
}

#[test]
fn a_copy_to_a_disk_that_hangs_holds_up_nobody_else() {
    let sandbox = two_vms();
    let at = |name: &str| sandbox.home().join(name).display().to_string();
    let (near, far_copy) = (at("near.qcow2"), at("net/copy.qcow2"));
    qemu_img::create(&sandbox.home().join("near.qcow2"), "qcow2", "1M");
    sandbox
        .maqet(&["storage", "attach", "near", &near, "--disk", "root"])
        .expect(0);
    let clone: &[&str] = &["storage", "clone", "near", "root", &far_copy];
    let Some(mut disk) = HungDisk::over(sandbox.home().join("net")) else {
        return;
    };
    let asking = sandbox.spawn(clone);
    disk.asked_by(1);
    sandbox.maqet(&["ls", "--deadline", "10s"]).expect(0);
    drop(disk);
    asking.output().expect(1);
    sandbox.maqet(clone).expect(0);
}

#[test]
fn however_often_it_is_asked_one_thread_waits() {
    let sandbox = two_vms();
    let Some(mut disk) = HungDisk::over(sandbox.home().join("net")) else {
        return;
    };
    let asking: Vec<_> = (0..20)
        .map(|_| sandbox.spawn(&["storage", "info", "far"]))
        .collect();
    disk.asked_by(1);
    for _ in 0..20 {
        sandbox.maqet(&["ls", "--deadline", "10s"]).expect(0);
    }
    disk.read();
    assert_eq!(disk.asked, 1);
    drop(disk);
    for asked in asking {
        asked.output().expect(0);
    }
}

/// Nobody can tell what it stands on; that is no reason to keep others from their own disks.
#[test]
fn a_vm_with_a_disk_starts_beside_one_whose_disk_hangs() {
    let sandbox = two_vms();
    Guest::tiny("beside")
        .line("disks: {root: {path: ./beside.qcow2, size: 1M, interface: ide}}")
        .add(&sandbox);
    let Some(mut disk) = HungDisk::over(sandbox.home().join("net")) else {
        return;
    };
    let starting = sandbox.spawn(&["start", "beside", "--deadline", "20s"]);
    disk.asked_by(1);
    starting.output().expect(0);
    let log = fs::read_to_string(sandbox.data_dir().join("supervisor.log")).unwrap();
    assert!(log.contains("its disks do not answer"), "{log}");
}
