//! A small file system that a test can fill.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use maqet_tests::leftovers;
use rustix::process::geteuid;

use crate::scene::say;

/// A small file system of its own; taken away when dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Makes the directory and mounts it; `None` where this user may not mount.
    pub(crate) fn mount(path: PathBuf, mebibytes: u32) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let mut mount = Command::new("mount");
        let options = format!("size={mebibytes}m,mode=0700");
        mount.args(["-t", "tmpfs", "-o", &options, "maqet-test"]);
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
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [65536, 4096, 1] {
            fill(&mut file, size);
        }
        path
    }

    /// Writes until only this many bytes are left.
    pub(crate) fn leave(&self, bytes: u64) {
        let file = File::options().write(true).open(self.fill()).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(bytes)).unwrap();
    }

    /// Takes away what [`Self::fill`] wrote.
    pub(crate) fn free(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
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
        leftovers::unmount(&self.path);
    }
}
