//! A fail point at which a test holds whoever passes; see `maqet_process::point`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use maqet_process::point::Point;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::sandbox::Sandbox;
use crate::wait::{self, PATIENCE};

/// The next process that passes the point waits there until this is dropped.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    /// Open while somebody is held.
    end: Option<File>,
}

impl Held {
    /// Has the next process held that passes the point.
    pub fn at(sandbox: &Sandbox, point: Point) -> Self {
        let directory = sandbox.points();
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(point.name());
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        Self { path, end: None }
    }

    /// Waits until somebody is held. Whoever comes later passes.
    #[track_caller]
    pub fn reached(&mut self) {
        let end = wait::until("the point is reached", PATIENCE, || self.look());
        self.end = Some(end);
        fs::remove_file(&self.path).unwrap();
    }

    /// Lets go of whoever is held, who then panics.
    pub fn panic(mut self) {
        self.end.take().unwrap().write_all(b"p").unwrap();
    }

    /// Nobody opens a FIFO for reading but a process that is about to be held.
    fn look(&self) -> std::io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        options.open(&self.path)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.end.is_none() {
            // Somebody may come just now, and would wait for ever.
            let late = self.look();
            drop((fs::remove_file(&self.path), late));
        }
    }
}
