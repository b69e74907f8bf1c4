//! Processes and mounts that belong to a directory.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use maqet_process::{ProcessHandle, Signal};

use crate::wait;

/// A process that names the directory in its command line or environment, works in it, or has a file of it open.
#[derive(Debug)]
pub struct Leftover {
    /// The process.
    pub handle: ProcessHandle,
    /// Its command line.
    pub line: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.handle.pid(), self.line)
    }
}

/// All processes that belong to `dir`, except this one.
pub fn find(dir: &Path) -> Vec<Leftover> {
    let own = i32::try_from(std::process::id()).unwrap();
    let entries = fs::read_dir("/proc").unwrap();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid| *pid != own)
        .filter_map(|pid| leftover(pid, dir))
        .collect()
}

/// The handle comes first and is looked at last, so that all that was read is of the process it refers to.
fn leftover(pid: i32, dir: &Path) -> Option<Leftover> {
    let handle = ProcessHandle::open(pid).ok()??;
    let place = PathBuf::from(format!("/proc/{pid}"));
    if !belongs(&place, dir) || handle.has_exited() {
        return None;
    }
    let line = fs::read(place.join("cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    Some(Leftover { handle, line })
}

/// Processes of other users, and those that are just ending, cannot be read; they are not ours.
fn belongs(place: &Path, dir: &Path) -> bool {
    let named = |file: &str| fs::read(place.join(file)).is_ok_and(|bytes| contains(&bytes, dir));
    let inside = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(dir));
    named("cmdline") || named("environ") || inside(&place.join("cwd")) || {
        let files = fs::read_dir(place.join("fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| inside(&file.path()))
    }
}

fn contains(bytes: &[u8], dir: &Path) -> bool {
    let dir = dir.as_os_str().as_bytes();
    bytes.windows(dir.len()).any(|window| window == dir)
}

/// Waits for all processes of `dir` to be gone; returns those that are still there after `grace`.
pub fn after(dir: &Path, grace: Duration) -> Vec<Leftover> {
    find(dir)
        .into_iter()
        .filter(|left| !wait::exited(&left.handle, grace))
        .collect()
}

/// Ends processes of `dir` for good, also those that `left` started meanwhile; returns those that even SIGKILL did
/// not end.
pub fn end(dir: &Path, mut left: Vec<Leftover>) -> Vec<Leftover> {
    while !left.is_empty() {
        for process in &left {
            // Gone already is as good as ended.
            drop(process.handle.signal(Signal::Kill));
        }
        left.retain(|process| !wait::exited(&process.handle, Duration::from_secs(10)));
        if !left.is_empty() {
            return left;
        }
        left = find(dir);
    }
    left
}

/// Takes away what is mounted at `dir` or below: a directory with a mount in it cannot be deleted.
pub fn unmount(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for place in places.map(Path::new).filter(|place| place.starts_with(dir)) {
        let unmounted = Command::new("umount").arg("-l").arg(place).output().unwrap();
        let done = unmounted.status.success() || std::thread::panicking();
        assert!(done, "{}: {unmounted:?}", place.display());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::{after, end, find};
    use crate::program::Running;

    #[test]
    fn a_process_is_found_by_each_of_its_ties_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let cat = || Command::new("cat");
        let mut by_environment = cat();
        by_environment.env("HOME", path.join("home"));
        let mut by_place = cat();
        by_place.current_dir(path);
        let mut by_line = Command::new("tail");
        by_line.arg("-f").arg(path.join("nothing")).arg("/dev/null");
        let running: Vec<Running> = [by_environment, by_place, by_line]
            .into_iter()
            .map(Running::start)
            .collect();
        let _stranger = Running::start(cat());
        assert_eq!(find(path).len(), 3);
        let left = after(path, Duration::from_millis(5));
        assert_eq!(left.len(), 3);
        assert!(end(path, left).is_empty());
        assert!(find(path).is_empty());
        assert!(
            running
                .into_iter()
                .all(|running| running.output().code == 128 + 9)
        );
    }
}
