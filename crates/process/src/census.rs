//! A look at all processes of this user, as `/proc` shows them. Only for telling people; nothing is signalled by what
//! is found here, because a number in a list is no identity.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use rustix::param::clock_ticks_per_second;
use rustix::process::geteuid;

use crate::error::ProcessError;
use crate::procfs;

/// One process, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// Its number then.
    pub pid: i32,
    /// Its command line, word by word; words that are not UTF-8 are shown with replacement characters.
    pub words: Vec<String>,
    /// Where its standard output goes, when that has a path and we may look.
    pub output: Option<PathBuf>,
}

/// Every process of this user that has a command line; kernel threads and zombies have none. A process that ends
/// meanwhile may be missing. In no order.
///
/// # Errors
/// [`ProcessError::File`] without a readable `/proc`.
pub fn own() -> Result<Vec<Glimpse>, ProcessError> {
    let proc = Path::new("/proc");
    let entries = fs::read_dir(proc).map_err(ProcessError::file("read", proc))?;
    let uid = geteuid().as_raw();
    let numbers = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        entry
            .metadata()
            .is_ok_and(|about| about.uid() == uid)
            .then_some(pid)
    });
    Ok(numbers.filter_map(glimpse).collect())
}

fn glimpse(pid: i32) -> Option<Glimpse> {
    let line = procfs::command_line(pid).ok().filter(|line| !line.is_empty())?;
    let text = String::from_utf8_lossy(&line);
    let words = text
        .trim_end_matches('\0')
        .split('\0')
        .map(str::to_owned)
        .collect();
    let output = fs::read_link(format!("/proc/{pid}/fd/1")).ok();
    Some(Glimpse { pid, words, output })
}

/// Where the descriptors of the process that has this number lead: paths, `socket:[INODE]` and the like.
///
/// # Errors
/// `NotFound` when there is none, `PermissionDenied` for another user's, and whatever else `/proc` answers.
pub fn descriptors(pid: i32) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    // One that is closed meanwhile is not open.
    Ok(entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect())
}

/// How long ago the process that has this number was started.
///
/// # Errors
/// `NotFound` when there is none, and whatever else `/proc` answers.
pub fn age(pid: i32) -> io::Result<Duration> {
    let stat = procfs::stat(pid).map_err(io::Error::other)?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds: f64 = uptime
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let started =
        Duration::from_millis(stat.start_ticks.saturating_mul(1000) / clock_ticks_per_second().max(1));
    let up = Duration::try_from_secs_f64(seconds).map_err(io::Error::other)?;
    Ok(up.saturating_sub(started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_them_and_not_older_than_an_hour() {
        let own_pid = i32::try_from(std::process::id()).unwrap();
        let all = own().unwrap();
        let me = all.iter().find(|glimpse| glimpse.pid == own_pid).unwrap();
        let program = std::env::args().next().unwrap();
        assert_eq!(me.words.first(), Some(&program));
        assert!(age(own_pid).unwrap() < Duration::from_hours(1));
    }

    #[test]
    fn the_output_of_a_child_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let output = fs::File::create(&path).unwrap();
        let mut child = std::process::Command::new("tee")
            .arg("/dev/stderr")
            .stdin(std::process::Stdio::piped())
            .stdout(output)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // What comes back says that it has got its image.
        io::Write::write_all(child.stdin.as_mut().unwrap(), b"there\n").unwrap();
        io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut [0; 6]).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let seen = glimpse(pid).unwrap();
        assert_eq!(
            (seen.words[0].as_str(), &seen.output),
            ("tee", &Some(path.clone()))
        );
        assert!(descriptors(pid).unwrap().contains(&path));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        assert!(age(-5).is_err());
    }
}
